"""Files of compressed networks: the original's exported graph, refilled for each plan and checked against torch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from autocompress.backend.network.compressed import Compressed, step_of, weight_bits
from autocompress.backend.network.fold import fold_norms
from autocompress.core.batch_sizes import EVERY_TENSOR_BYTES, RANGE_BYTES, calibration_rows, rows_at_once
from autocompress.core.layer import LayerTable
from autocompress.core.plan import Plan
from autocompress.errors import InputError, TrialError
from autocompress.formats.onnx.runtime import Runtime
from autocompress.formats.onnx.skeleton import as_exported
from autocompress.formats.onnx.template import Template, export_template
from autocompress.formats.onnx.writer import Built, build, float_bytes
from autocompress.techniques.quantize import range_method

log = logging.getLogger(__name__)

RANGE_SAMPLES = 256
"""Most samples that activation ranges are measured on; fewer where inputs are large, see `core/batch_sizes.py`."""
PARITY_SAMPLES = 16
PARITY_TOLERANCE = 1e-3
"""Largest difference between a float file and torch, relative to the largest output."""


class FileWriter:
    """Writes the file of a compressed network and checks it against that network.

    Exporting through torch takes seconds, so the original's graph is exported once as a template and refilled. It
    serves all plans whose graphs differ only in tensors and factors.

    Args:
        model: the original in canonical form, in eval mode.
        table: facts about its layers; `FileWriter.table` is the same with what the exported graph adds.
        calibration: normalised inputs `(N, …)`.
        dtype: of one input.
        threads: CPU threads for checks and for measuring ranges.

    Raises:
        InputError: when the network cannot be exported.
    """

    def __init__(self, model: nn.Module, table: LayerTable, calibration: Tensor, dtype: torch.dtype,
                 threads: int) -> None:
        self._model, self._calibration, self._dtype, self.threads = model, calibration, dtype, threads
        self._shape = tuple(calibration.shape[1:])
        folded = fold_norms(Compressed(model, Plan()), table).model
        with _exportable():
            self.template = export_template(folded, self._shape, dtype)
        self._templates = {frozenset[str](): self.template}
        self.original_file = float_bytes(self.template, folded)
        self.table = as_exported(table, self.template, folded)

    def check_original(self) -> None:
        """InputError unless the original's file computes what the original computes."""
        with about_the_original():
            self._check_parity(self._model, self.original_file, PARITY_TOLERANCE)

    def write(self, compressed: Compressed, restructure: Callable[[Plan], Compressed]) -> Built:
        """The file of a compressed network, checked against it.

        `restructure` applies a plan's structural steps to the original. When a channel count is written into the graph
        elsewhere than in tensors, the network is exported afresh. TrialError when it cannot be exported.
        """
        folded = fold_norms(compressed, self.table)
        widths = weight_bits(compressed.model, compressed.plan)
        method = range_method(compressed.plan)
        activations = {name: int(step_of(name, compressed.plan).args["activation_bits"])
                       for name, bits in widths.items() if bits <= 8}
        quantised = {name: bits for name, bits in activations.items() if bits <= 16}
        half = {name for name, bits in widths.items() if bits == 16}
        count = calibration_rows(self._shape, RANGE_SAMPLES, RANGE_BYTES)
        ranges = self._calibration[:count].numpy()

        def refill(template: Template) -> Built:
            self._check_parity(folded.model, float_bytes(template, folded.model), PARITY_TOLERANCE)
            return build(template, folded.model, folded.weights, half, quantised, ranges, self.threads, method,
                         folded.masks)

        try:
            return refill(self.template_of(compressed.plan, restructure))
        except TrialError as error:
            log.info("exporting afresh: %s", error)
            return refill(export_template(folded.model, self._shape, self._dtype))

    def template_of(self, plan: Plan, restructure: Callable[[Plan], Compressed]) -> Template:
        """The original's graph without the blocks that `plan` drops: one for all plans that drop the same."""
        drops = tuple(plan.find("drop").values())
        key = frozenset(step.site for step in drops)
        if key not in self._templates:
            bare = fold_norms(restructure(Plan.of(drops)), self.table).model
            self._templates[key] = export_template(bare, self._shape, self._dtype)
        return self._templates[key]

    def _check_parity(self, model: nn.Module, file: bytes, tolerance: float) -> None:
        """TrialError unless the float file computes what the network computes."""
        inputs = self._calibration[:rows_at_once(self._shape, PARITY_SAMPLES, EVERY_TENSOR_BYTES)]
        with torch.no_grad():
            expected = model(inputs).numpy()
        if not np.isfinite(expected).all():
            raise TrialError("nan: the network puts out values that are not finite")
        runtime = Runtime(file, self.threads)
        outputs, alone = runtime.run(inputs.numpy()), runtime.run(inputs[:1].numpy())
        if (outputs.shape, alone.shape) != (expected.shape, expected[:1].shape):
            raise TrialError(f"the exported graph must put out {expected.shape}, and {expected[:1].shape} of one "
                             f"sample, but puts out {outputs.shape} and {alone.shape}")
        error = max(np.abs(outputs - expected).max(), np.abs(alone - expected[:1]).max())
        error /= max(float(np.abs(expected).max()), 1e-6)
        if not error <= tolerance:
            raise TrialError(f"the exported graph must compute what the network computes (to {tolerance:g} "
                             f"relative), but differs by {error:.2g}")


@contextmanager
def _exportable() -> Iterator[None]:
    """What cannot be exported is what the user gave."""
    try:
        yield
    except TrialError as error:
        raise InputError(f"the network must be exportable to ONNX by torch, for any number of samples, but {error}. "
                         "Replace that operation in its forward") from error


@contextmanager
def about_the_original() -> Iterator[None]:
    """A TrialError about the original is an InputError: what fails is what the user gave."""
    try:
        yield
    except TrialError as error:
        raise InputError("the original must compute the same in ONNX Runtime as in torch, and finite scores, but "
                         f"{error}. Look for randomness in its forward that eval() leaves on, and for NaN or infinite "
                         "values in its weights or in the data") from error
