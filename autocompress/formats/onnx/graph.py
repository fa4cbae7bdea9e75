"""A filled ONNX graph: the template's nodes with a candidate's tensors, still in float.

Layers become one node each, or one for each factor; every such node is remembered as a `Leaf`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from torch import Tensor, nn

from autocompress.errors import TrialError
from autocompress.formats.onnx.template import WEIGHT_INPUT, Template, state_arrays


@dataclass
class Leaf:
    """A node with a weight.

    `weight` is the initialiser's name, `axis` its output-channel axis, `at` its place among the node's inputs.
    `arranged`: the node only arranges the weight, and others may read it too, so that a replacement must take its name.
    """

    name: str
    node: onnx.NodeProto
    weight: str
    bias: str = ""
    axis: int = 0
    at: int = 1
    arranged: bool = False


@dataclass
class FloatGraph:
    """Nodes in order, initialisers by name, leaves by module name of the compressed network."""

    source: onnx.ModelProto
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    leaves: dict[str, Leaf] = field(default_factory=dict)

    def to_model(self, extra_outputs: list[str] | None = None) -> onnx.ModelProto:
        """Build a model proto; `extra_outputs` are intermediate tensors to put out beside the result."""
        model = onnx.ModelProto()
        model.CopyFrom(self.source)
        del model.graph.node[:]
        del model.graph.initializer[:]
        model.graph.node.extend(self.nodes)
        model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in self.tensors.items())
        named = {value.name for value in (*model.graph.output, *model.graph.input)}
        for name in extra_outputs or []:
            if name not in named:
                model.graph.output.append(onnx.ValueInfoProto(name=name))
        return model


def fill(template: Template, model: nn.Module) -> FloatGraph:
    """Put the tensors of `model` (norms folded) into the template.

    TrialError when the template has a slot for which the network has no tensor.
    """
    state = state_arrays(model)
    graph = FloatGraph(template.model)
    for initializer in template.model.graph.initializer:
        graph.tensors[initializer.name] = numpy_helper.to_array(initializer)
    nodes = template.model.graph.node
    anchored = {nodes[i].input[WEIGHT_INPUT[nodes[i].op_type]] for i in template.anchors}
    for name, slot in template.slots.items():
        if name not in anchored:
            value = _tensor(slot.key, state, model)
            graph.tensors[name] = swapped(value) if slot.transposed else value
    for index, original in enumerate(template.model.graph.node):
        node = onnx.NodeProto()
        node.CopyFrom(original)
        if index not in template.anchors:
            graph.nodes.append(node)
            for at, name in enumerate(node.input):
                if (layer := template.arranged.get(name)) is not None and layer not in graph.leaves:
                    axis = _axis(template.slots[name].transposed)
                    graph.leaves[layer] = Leaf(layer, node, name, "", axis, at, arranged=True)
            continue
        layer = template.anchors[index]
        at = WEIGHT_INPUT[node.op_type]
        slot = template.slots[node.input[at]]
        module = model.get_submodule(layer)
        if isinstance(module, nn.Sequential):
            _chain(graph, node, layer, module, slot.transposed)
        else:
            weight = state[slot.key]
            graph.tensors[node.input[at]] = swapped(weight) if slot.transposed else weight
            groups = getattr(module, "groups", 1)
            for attribute in node.attribute:
                if attribute.name == "group":
                    attribute.i = groups
            graph.nodes.append(node)
            bias = node.input[2] if len(node.input) > 2 else ""
            graph.leaves[layer] = Leaf(layer, node, node.input[at], bias, _axis(slot.transposed), at)
    return graph


def _axis(transposed: bool) -> int:
    """Return the output-channel axis: the first, but the second of a weight whose first two are swapped."""
    return 1 if transposed else 0


def swapped(weight: np.ndarray) -> np.ndarray:
    """Swap the first two axes of a weight."""
    return np.ascontiguousarray(weight.swapaxes(0, 1))


def _tensor(key: str, state: dict[str, np.ndarray], model: nn.Module) -> np.ndarray:
    if key in state:
        return state[key]
    owner, _, leaf = key.rpartition(".")
    module = model.get_submodule(owner)
    if isinstance(module, nn.Sequential) and f"{owner}.{len(module) - 1}.{leaf}" in state:
        return state[f"{owner}.{len(module) - 1}.{leaf}"]
    raise TrialError(f"the exported graph needs {key!r}, which the compressed network does not have")


def _chain(graph: FloatGraph, node: onnx.NodeProto, layer: str, factors: nn.Sequential, transposed: bool) -> None:
    """Add the nodes of a layer's factors in place of its node."""
    source, weight_name = node.input[0], node.input[1]
    for i, factor in enumerate(factors):
        assert isinstance(factor.weight, Tensor)
        last = i == len(factors) - 1
        name = f"{weight_name}_{i}"
        value: np.ndarray = factor.weight.detach().numpy()
        plain = isinstance(factor, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        flip = transposed and not plain
        inputs = [source, name]
        bias = ""
        if last and len(node.input) > 2:
            bias = node.input[2]
            inputs.append(bias)
        target = node.output[0] if last else f"{node.output[0]}_{i}"
        if isinstance(factor, nn.Linear):
            factor_node = _linear(node.op_type, inputs, target)
        else:
            op = "Conv" if plain else "ConvTranspose"
            factor_node = helper.make_node(op, inputs, [target], **_conv_attributes(factor))
        graph.tensors[name] = swapped(value) if flip else value
        graph.nodes.append(factor_node)
        graph.leaves[f"{layer}.{i}"] = Leaf(f"{layer}.{i}", factor_node, name, bias, _axis(flip))
        source = target


def _linear(op: str, inputs: list[str], target: str) -> onnx.NodeProto:
    if op == "Gemm":
        return helper.make_node("Gemm", inputs, [target], transB=1)
    return helper.make_node("MatMul", inputs, [target])


def _conv_attributes(conv: Any) -> dict[str, Any]:
    """Attributes of a Conv that differ from ONNX's defaults: each costs bytes."""
    attributes: dict[str, Any] = {}
    if any(p != 0 for p in conv.padding):
        attributes["pads"] = [*map(int, conv.padding)] * 2
    if any(s != 1 for s in conv.stride):
        attributes["strides"] = list(conv.stride)
    if any(d != 1 for d in conv.dilation):
        attributes["dilations"] = list(conv.dilation)
    if any(p != 0 for p in getattr(conv, "output_padding", ())):
        attributes["output_padding"] = list(conv.output_padding)
    if conv.groups != 1:
        attributes["group"] = conv.groups
    return attributes
