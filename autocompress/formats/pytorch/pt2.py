"""Exported programs (`.pt2`): packed weights, and torch's operators that restore and use them, in one archive."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from autocompress.core.layer import Layer, Part
from autocompress.core.plan import Step
from autocompress.errors import TrialError, reason_of
from autocompress.formats.base import Format, WritableNetwork, Written
from autocompress.formats.pytorch.archive import archive_of, require_plain
from autocompress.formats.pytorch.exported import (
    Example,
    exported,
    input_ranges,
    receipts_of,
    rounding,
    with_stored_weights,
)
from autocompress.formats.pytorch.graph import graph_of
from autocompress.formats.pytorch.runtime import TorchRuntime
from autocompress.formats.pytorch.size import pt2_bytes


class Pt2Format(Format):
    """Archives of `torch.export`, which any torch loads without this package. Each run restores the weights anew."""

    name, suffix, runtime, converter = "pt2", ".pt2", "torch.export", "torch.export.save"
    packages = ("torch",)
    runs_integers_fast = False

    def legal(self, step: Step, layer: Layer) -> str:
        """Every width, grid and pattern has its operators; integer activations are rounded floats."""
        return ""

    def size(self, parts: Sequence[Part], skeleton_bytes: int = 0, absent: Sequence[Part] = ()) -> int:
        """Count the bytes of every tensor, of its entry in the archive, and of the operators that restore it."""
        return pt2_bytes(parts, skeleton_bytes)

    def prepare(self, network: nn.Module, example: Tensor | Mapping[str, Tensor]) -> Example:
        """Export the network once, to find what an archive cannot hold; each file is exported by itself."""
        graph_of(exported(network, example))
        return example

    def write(self, prepared: Example, network: WritableNetwork, threads: int = 1) -> Written:
        """Export the network with weights that are computed from what is stored of them."""
        ranges = input_ranges(network, prepared)
        model = with_stored_weights(network)
        with rounding(model, ranges):
            return Written(archive_of(exported(model, prepared)), receipts_of(ranges))

    def open(self, data: bytes, threads: int = 1) -> TorchRuntime:
        """Load an archive, if it holds nothing but tensors and operators."""
        program = _load(data)
        nodes = {node.name: node for node in program.graph.find_nodes(op="placeholder")}
        names = program.call_spec.in_spec.child(0).child(0).context
        dtypes = {str(name): nodes[node].meta["val"].dtype
                  for name, node in zip(names, program.graph_signature.user_inputs, strict=True)}
        return TorchRuntime(program.module(), dtypes, threads)

    def module(self, data: bytes) -> nn.Module:
        """The network as a module: `forward` takes a dict of inputs and returns a dict of outputs.

        Raises:
            TrialError: when the bytes are no such file.
        """
        return _load(data).module()

    def plain(self, network: nn.Module, example: Tensor | Mapping[str, Tensor]) -> bytes:
        """Export the untouched network, its norms and all."""
        return archive_of(exported(network, example))

    def snippet(self, file: str, inputs: Mapping[str, str], answers: Sequence[str]) -> str:
        """Load the archive by `torch.export.load`."""
        arguments = ", ".join(f'"{name}": torch.as_tensor({variable})' for name, variable in inputs.items())
        return (f'import torch\n\nnetwork = torch.export.load("{file}").module()\n'
                f"{', '.join(answers)}{',' if len(answers) == 1 else ''} = network({{{arguments}}}).values()")


def _load(data: bytes) -> ExportedProgram:
    require_plain(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.load(io.BytesIO(data))
    except Exception as error:  # torch raises many kinds
        raise TrialError(f"torch.export cannot load the file: {reason_of(error)}") from error


PT2 = Pt2Format()
