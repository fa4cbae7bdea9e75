"""Integers in a traced network: 8-bit weights, and pairs of operators that round activations to 8 bits.

XNNPACK computes a layer in integers where it sees what torch's own quantiser leaves: an input behind a dequantisation,
a weight behind one, and a quantisation of the output, behind the activation function that the layer is fused with.
Source: executorch/backends/xnnpack/partition/config/gemm_configs.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from autocompress.errors import TrialError
from autocompress.formats.base import IntegerWeight, WritableNetwork
from autocompress.formats.ranges import Range
from autocompress.formats.tflite.trace import Traced

LAYERS = ("conv1d", "conv2d", "linear")
# Operators that a layer before them is fused with.
FUSED = ("relu", "relu_", "hardtanh", "hardtanh_", "relu6", "relu6_")
# Operators whose outputs are among the values of their input, so that they keep its integers.
SAME_VALUES = ("flatten", "view", "reshape", "unsqueeze", "squeeze", "permute", "transpose", "max_pool2d",
               "max_pool1d", "dropout", "contiguous", "clone")
LEAST, MOST = -128, 127


class Rounded:
    """Which nodes of a trace are rounded to integers, and with which weights.

    Args:
        traced: the network, exported for one sample.
        network: what the file is to hold; what its layers read and put out is rounded where their activations have 8
            bits.

    Raises:
        TrialError: where a weight that is to be stored as integers is read by anything but a layer.
    """

    def __init__(self, traced: Traced, network: WritableNetwork) -> None:
        self._network, self._inputs = network, [*traced.inputs]
        self.weights: dict[str, str] = {}  # the module, by the name of the node of its weight
        self._in_float = {*network.integers} - {name for name, bits in network.activation_bits.items() if bits == 8}
        self.ranges_of: dict[str, str] = {}  # whose range a rounded node has, by name
        self.first_read: dict[str, str] = {}  # the node that a module first reads, by its name
        for node in traced.nodes:
            module = traced.keys.get(node.name, "").removesuffix(".weight")
            if node.name in traced.keys and module in network.integers:
                self._add(node, module)
        if missing := sorted({*network.integers} - {*self.weights.values()}):
            raise TrialError(f"its files hold integers of layers that are called, but {missing[0]} is not")

    def _add(self, weight: fx.Node, module: str) -> None:
        self.weights[weight.name] = module
        for layer in weight.users:
            if packet(layer) not in LAYERS or layer.args[1] is not weight:
                raise TrialError(f"its files hold integers that a layer reads, but {module}.weight is read by "
                                 f"{packet(layer)}")
            if module in self._in_float:
                continue
            source = layer.args[0]
            assert isinstance(source, fx.Node)
            self.first_read.setdefault(module, source.name)
            self.ranges_of[source.name] = _origin(source).name
            end = _end(layer)
            self.ranges_of[end.name] = end.name

    def put_into(self, program: fx.GraphModule, ranges: Mapping[str, Range]) -> None:
        """Put integer weights and roundings into a module with the nodes of the trace.

        Args:
            program: the exported network as a module.
            ranges: integers of activations by the name of the node.
        """
        nodes = {node.name: node for node in program.graph.nodes}
        nodes |= dict(zip(self._inputs, program.graph.find_nodes(op="placeholder"), strict=True))
        read = {node.target: node for node in program.graph.nodes if node.op == "get_attr"}
        integer = {layer for module in self.weights.values() if module not in self._in_float
                   for layer in read[f"{module}.weight"].users}
        for number, module in enumerate(self.weights.values()):
            _store(program, read[f"{module}.weight"], self._network.integers[module], number)
        ends = {_end(layer) for layer in integer}
        for name, origin in self.ranges_of.items():
            node = nodes[name]
            readers = set(node.users) if node in ends else set(node.users) & integer
            _round(program, node, ranges[origin], readers)
        program.graph.lint()
        program.recompile()


def packet(node: fx.Node) -> str:
    """The name of the operator of a node, such as `conv2d`; empty for what is no operator of torch."""
    name = str(node.target)
    return name.removeprefix("aten.").partition(".")[0] if name.startswith("aten.") else ""


def _end(layer: fx.Node) -> fx.Node:
    """The node whose values a layer puts out in integers: the activation function that it is fused with, or itself."""
    only = next(iter(layer.users)) if len(layer.users) == 1 else layer
    return only if packet(only) in FUSED else layer


def _origin(node: fx.Node) -> fx.Node:
    """The node whose integers what reads `node` takes: the one in front of operators that keep values."""
    while packet(node) in SAME_VALUES and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def _store(program: fx.GraphModule, weight: fx.Node, integers: IntegerWeight, number: int) -> None:
    """Let the readers of a weight read levels times scales. Files keep the names of scales: numbers, not of layers."""
    zeros = torch.zeros(len(integers.scale), dtype=torch.int64)
    held: dict[str, Tensor] = {"levels": integers.levels.contiguous(), "scales": integers.scale.float(), "zeros": zeros}
    for name, tensor in held.items():
        program.register_buffer(f"{name}{number}", tensor)
    with program.graph.inserting_before(weight):
        constants = [program.graph.get_attr(f"{name}{number}") for name in held]
        restored = program.graph.call_function(
            _operator("dequantize_per_channel"), (*constants, 0, LEAST, MOST, torch.int8))
    weight.replace_all_uses_with(restored)
    program.graph.erase_node(weight)


def _round(program: fx.GraphModule, node: fx.Node, to: Range, readers: set[fx.Node]) -> None:
    """Let some readers of a node read its values rounded to the integers of a range, each through an operator of its
    own: XNNPACK takes that into the delegate of the reader."""
    arguments = to.scale, to.zero_point + LEAST, LEAST, MOST, torch.int8
    with program.graph.inserting_after(node):
        codes = program.graph.call_function(_operator("quantize_per_tensor"), (node, *arguments))
    for reader in [other for other in program.graph.nodes if other in readers]:
        with program.graph.inserting_before(reader):
            values = program.graph.call_function(_operator("dequantize_per_tensor"), (codes, *arguments))
        reader.replace_input_with(node, values)


def _operator(name: str) -> Any:
    import torch.ao.quantization.fx._decomposed  # registers the operators

    return getattr(torch.ops.quantized_decomposed, name).default
