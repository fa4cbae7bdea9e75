"""A compressed network as a program of torch's operators, whose inputs and outputs have names."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from autocompress.core.batch_sizes import EVERY_BYTES, rows_of
from autocompress.core.cancellation import checkpoint
from autocompress.core.plan import Receipt
from autocompress.formats.base import INPUT, WritableNetwork
from autocompress.formats.onnx.torch_onnx import exporting
from autocompress.formats.pytorch.stored import StoredWeight, store, stored_weights
from autocompress.formats.ranges import VALUES, Observed, Range, choose_range
from autocompress.tensors.footprint import footprint
from autocompress.tensors.named import NamedTensors, flat_outputs

Example = Tensor | Mapping[str, Tensor]
MOST_ROWS = 64  # samples that are run at once, at most
# Where the network stands in the program: its tensors have names that begin so.
NETWORK = "network"


class ByName(nn.Module):
    """A network that takes its inputs by name and puts its outputs out by name."""

    def __init__(self, network: nn.Module, one: bool) -> None:
        super().__init__()
        self.network, self._one = network, one

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Run the network."""
        return flat_outputs(self.network(inputs[INPUT] if self._one else NamedTensors(inputs)))


def by_input(example: Example) -> dict[str, Tensor]:
    """What a network is called with, by name of the input."""
    return {INPUT: example} if isinstance(example, Tensor) else dict(example.items())


def exported(model: nn.Module, example: Example) -> ExportedProgram:
    """Export a network for any number of samples, without what torch notes about where its operators came from.

    Raises:
        TrialError: when torch cannot export it.
    """
    named = by_input(example)
    batch = torch.export.Dim("batch")
    with exporting():
        program = torch.export.export(ByName(model, isinstance(example, Tensor)), (named,),
                                      dynamic_shapes=({name: {0: batch} for name in named},))
    program._guards_code = []  # Python, of which files hold none
    program.example_inputs = None
    for node in program.graph.nodes:
        node.meta = {key: value for key, value in node.meta.items() if key == "val"}
    return program


def with_stored_weights(network: WritableNetwork) -> nn.Module:
    """A copy of the network that computes its weights from what is stored of them."""
    model = copy.deepcopy(network.model)
    for name, (facts, tensors) in stored_weights(network).items():
        store(model.get_submodule(name), StoredWeight(facts, tensors))
    return model


def input_ranges(network: WritableNetwork, example: Example) -> dict[str, Range]:
    """Ranges of what the modules with integer activations read, chosen on calibration inputs, by module name."""
    observed = {name: Observed() for name in sorted(network.activation_bits)}
    if not observed:
        return {}
    first = next(iter(network.calibration.values()))
    sample: Any = {name: torch.from_numpy(values[:1]) for name, values in network.calibration.items()}
    sample = sample[INPUT] if isinstance(example, Tensor) else NamedTensors(sample)
    rows = rows_of(footprint(network.model, sample).every, MOST_ROWS, EVERY_BYTES)
    draw = np.random.default_rng(0)
    kept = 0 if network.range_method == "minmax" else max(1, VALUES * rows // len(first))

    def watch(of: Observed) -> Callable[..., None]:
        return lambda _, args: of.see(args[0].numpy(), kept, draw)

    handles = [network.model.get_submodule(name).register_forward_pre_hook(watch(of))
               for name, of in observed.items()]
    try:
        for start in range(0, len(first), rows):
            checkpoint("ranges of activations", start, len(first))
            batch = {name: torch.from_numpy(values[start:start + rows])
                     for name, values in network.calibration.items()}
            with torch.no_grad():
                network.model(batch[INPUT] if isinstance(example, Tensor) else NamedTensors(batch))
    finally:
        for handle in handles:
            handle.remove()
    return {name: choose_range(of.sample, of.low, of.high, network.activation_bits[name], network.range_method)
            for name, of in observed.items()}


@contextmanager
def rounding(model: nn.Module, ranges: Mapping[str, Range]) -> Iterator[None]:
    """While this is open, modules round what they read to the integers of a range."""
    def rounded(to: Range) -> Callable[..., Any]:
        return lambda _, args: (_rounded(args[0], to), *args[1:])

    handles = [model.get_submodule(name).register_forward_pre_hook(rounded(to)) for name, to in ranges.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _rounded(values: Tensor, to: Range) -> Tensor:
    """Values on the integers of a range, in float."""
    codes = (torch.round(values / to.scale) + to.zero_point).clamp(0, 2**to.bits - 1)
    return (codes - to.zero_point) * to.scale


def receipts_of(ranges: Mapping[str, Range]) -> tuple[Receipt, ...]:
    """Receipts of the ranges of what modules read."""
    return tuple(Receipt(f"{name}:input", "activation-range", {"scale": to.scale, "zero_point": to.zero_point})
                 for name, to in ranges.items())
