"""Files of compressed networks in one format: prepared once, written for each plan, checked against torch."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autocompress.backend.network.compressed import Compressed, step_of, weight_bits
from autocompress.backend.network.fold import fold_norms
from autocompress.core.batch_sizes import RANGE_BYTES, calibration_rows, rows_of
from autocompress.core.layer import LayerTable
from autocompress.core.plan import Plan
from autocompress.errors import InputError, TrialError
from autocompress.formats.base import INPUT, Arrays, Format, Runtime, WritableNetwork, Written
from autocompress.formats.running import largest_difference
from autocompress.study.kept_graphs import KeptGraphs
from autocompress.techniques import resolve
from autocompress.techniques.apply import Techniques
from autocompress.techniques.drop import DROP
from autocompress.techniques.quantize import range_method
from autocompress.techniques.table import TECHNIQUES
from autocompress.tensors.footprint import footprint
from autocompress.tensors.named import Inputs, NamedTensors, by_name, zeros

log = logging.getLogger(__name__)

# Most samples that activation ranges are measured on; fewer where inputs are large, see `core/batch_sizes.py`.
RANGE_SAMPLES = 256
# What the graph of the original is called where it is kept.
GRAPH = "graph"
PARITY_SAMPLES = 16
# Largest difference between a float file and torch, relative to the largest output; where a prepared graph was filled
# with other tensors, no more than this many times that of the original: sizes that were written into the graph may make
# it compute something else that is near.
PARITY_TOLERANCE = 1e-3
REFILLED_TOLERANCE, REFILLED_TIMES = 1e-4, 8.0


class FileWriter:
    """Writes the file of a compressed network and checks it against that network.

    To prepare a network may take seconds, so the original is prepared once. It serves all plans whose graphs differ
    only in tensors and factors; `prepared` is what the format made of it. A file is compared with its network on
    `parity_rows` samples; preparing the original took `export_seconds`.

    Args:
        model: the original in canonical form, in eval mode.
        table: facts about its layers; `FileWriter.table` is the same with what the format adds.
        calibration: normalised inputs `(N, …)`.
        file_format: the format of the files.
        threads: CPU threads for checks and for measuring ranges.
        techniques: by name, in the order of application.
        graphs: keeps what the format makes of the original.

    Raises:
        InputError: when the format cannot hold the network.
    """

    def __init__(self, model: nn.Module, table: LayerTable, calibration: Inputs, file_format: Format,
                 threads: int, techniques: Techniques = TECHNIQUES, graphs: KeptGraphs | None = None) -> None:
        self.techniques, self._graphs = techniques, graphs
        self._model, self._calibration, self.format, self.threads = model, calibration, file_format, threads
        self._shape = tuple(calibration.shape[1:])
        self.parity_rows = rows_of(footprint(model, calibration).live, PARITY_SAMPLES)
        original = WritableNetwork(fold_norms(Compressed(model, Plan()), table).model, resolve(table, Plan()))
        self._prepare(original)
        if refusal := self._other_sizes_refused():
            log.warning("sizes of inputs stay fixed in the file: %s", refusal)
            self.format = file_format = file_format.with_free_sizes(False)
            self._prepare(original)
        self._prepared_without = {frozenset[str](): self.prepared}
        self._refilled_tolerance = PARITY_TOLERANCE  # until the original is checked
        self.table = file_format.described(table, self.prepared, original)

    def _prepare(self, original: WritableNetwork) -> None:
        began = time.perf_counter()
        kept = None if self._graphs is None else self._graphs.get(GRAPH, self.format)
        if kept is not None and self._is_right(kept, original):
            return
        with self._exportable():
            self.prepared = self.format.prepare(original.model, self.example)
            self.export_seconds = time.perf_counter() - began
            self.original_file = self.format.write(self.prepared, original).data
        packed = None if self._graphs is None else self.format.packed(self.prepared)
        if self._graphs is not None and packed is not None:
            self._graphs.put(GRAPH, self.format, packed)

    def _is_right(self, kept: bytes, original: WritableNetwork) -> bool:
        """Take a graph that was kept, where its file still computes what the original does."""
        try:
            self.prepared = self.format.unpacked(kept)
            self.original_file = self.format.write(self.prepared, original).data
            self._check_parity(self._model, self.original_file, PARITY_TOLERANCE)
        except Exception as error:  # the user's network may fail at sizes that were left free: the new graph fixes them
            log.info("the graph that was kept of the original is made anew: %s", error)
            return False
        self.export_seconds = 0.0
        return True

    def _other_sizes_refused(self) -> str:
        """Why the network takes inputs of one size alone, though the format would leave it free; empty where it takes
        others, or where the format fixes it."""
        runtime = self.format.open(self.original_file, self.threads)
        free = runtime.free_axes
        runtime.close()
        if not any(free.values()):
            return ""
        try:
            with torch.no_grad():
                self._model(of_other_sizes(self._calibration[:2], free))
        except Exception as error:  # the user's code: anything can come
            return f"the network takes no other, {next(iter(str(error).splitlines()), type(error).__name__)}"
        return ""

    @property
    def example(self) -> Inputs:
        """Two samples of zeros, with which a network is traced: one is taken for a size that never changes."""
        both: Inputs = zeros(self._calibration, 2)
        return both

    def check_original(self) -> None:
        """InputError unless the original's file computes what the original computes."""
        with about_the_original(self.format.runtime):
            difference = self._check_parity(self._model, self.original_file, PARITY_TOLERANCE)
        self._refilled_tolerance = min(PARITY_TOLERANCE, max(REFILLED_TOLERANCE, REFILLED_TIMES * difference))

    def write(self, compressed: Compressed, restructure: Callable[[Plan], Compressed],
              mark: Callable[[WritableNetwork], WritableNetwork] = lambda network: network) -> Written:
        """The file of a compressed network, checked against it.

        `restructure` applies a plan's structural steps to the original. When a channel count is written into the graph
        elsewhere than in tensors, the network is prepared by itself. `mark` changes the levels of integer weights.
        TrialError when it cannot be written.
        """
        network = mark(self.writable(compressed))
        try:
            return self._checked(self.prepared_for(compressed.plan, restructure), network, self._refilled_tolerance)
        except TrialError as error:
            log.info("exporting afresh: %s", error)
            return self._checked(self.format.prepare(network.model, self.example), network, PARITY_TOLERANCE)

    def writable(self, compressed: Compressed) -> WritableNetwork:
        """A compressed network as the format is handed it: folded, with the width of every weight and activation."""
        folded = fold_norms(compressed, self.table)
        widths = weight_bits(compressed.model, compressed.plan)
        activations = {name: int(step_of(name, compressed.plan).args["activation_bits"])
                       for name, bits in widths.items() if bits <= 8}
        count = calibration_rows(self._shape, RANGE_SAMPLES, RANGE_BYTES)
        return WritableNetwork(
            folded.model, resolve(self.table, compressed.plan, self.techniques), folded.weights,
            frozenset(name for name, bits in widths.items() if bits == 16),
            {name: bits for name, bits in activations.items() if bits <= 16}, folded.masks,
            as_arrays(self._calibration[:count]), range_method(compressed.plan))

    def _checked(self, prepared: Any, network: WritableNetwork, tolerance: float) -> Written:
        """Write the network in float and compare it with torch, then write it as it is."""
        in_float = self.format.write(prepared, network.in_float, self.threads)
        self._check_parity(network.model, in_float.data, tolerance)
        if network.integers or network.halves or network.masks:
            return self.format.write(prepared, network, self.threads)
        return in_float

    def prepared_for(self, plan: Plan, restructure: Callable[[Plan], Compressed]) -> Any:
        """What the format made of the original without the blocks that `plan` drops: once for all plans that drop the
        same."""
        drops = tuple(plan.find(DROP.name).values())
        key = frozenset(step.site for step in drops)
        if key not in self._prepared_without:
            bare = fold_norms(restructure(Plan.of(drops)), self.table).model
            self._prepared_without[key] = self.format.prepare(bare, self.example)
        return self._prepared_without[key]

    def _check_parity(self, model: nn.Module, file: bytes, tolerance: float) -> float:
        """The difference between the float file and the network. TrialError where that is more than `tolerance`."""
        inputs = self._calibration[:self.parity_rows]
        with torch.no_grad():
            expected = {name: tensor.numpy() for name, tensor in by_name(model(inputs)).items()}
        if not all(np.isfinite(values).all() for values in expected.values()):
            raise TrialError("nan: the network puts out values that are not finite")
        first = {name: values[:1] for name, values in expected.items()}
        runtime = self.format.open(file, self.threads)
        outputs, alone = (runtime.run(as_arrays(batch)) for batch in (inputs, inputs[:1]))
        if any(runtime.free_axes.values()):
            _check_other_sizes(model, runtime, inputs[:2], tolerance)
        runtime.close()
        if (_shapes(outputs), _shapes(alone)) != (_shapes(expected), _shapes(first)):
            raise TrialError(f"the exported graph must put out {_shapes(expected)}, and {_shapes(first)} of one "
                             f"sample, but puts out {_shapes(outputs)} and {_shapes(alone)}")
        error = max(largest_difference(outputs, expected), largest_difference(alone, first))
        if not error <= tolerance:
            raise TrialError(f"the exported graph must compute what the network computes (to {tolerance:g} "
                             f"relative), but differs by {error:.2g}")
        return error

    @contextmanager
    def _exportable(self) -> Iterator[None]:
        """What the format cannot hold is what the user gave."""
        try:
            yield
        except TrialError as error:
            raise InputError(f"the network must be exportable to {self.format.name}, for any number of samples, but "
                             f"{error}. Replace that operation in its forward, or choose another format") from error


