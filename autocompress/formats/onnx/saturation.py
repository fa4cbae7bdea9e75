"""Static check of an ONNX file: no integer kernel can saturate, so that it answers the same on every CPU.

On x86 without dot-product instructions (VNNI), ONNX Runtime multiplies 8-bit activations by 8-bit weights with
`vpmaddubsw`, which adds two neighbouring products in 16 bits and saturates: 255 * (|a| + |b|) must stay below 2**15.
Which weights are neighbours depends on the kernel, its packing and the layout of the activations. So the check takes
the two largest weights of one sign in each output channel: no pairing is worse. Unsigned weights run in kernels that
widen them first, and cannot saturate.

Weights that the file stores packed are what its constant part computes: that part is run, without optimisations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from autocompress.errors import AutocompressError
from autocompress.formats.onnx.activations import MOVES, WEIGHTED
from autocompress.formats.onnx.runtime import Runtime

# Greatest |a| + |b| of two weights of one sign whose products with 8-bit activations fit 16 bits together: 128.
LARGEST_PAIR = (2**15 - 1) // 255
# Operators that compute in integers, and which of their inputs is the weight.
INTEGER_WEIGHT = {"QLinearConv": 3, "QLinearMatMul": 3, "ConvInteger": 1, "MatMulInteger": 1, "QGemm": 3,
                  "MatMulIntegerToFloat": 1, "DynamicQuantizeMatMul": 1, "QAttention": 1}
# Operators that the runtime replaces by those where their inputs are dequantised.
FLOAT_WEIGHT = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}
SATURATES = "may answer differently on CPUs without dot-product instructions"


@dataclass(frozen=True)
class PairBound:
    """`largest`: greatest sum of two weights of one sign, in magnitude, over the output channels of all `layers` with
    integer weights; 0 where there are none."""

    largest: int
    layers: int


class _Graph:
    """An ONNX graph with its constant tensors by name and, of each tensor, the node that makes it."""

    def __init__(self, data: bytes) -> None:
        self.model = onnx.load_model_from_string(data)
        graph = self.model.graph
        self.producer = {name: node for node in graph.node for name in node.output}
        self.stored = {initializer.name: initializer for initializer in graph.initializer}
        self.constant = set(self.stored)
        for node in graph.node:
            if node.op_type == "Constant" or (node.input and all(name in self.constant or not name
                                                                 for name in node.input)):
                self.constant.update(node.output)

    def values(self, names: set[str]) -> dict[str, np.ndarray]:
        """The constant tensors `names`; what the file computes is computed."""
        tensors = {name: numpy_helper.to_array(self.stored[name]) for name in names & set(self.stored)}
        computed = sorted(names - set(self.stored))
        if computed:
            head = onnx.ModelProto()
            head.CopyFrom(self.model)
            del head.graph.node[:], head.graph.output[:], head.graph.input[:], head.graph.value_info[:]
            head.graph.node.extend(self._ancestors(computed))
            needed = {name for node in head.graph.node for name in node.input}
            del head.graph.initializer[:]
            head.graph.initializer.extend(value for name, value in self.stored.items() if name in needed)
            head.graph.output.extend(onnx.ValueInfoProto(name=name) for name in computed)
            tensors |= dict(zip(computed, Runtime(head.SerializeToString(), literal=True).constants(), strict=True))
        return tensors

    def _ancestors(self, names: list[str]) -> list[onnx.NodeProto]:
        needed = set(names)
        ancestors = []
        for node in reversed(self.model.graph.node):
            if needed & set(node.output):
                ancestors.append(node)
                needed.update(node.input)
        return ancestors[::-1]

    def dequantised(self, name: str) -> onnx.NodeProto | None:
        """The node that dequantises a tensor, before or behind operators that only move values; None without one."""
        node = self.producer.get(name)
        while node is not None and node.op_type in MOVES:
            moved = [self.producer.get(value) for value in node.input if value not in self.constant]
            node = next((maker for maker in moved if maker is not None), None)
        return node if node is not None and node.op_type == "DequantizeLinear" else None


def check_saturation(data: bytes) -> PairBound:
    """The bound that holds for the ONNX file `data`.

    AutocompressError, naming the weight and the sum, where two weights of an output channel can saturate, or where
    nothing in the file says which integers the runtime will compute with.
    """
    graph = _Graph(data)
    weights = dict(_integer_weights(graph))
    values = graph.values({source for source, _ in weights.values()})
    largest = 0
    for name, (source, axis) in weights.items():
        if values[source].dtype == np.int8:
            pair = largest_pair(values[source], axis)
            if pair > LARGEST_PAIR:
                raise AutocompressError(
                    f"the file {SATURATES}: two weights of an output channel of {name} must not sum to more than "
                    f"{LARGEST_PAIR} in magnitude, but sum to {pair}. Export it again with this version")
            largest = max(largest, pair)
    return PairBound(largest, len(weights))


def largest_pair(levels: np.ndarray, axis: int) -> int:
    """Greatest magnitude of the sum of any two weights of one sign in one channel along `axis` of int8 `levels`."""
    if not levels.size:
        return 0
    rows = np.moveaxis(levels.astype(np.int32), axis, 0).reshape(levels.shape[axis], -1)
    rows = np.pad(rows, ((0, 0), (0, 2)))  # a kernel may pad a channel with zeros
    top, bottom = -np.partition(-rows, 1, axis=1)[:, :2], np.partition(rows, 1, axis=1)[:, :2]
    return int(max(np.maximum(top, 0).sum(1).max(), -np.minimum(bottom, 0).sum(1).min()))


def _integer_weights(graph: _Graph) -> Iterator[tuple[str, tuple[str, int]]]:
    """Name of the weight of every layer that may run in integers → tensor with its integers, and output axis."""
    for node in graph.model.graph.node:
        if node.op_type in INTEGER_WEIGHT:
            weight = node.input[INTEGER_WEIGHT[node.op_type]]
            if weight in graph.constant:
                yield weight, (weight, _output_axis(node))
            else:
                _refuse_signed(graph, weight, node)
        elif node.op_type in FLOAT_WEIGHT:
            yield from _behind_dequantised(graph, node)


def _behind_dequantised(graph: _Graph, node: onnx.NodeProto) -> Iterator[tuple[str, tuple[str, int]]]:
    data, weight = node.input[0], node.input[FLOAT_WEIGHT[node.op_type]]
    if data in graph.constant:  # a product with the weight on the left
        data, weight = weight, data
    scaling = graph.producer.get(weight)
    if weight not in graph.constant:
        _refuse_signed(graph, weight, node)
    elif scaling is not None and scaling.op_type == "DequantizeLinear":
        yield weight, (scaling.input[0], _output_axis(node, left=weight == node.input[0]))
    elif node.op_type in WEIGHTED and graph.dequantised(data) is not None:
        raise AutocompressError(f"the file {SATURATES}: {weight} is stored in float between quantised activations, "
                                "where ONNX Runtime rounds it to 8 bits by itself. Export it again with this version")


def _refuse_signed(graph: _Graph, name: str, node: onnx.NodeProto) -> None:
    """AutocompressError where the second operand of a product is computed as signed 8-bit integers: any may occur."""
    scaling = graph.dequantised(name)
    zero = scaling.input[2] if scaling is not None and len(scaling.input) > 2 else ""
    signed = scaling is not None and (not zero or graph.stored[zero].data_type == TensorProto.INT8)
    if signed or (scaling is None and node.op_type in INTEGER_WEIGHT):
        raise AutocompressError(f"the file {SATURATES}: the second operand of a {node.op_type}, {name}, must be "
                                "unsigned, but is signed and may take any value")


def _output_axis(node: onnx.NodeProto, left: bool = False) -> int:
    """The axis of the weight that counts output channels."""
    flags: Mapping[str, int] = {a.name: helper.get_attribute_value(a) for a in node.attribute
                                if a.name in ("transA", "transB")}
    if node.op_type in ("Gemm", "QGemm"):
        return 0 if flags.get("transB", 0) else -1
    if node.op_type == "ConvTranspose":
        return 1
    if "Conv" in node.op_type:
        return 0
    return -2 if left else -1
