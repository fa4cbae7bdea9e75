"""Ranges of what a network computes, measured in torch on calibration data, many samples at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from autocompress.core.batch_sizes import EVERY_BYTES, rows_of
from autocompress.core.cancellation import checkpoint
from autocompress.errors import TrialError
from autocompress.formats.base import Arrays
from autocompress.formats.ranges import VALUES, Observed
from autocompress.formats.tflite.trace import Example, Traced, trace

MOST_ROWS = 64  # samples that are run at once, at most


def observe(network: nn.Module, example: Example, traced: Traced, names: Collection[str], inputs: Arrays,
            samples: bool) -> dict[str, Observed]:
    """Run a network on `inputs` and observe the values of the nodes `names` of its trace.

    Args:
        network: the module that was traced.
        example: what it was traced with.
        traced: its trace for one sample, whose nodes have the names.
        names: names of nodes.
        inputs: calibration data by name.
        samples: whether values are kept, or bounds alone.

    Raises:
        TrialError: where the network does something else with many samples than with one.
    """
    first = next(iter(inputs.values()))
    count = len(first)
    every = sum(node.meta["val"].nbytes for node in traced.nodes
                if node.op == "call_function" and isinstance(node.meta.get("val"), Tensor))
    rows = min(count, rows_of(every, MOST_ROWS, EVERY_BYTES))
    many = trace(network, example, rows)
    if [(node.name, node.target) for node in many.nodes] != [(node.name, node.target) for node in traced.nodes]:
        raise TrialError("the network must do the same with one sample as with many, but its operations differ")
    observed = {name: Observed() for name in names}
    drawn = VALUES * rows // count if samples else 0
    recorder = _Recorder(many, observed, drawn)
    for start in range(0, count, rows):
        checkpoint("ranges of activations", start, count)
        which = np.arange(start, start + rows) % count  # the last batch is filled up with the first samples
        recorder.see({name: values[which] for name, values in inputs.items()})
    return observed


class _Recorder(fx.Interpreter):
    """Runs the nodes of a trace one by one and shows the values that are wanted."""

    def __init__(self, traced: Traced, observed: Mapping[str, Observed], drawn: int) -> None:
        super().__init__(traced.program.graph_module)
        self._traced, self._observed, self._kept = traced, observed, drawn
        self._draw = np.random.default_rng(0)

    def see(self, batch: Arrays) -> None:
        """Run one batch."""
        constants = {name: torch.from_numpy(values) for name, values in self._traced.constants.items()}
        tensors = {node: torch.from_numpy(np.ascontiguousarray(batch[name]))
                   for node, name in self._traced.inputs.items()}
        names = [node.name for node in self._traced.nodes if node.op == "placeholder"]
        with torch.no_grad():
            self.run(*(tensors[name] if name in tensors else constants[name] for name in names))

    def run_node(self, n: fx.Node) -> Any:
        """The value of a node, shown on the way."""
        value = super().run_node(n)
        if n.name in self._observed and isinstance(value, Tensor):
            self._observed[n.name].see(value.float().numpy(), self._kept, self._draw)
        return value
