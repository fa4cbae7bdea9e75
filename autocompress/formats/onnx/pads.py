"""Padding in front of convolutions: a node of its own in the template, part of the convolution where that is as fast.

torch's exporter folds `F.pad` into the convolution behind it. A layer's factors then start without it, and where a map
is one column wide ONNX Runtime takes twice as long: its blocked kernels compute one output at a time as soon as a
convolution pads. Measured with 1,024 channels and a kernel of 64 by 1, AVX2, one thread: 60 ms folded, 30 ms padded
before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper
from torch import nn

# Negative zero, which ONNX Runtime does not take for the zero with which it folds a Pad into a convolution.
KEPT = np.array(-0.0, np.float32)


def unfold_pads(proto: onnx.ModelProto, layers: Mapping[str, nn.Module]) -> None:
    """Move what a convolution pads beyond its layer's padding into a Pad node. `layers`: modules by the name of the
    weight's initialiser."""
    shapes = {value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim]
              for value in (*proto.graph.value_info, *proto.graph.input)}
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        layer = layers.get(node.input[1]) if node.op_type == "Conv" else None
        extra = _beyond(node, layer)
        if extra is not None:
            nodes.append(_pad(proto, node, extra, _one_column(node, shapes.get(node.input[0], []))))
        nodes.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def fold_pads(nodes: list[onnx.NodeProto], tensors: dict[str, np.ndarray],
              convolutions: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Fold Pad nodes into `convolutions` and return the nodes that are left: integer kernels pad for nothing, and a
    node between them would end their chain. `tensors` lose what no node reads any more."""
    makers = {node.output[0]: node for node in nodes if node.op_type == "Pad"}
    for node in convolutions:
        pad = makers.get(node.input[0])
        if node.op_type != "Conv" or pad is None or len(pad.input) < 2 or pad.input[1] not in tensors:
            continue
        sizes, others = tensors[pad.input[1]].reshape(2, -1), [name for name in pad.input[2:] if name]
        zeros = _mode(pad) == "constant" and all(name in tensors and not tensors[name].any() for name in others[:1])
        if not zeros or len(others) > 1 or sizes[:, :2].any() or (sizes < 0).any():
            continue
        more = sizes[:, 2:].ravel().tolist()
        _set_pads(node, [a + b for a, b in zip(_pads(node, len(more) // 2), more, strict=True)])
        node.input[0] = pad.input[0]
    read = {name for node in nodes for name in node.input}
    left = [node for node in nodes if node.op_type != "Pad" or node.output[0] in read]
    read = {name for node in left for name in node.input}
    for node in nodes:
        for name in node.input if node.op_type == "Pad" else ():
            if name not in read:
                tensors.pop(name, None)
    return left


def _beyond(node: onnx.NodeProto, layer: nn.Module | None) -> list[int] | None:
    """Return the padding of a node beyond its layer's, before all axes and behind them; None where there is none."""
    if not isinstance(layer, nn.Conv1d | nn.Conv2d) or isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        return None
    extra = [a - b for a, b in zip(_pads(node, len(layer.padding)), (*layer.padding, *layer.padding), strict=True)]
    return extra if any(extra) and min(extra) >= 0 else None


def _pad(proto: onnx.ModelProto, node: onnx.NodeProto, extra: list[int], literal: bool) -> onnx.NodeProto:
    """Make a Pad before `node`, which then pads so much less; `literal`: the runtime must not fold it back."""
    rank = len(extra) // 2
    source, name = node.input[0], f"{node.output[0]}_padded"
    constants: dict[str, np.ndarray] = {f"{name}_by": np.array([0, 0, *extra[:rank], 0, 0, *extra[rank:]], np.int64)}
    if literal:
        constants[f"{name}_with"] = KEPT
    proto.graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in constants.items())
    _set_pads(node, [a - b for a, b in zip(_pads(node, rank), extra, strict=True)])
    node.input[0] = name
    return helper.make_node("Pad", [source, *constants], [name])


def _one_column(node: onnx.NodeProto, shape: list[int]) -> bool:
    kernel = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "kernel_shape"), [])
    return len(shape) == 4 and shape[-1] == 1 and kernel[-1:] == [1]


def _pads(node: onnx.NodeProto, rank: int) -> list[int]:
    return next((list(attribute.ints) for attribute in node.attribute if attribute.name == "pads"), [0] * 2 * rank)


def _set_pads(node: onnx.NodeProto, pads: list[int]) -> None:
    others = [attribute for attribute in node.attribute if attribute.name != "pads"]
    del node.attribute[:]
    node.attribute.extend(others)
    if any(pads):
        node.attribute.append(helper.make_attribute("pads", pads))


def _mode(node: onnx.NodeProto) -> str:
    return next((attribute.s.decode() for attribute in node.attribute if attribute.name == "mode"), "constant")
