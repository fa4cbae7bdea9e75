"""Safetensors files: packed weights under the network's names, and the graph that makes a PyTorch module of them.

The header says of each stored weight what its tensors do not; the graph is plain data, compressed, in a tensor of its
own. Another network definition can read the tensors as well: `restored` makes the floats of a weight.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from autocompress.core.layer import Layer, Part
from autocompress.core.plan import Step
from autocompress.core.store import header_of
from autocompress.errors import TrialError, reason_of
from autocompress.formats.base import Format, WritableNetwork, Written
from autocompress.formats.pytorch.exported import Example, by_input, exported, input_ranges, receipts_of, rounding
from autocompress.formats.pytorch.graph import Graph, graph_of, module_of
from autocompress.formats.pytorch.runtime import TorchRuntime
from autocompress.formats.pytorch.size import safetensors_bytes
from autocompress.formats.pytorch.stored import PARTS, Facts, restored, stored_weights
from autocompress.tensors.named import by_name

GRAPH = "autocompress.graph"
# Bytes of an uncompressed graph at most.
MOST_GRAPH = 2**26
VERSION = "1"


class Header(msgspec.Struct, frozen=True):
    """What the file's header says: how each weight is stored, by its name, and the types of the inputs, by name."""

    version: str
    weights: dict[str, Facts]
    inputs: dict[str, str]


class SafetensorsFormat(Format):
    """Files of tensors, from which `autocompress.load_module` makes the network again in PyTorch."""

    name, suffix, runtime = "safetensors", ".safetensors", "PyTorch"
    packages = ("torch", "safetensors")
    runs_integers_fast = False

    def legal(self, step: Step, layer: Layer) -> str:
        """Every width, grid and pattern has its tensors; integer activations are rounded floats."""
        return ""

    def size(self, parts: Sequence[Part], skeleton_bytes: int = 0, absent: Sequence[Part] = ()) -> int:
        """Count the bytes of every tensor and of its entry in the header."""
        return safetensors_bytes(parts, skeleton_bytes)

    def prepare(self, network: nn.Module, example: Tensor | Mapping[str, Tensor]) -> Example:
        """Export the network once, to find what a graph cannot hold; each file has a graph of its own."""
        graph_of(exported(network, example))
        return example

    def write(self, prepared: Example, network: WritableNetwork, threads: int = 1) -> Written:
        """Export the network and put the packed weights in the places of its floats."""
        ranges = input_ranges(network, prepared)
        with rounding(network.model, ranges):
            graph, tensors = graph_of(exported(network.model, prepared))
        names = {tensor.data_ptr(): name for name, tensor in tensors.items()}
        facts = {}
        for module, (told, stored) in stored_weights(network).items():
            weight = network.model.get_submodule(module).weight
            assert isinstance(weight, Tensor)
            name = names.get(weight.data_ptr(), "")
            if not name:
                raise TrialError(f"the exported program does not read the weight of {module}")
            del tensors[name]
            facts[name] = told
            tensors |= {f"{name}.{key}": tensor for key, tensor in stored.items()}
        tensors[GRAPH] = torch.frombuffer(bytearray(zlib.compress(msgspec.json.encode(graph), 9)), dtype=torch.uint8)
        types = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in by_input(prepared).items()}
        header = {"autocompress": msgspec.json.encode(Header(VERSION, facts, types)).decode()}
        data = save({name: tensor.contiguous() for name, tensor in sorted(tensors.items())}, metadata=header)
        return Written(data, receipts_of(ranges))

    def open(self, data: bytes, threads: int = 1) -> TorchRuntime:
        """Rebuild the network, with the floats of its weights."""
        header, graph, tensors = _read(data)
        module = module_of(graph, tensors)
        dtypes = {name: getattr(torch, kind) for name, kind in header.inputs.items()}

        def call(arguments: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            return by_name(module(*(arguments[name] for name in graph.inputs)))

        return TorchRuntime(call, dtypes, threads)

    def module(self, data: bytes) -> nn.Module:
        """The network as a module of floats: `forward` takes its inputs in order.

        Raises:
            TrialError: when the bytes are no such file.
        """
        _, graph, tensors = _read(data)
        return module_of(graph, tensors)

    def snippet(self, file: str, inputs: Mapping[str, str], answers: Sequence[str]) -> str:
        """Rebuild the network and call it."""
        arguments = ", ".join(f"torch.as_tensor({variable})" for variable in inputs.values())
        several = len(answers) > 1
        return (f'import autocompress\nimport torch\n\nnetwork = autocompress.load_module(".")  # reads {file}\n'
                f"{', '.join(answers)} = network({arguments}){'.values()' if several else ''}")


def _read(data: bytes) -> tuple[Header, Graph, dict[str, Tensor]]:
    """Header, graph and tensors of a file, its weights in float. TrialError when the bytes are no such file."""
    try:
        tensors = load(data)
        header = msgspec.json.decode((header_of(data) or {}).get("autocompress", ""), type=Header)
        if header.version != VERSION:
            raise TrialError(f"the file must have version {VERSION}, but has {header.version}: update autocompress")
        packed, unpacker = tensors.pop(GRAPH).numpy().tobytes(), zlib.decompressobj()
        graph = msgspec.json.decode(unpacker.decompress(packed, MOST_GRAPH), type=Graph)
        for name, facts in header.weights.items():
            parts = {key: tensors.pop(f"{name}.{key}") for key in PARTS if f"{name}.{key}" in tensors}
            with torch.no_grad():
                tensors[name] = restored(facts, parts)
        if strange := [kind for kind in header.inputs.values() if not isinstance(getattr(torch, kind, None),
                                                                                 torch.dtype)]:
            raise ValueError(f"{strange[0]} is no type of tensors")
    except (SafetensorError, msgspec.MsgspecError, zlib.error, KeyError, ValueError, RuntimeError, IndexError) as error:
        raise TrialError(f"the bytes are no safetensors file of autocompress: {reason_of(error)}") from error
    return header, graph, tensors


SAFETENSORS = SafetensorsFormat()
