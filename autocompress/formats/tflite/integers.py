"""From a float graph to integers: which operations compute in integers, and the scales of their tensors.

A layer that the plan quantises computes in integers of its width; so does every other operation that has an integer
kernel and reads integers alone, but for sums that floats read. Between integers and floats stand QUANTIZE and
DEQUANTIZE. Where all computes in integers, so are the inputs and outputs of the file.

Source: tensorflow.org/lite/performance/quantization_spec, for the scales that each operator wants.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from autocompress.formats.base import IntegerWeight, WritableNetwork
from autocompress.formats.ranges import Observed, choose_range
from autocompress.formats.tflite.graph import Graph, Operation, Tensor

FLOAT = 32
# Operators whose output has the scale of their inputs.
SAME_SCALE = ("RESHAPE", "TRANSPOSE", "MAX_POOL_2D", "AVERAGE_POOL_2D", "PAD", "PADV2", "CONCATENATION", "SLICE",
              "STRIDED_SLICE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "BROADCAST_TO", "RELU", "MAXIMUM",
              "MINIMUM", "DEPTH_TO_SPACE")
# Operators that stay in float where one of their readers is: a transformer's sums, which norms read.
SUMS = ("ADD", "SUB", "CONCATENATION")
# Operators whose output has a scale and a zero point that the kernel knows, by width.
FIXED = {("SOFTMAX", 8): (1 / 256, -128), ("LOGISTIC", 8): (1 / 256, -128), ("TANH", 8): (1 / 128, 0),
         ("LOG_SOFTMAX", 8): (16 / 256, 127), ("SOFTMAX", 16): (1 / 32768, 0), ("LOGISTIC", 16): (1 / 32768, 0),
         ("TANH", 16): (1 / 32768, 0)}
# Widths of the integer kernels of operators that are no layers.
WIDTHS = {
    **dict.fromkeys(("RESHAPE", "TRANSPOSE", "MAX_POOL_2D", "AVERAGE_POOL_2D", "PAD", "PADV2", "CONCATENATION", "SLICE",
                     "STRIDED_SLICE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "RELU", "ADD", "SUB", "MUL",
                     "MEAN", "SOFTMAX", "LOGISTIC", "TANH", "BATCH_MATMUL", "LEAKY_RELU", "MAXIMUM", "MINIMUM"),
                    (8, 16)),
    **dict.fromkeys(("RELU6", "HARD_SWISH", "LOG_SOFTMAX", "SUM", "GELU", "BROADCAST_TO"), (8,)),
}


@dataclass(frozen=True)
class Chosen:
    """The integers of a tensor: signed, of 8 or 16 bits."""

    scale: float
    zero_point: int
    bits: int


def widths(graph: Graph, network: WritableNetwork) -> list[int]:
    """The width of each operation in bits, 32 for float."""
    width_of: dict[int, int | None] = {id(tensor): None for tensor in graph.inputs.values()}
    result: list[int | None] = []
    for operation in graph.operations:
        result.append(_width(operation, network, width_of))
        width_of.update({id(tensor): result[-1] for tensor in operation.outputs})
    readers = graph.readers()
    index = {id(operation): number for number, operation in enumerate(graph.operations)}
    for number in reversed(range(len(result))):
        if result[number] is None:  # what stands before the first layer follows its readers
            after = {result[index[id(reader)]] for tensor in graph.operations[number].outputs
                     for reader in readers.get(id(tensor), [])}
            width = after.pop() if len(after) == 1 else FLOAT
            result[number] = width if width in WIDTHS.get(graph.operations[number].kind, ()) else FLOAT
        elif graph.operations[number].kind in SUMS and any(
                result[index[id(reader)]] == FLOAT for tensor in graph.operations[number].outputs
                for reader in readers.get(id(tensor), [])):
            result[number] = FLOAT
    return [FLOAT if width is None else width for width in result]


def _width(operation: Operation, network: WritableNetwork, width_of: Mapping[int, int | None]) -> int | None:
    """The width of an operation from those of what it reads; None where it reads inputs of the network alone."""
    if operation.layer:
        return network.activation_bits.get(operation.layer, FLOAT)
    legal = WIDTHS.get(operation.kind, ())
    output = operation.outputs[0]
    has_range = operation.kind in SAME_SCALE or output.node or output.bounds or (operation.kind, 8) in FIXED
    before = [width_of[id(tensor)] for tensor in operation.activations]
    if not legal or not has_range or FLOAT in before:
        return FLOAT
    decided = [width for width in before if width is not None]
    if not decided:
        return None
    return min(decided) if min(decided) in legal else FLOAT


class Quantizer:
    """Turns a float graph into one with integers, in place.

    Args:
        graph: the float graph.
        network: what the file is to hold.
        bias_scales: whether biases have their scales in the file, which follow from others: LiteRT's fast kernels ask
            for them.
    """

    def __init__(self, graph: Graph, network: WritableNetwork, bias_scales: bool = True) -> None:
        self.graph, self._network, self._bias_scales = graph, network, bias_scales
        self._width = {id(operation): width for operation, width in zip(graph.operations, widths(graph, network),
                                                                         strict=True)}
        self._of = {id(tensor): self._width[id(operation)] for operation in graph.operations
                    for tensor in operation.outputs}
        self._of |= {id(tensor): self._input_width(tensor) for tensor in graph.inputs.values()}
        self._converted: dict[tuple[int, int], Tensor] = {}
        self._convert()

    @property
    def observed_names(self) -> set[str]:
        """Names of the torch nodes whose ranges are needed."""
        return {tensor.node for operation in self.graph.operations for tensor in
                (*operation.activations, *operation.outputs) if self._of[id(tensor)] != FLOAT and tensor.node}

    def _input_width(self, tensor: Tensor) -> int:
        """Inputs are integers where all that reads them is."""
        after = {self._width[id(reader)] for reader in self.graph.readers().get(id(tensor), [])}
        return after.pop() if len(after) == 1 and tensor.dtype == "float32" else FLOAT

    # -- conversions -----------------------------------------------------------------------------------------------

    def _convert(self) -> None:
        """Put a conversion between operations of different widths, once for each tensor and width."""
        operations: list[Operation] = []
        for operation in self.graph.operations:
            width = self._width[id(operation)]
            for place, tensor in enumerate(operation.inputs):
                if tensor is None or tensor.data is not None or tensor.dtype != "float32" \
                        or self._of[id(tensor)] == width:
                    continue
                key = id(tensor), width
                if key not in self._converted:
                    copied = Tensor(tensor.shape, node=tensor.node, bounds=tensor.bounds)
                    self._of[id(copied)], self._converted[key] = width, copied
                    kind = "DEQUANTIZE" if width == FLOAT else "QUANTIZE"
                    added = Operation(kind, [tensor], [copied])
                    self._width[id(added)] = width
                    operations.append(added)
                operation.inputs[place] = self._converted[key]
            operations.append(operation)
        self.graph.operations = operations

    # -- scales ----------------------------------------------------------------------------------------------------

    def quantize(self, observed: Mapping[str, Observed]) -> dict[str, Chosen]:
        """Give every integer tensor its scale and type, constants included; the chosen inputs of layers, by module."""
        groups = self._groups()
        for operation in self.graph.operations:
            width = self._width[id(operation)]
            for tensor in (*operation.activations, *operation.outputs):
                if self._of[id(tensor)] != FLOAT and tensor.scale is None:
                    _put(tensor, self._chosen(groups[id(tensor)], observed))
            if width != FLOAT and not operation.layer:
                self._constants(operation, width)
        layers = {}
        integers = self._network.integers
        weights: dict[tuple[int, int], Tensor] = {}
        operations: list[Operation] = []
        for operation in self.graph.operations:
            if operation.layer and self._width[id(operation)] != FLOAT:
                source = operation.inputs[0]
                assert source is not None and source.scale is not None
                layers[operation.layer] = Chosen(float(source.scale[0]), source.zero_point,
                                                 self._width[id(operation)])
                _integer_layer(operation, integers[operation.layer], self._width[id(operation)], self._bias_scales)
            elif operation.layer:
                operations += self._stored(operation, weights)
            operations.append(operation)
        self.graph.operations = operations
        return layers

    def _groups(self) -> dict[int, list[Tensor]]:
        """Tensors that share one scale, by `id` of each."""
        groups: dict[int, list[Tensor]] = {}
        fixed: dict[int, tuple[float, int]] = {}
        for operation in self.graph.operations:
            width = self._width[id(operation)]
            every = [tensor for tensor in (*operation.activations, *operation.outputs)
                     if self._of[id(tensor)] != FLOAT]
            for tensor in every:
                groups.setdefault(id(tensor), [tensor])
            if (operation.kind, width) in FIXED:
                fixed[id(operation.outputs[0])] = FIXED[operation.kind, width]
            if operation.kind in SAME_SCALE and width != FLOAT:
                joined = list({id(tensor): tensor for one in every for tensor in groups[id(one)]}.values())
                groups.update({id(tensor): joined for tensor in joined})
        self._fixed = fixed
        return groups

    def _chosen(self, group: list[Tensor], observed: Mapping[str, Observed]) -> Chosen:
        """The integers of a group: those that its kernel knows, or those that cover what was seen of each."""
        bits = self._of[id(group[0])]
        fixed = [self._fixed[id(tensor)] for tensor in group if id(tensor) in self._fixed]
        if fixed:
            return Chosen(*fixed[0], bits)
        lows, highs, samples = [0.0], [0.0], []
        for tensor in group:
            if tensor.bounds is not None:
                lows.append(tensor.bounds[0])
                highs.append(tensor.bounds[1])
            elif tensor.node:
                seen = observed[tensor.node]
                lows.append(seen.low)
                highs.append(seen.high)
                samples.append(seen.sample)
        low, high = min(lows), max(highs)
        if bits == 16:
            return Chosen(max(-low, high, 1e-8) / 32767, 0, 16)
        span = choose_range(np.concatenate(samples or [np.zeros(0)]), low, high, 8, self._network.range_method)
        return Chosen(span.scale, span.zero_point - 128, 8)

    def _constants(self, operation: Operation, width: int) -> None:
        """Constant operands of an operation in integers: on the scale of the others where the operator wants one."""
        for place, tensor in enumerate(operation.inputs):
            if tensor is None or tensor.data is None or tensor.data.dtype != np.float32:
                continue
            if operation.kind in SAME_SCALE:
                shared = next(operation.activations)
                assert shared.scale is not None
                scaling = Chosen(float(shared.scale[0]), shared.zero_point, width)
            else:
                low, high = min(0.0, float(tensor.data.min())), max(0.0, float(tensor.data.max()))
                scaling = Chosen(max(-low, high, 1e-8) / 32767, 0, 16)
                if width == 8:
                    span = choose_range(np.zeros(0), low, high)
                    scaling = Chosen(span.scale, span.zero_point - 128, 8)
            top = 2 ** (width - 1)
            data = np.clip(np.rint(tensor.data.astype(np.float64) / scaling.scale) + scaling.zero_point, -top, top - 1)
            operation.inputs[place] = _put(Tensor(tensor.shape, data=data.astype(f"int{width}")), scaling)

    # -- layers with float activations ------------------------------------------------------------------------------

    def _stored(self, operation: Operation, weights: dict[tuple[int, int], Tensor]) -> list[Operation]:
        """A weight that is stored in fewer bits than the layer reads, and the DEQUANTIZE that widens it."""
        place = 0 if operation.kind == "GATHER" else 1
        weight = operation.inputs[place]
        assert weight is not None and weight.data is not None
        layer = operation.layer
        if layer not in self._network.integers and layer not in self._network.halves:
            return []
        key = id(weight), 0
        if key in weights:
            operation.inputs[place] = weights[key]
            return []
        if layer in self._network.halves:
            stored = Tensor(weight.shape, "float16", weight.data.astype(np.float16))
        else:
            stored = _integers(weight, self._network.integers[layer], None)
        restored = weights[key] = Tensor(weight.shape)
        operation.inputs[place] = restored
        return [Operation("DEQUANTIZE", [stored], [restored])]


def _put(tensor: Tensor, scaling: Chosen) -> Tensor:
    tensor.scale, tensor.zero_point = np.array([scaling.scale], np.float32), scaling.zero_point
    tensor.dtype = f"int{scaling.bits}"
    return tensor


def _integers(weight: Tensor, integers: IntegerWeight, floor: np.ndarray | None) -> Tensor:
    """A weight as the integers of the plan, with a scale for each output channel."""
    assert weight.arrange is not None
    levels = weight.arrange(integers.levels.numpy())
    scale = integers.scale.numpy().astype(np.float32)
    scale = np.maximum(scale, 1e-12 if floor is None else floor.astype(np.float32))
    return Tensor(weight.shape, "int8", levels.astype(np.int8), scale=scale, axis=weight.axis,
                  table=None if integers.bits == 8 else level_table(integers))


def level_table(integers: IntegerWeight) -> np.ndarray:
    """All levels of a weight of fewer than 8 bits, int8, ascending, `2**bits` of them at most."""
    if integers.table is not None:
        return np.unique(integers.table.numpy())
    top = 63 if integers.bits == 7 else 2**integers.bits - 1
    return np.arange(-top, top + 1, 1 if integers.bits == 7 else 2).astype(np.int8)


def _integer_layer(operation: Operation, integers: IntegerWeight, width: int, bias_scales: bool) -> None:
    """Weight and bias of a layer in integers: the bias counts products of the scales of input and weight."""
    source, weight, bias = operation.inputs[:3]
    assert source is not None and source.scale is not None and weight is not None
    assert bias is not None and bias.data is not None
    floor = np.maximum(np.abs(bias.data) / (float(source.scale[0]) * 2.0**30), 1e-12)  # the bias must fit into int32
    stored = _integers(weight, integers, floor)
    assert stored.scale is not None
    scale = source.scale.astype(np.float64) * stored.scale
    kind = "int32" if width == 8 else "int64"
    data = np.rint(bias.data.astype(np.float64) / scale).astype(kind)
    operation.inputs[1] = stored
    operation.inputs[2] = Tensor(bias.shape, kind, data, scale=scale.astype(np.float32) if bias_scales else None)