def _check_other_sizes(model: nn.Module, runtime: Runtime, inputs: Inputs, tolerance: float) -> None:
    """TrialError unless the file computes what the network computes for inputs of other sizes, where it takes
    them."""
    changed = of_other_sizes(inputs, runtime.free_axes)
    with torch.no_grad():
        expected = {name: tensor.numpy() for name, tensor in by_name(model(changed)).items()}
    outputs = runtime.run(as_arrays(changed))
    if not largest_difference(outputs, expected) <= tolerance:
        sizes = ", ".join(str(tuple(values.shape[1:])) for values in as_arrays(changed).values())
        raise TrialError(f"the exported graph must compute what the network computes for other sizes too, but does "
                         f"not for {sizes}, where it puts out {_shapes(outputs)} for {_shapes(expected)}")


def of_other_sizes(inputs: Inputs, free: Mapping[str, tuple[int, ...]]) -> Inputs:
    """Inputs repeated to 32 more along free axes of maps, which keeps what strides divide, and cut to half the length
    along those of sequences, whose positions may be numbered in a table."""
    def changed(name: str, tensor: Tensor) -> Tensor:
        for axis in free.get(name, ()):
            size = tensor.shape[axis]
            rows = torch.arange(size + 32) % size if tensor.dim() > 3 else torch.arange((size + 1) // 2)
            tensor = tensor.index_select(axis, rows)
        return tensor

    if isinstance(inputs, Tensor):
        return changed(INPUT, inputs)
    resized: Inputs = NamedTensors({name: changed(name, tensor) for name, tensor in inputs.items()})
    return resized


def _shapes(outputs: Mapping[str, np.ndarray]) -> str:
    """Shapes of outputs, by name where there are several, for a message."""
    shapes = {name: values.shape for name, values in outputs.items()}
    return str(shapes if len(shapes) != 1 else next(iter(shapes.values())))


def as_arrays(inputs: Inputs) -> Arrays:
    """Inputs of a network as a runtime takes them: by name."""
    named = {INPUT: inputs} if isinstance(inputs, Tensor) else dict(inputs.items())
    return {name: tensor.numpy() for name, tensor in named.items()}


@contextmanager
def about_the_original(runtime: str) -> Iterator[None]:
    """A TrialError about the original is an InputError: what fails is what the user gave."""
    try:
        yield
    except TrialError as error:
        raise InputError(f"the original must compute the same in {runtime} as in torch, and finite scores, but "
                         f"{error}. Look for randomness in its forward that eval() leaves on, for operations that "
                         "change its input in place, and for NaN or infinite values in its weights or in the data"
                         ) from error
