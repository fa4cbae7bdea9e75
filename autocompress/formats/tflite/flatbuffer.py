"""A graph as the bytes of a .tflite file.

The file is a FlatBuffer, in which a table may be referred to from many places: equal constants, vectors of zero points
and tables of options are stored once. Tensors have no names but the inputs and outputs.

Source: tensorflow/lite/schema/schema.fbs, whose generated classes are the package `tflite`.
"""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
import tflite

from autocompress.formats.tflite.graph import Graph, Operation, Tensor

SCHEMA_VERSION = 3
IDENTIFIER = b"TFL3"
ALIGNMENT = 16  # bytes to which constants are aligned, as runtimes that map the file want it
TYPES = {"float32": "FLOAT32", "float16": "FLOAT16", "int8": "INT8", "int16": "INT16", "int32": "INT32",
         "int64": "INT64", "int4": "INT4", "bool": "BOOL", "uint8": "UINT8"}
# Name of the options' table of each operator; those not named have none.
OPTIONS = {
    "CONV_2D": "Conv2DOptions", "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions", "ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions",
    "DIV": "DivOptions", "AVERAGE_POOL_2D": "Pool2DOptions", "MAX_POOL_2D": "Pool2DOptions", "MEAN": "ReducerOptions",
    "SUM": "ReducerOptions", "SOFTMAX": "SoftmaxOptions", "CONCATENATION": "ConcatenationOptions",
    "BATCH_MATMUL": "BatchMatMulOptions", "GATHER": "GatherOptions", "STRIDED_SLICE": "StridedSliceOptions",
    "RESIZE_BILINEAR": "ResizeBilinearOptions", "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
    "LEAKY_RELU": "LeakyReluOptions", "GELU": "GeluOptions", "TRANSPOSE_CONV": "TransposeConvOptions",
    "DEPTH_TO_SPACE": "DepthToSpaceOptions",
}
# Enumerations by the name of the option that takes them.
ENUMERATIONS = {"FusedActivationFunction": tflite.ActivationFunctionType, "Padding": tflite.Padding}


def file_of(graph: Graph) -> bytes:
    """Serialise a graph. Equal graphs give equal bytes."""
    return _Writer(graph).bytes()


class _Writer:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._builder = flatbuffers.Builder(4096)
        self._stored: dict[Any, int] = {}
        self._buffers: list[int] = []
        self._tensors: dict[int, int] = {}
        self._codes: dict[str, int] = {}

    def bytes(self) -> bytes:
        """The finished file. FlatBuffers are written back to front: what is referred to comes first."""
        builder, graph = self._builder, self._graph
        self._buffers.append(self._buffer(None))
        tensors = [self._tensor(tensor) for tensor in self._every_tensor()]
        operations = [self._operation(operation) for operation in graph.operations]
        inputs, outputs = (self._indices(ends.values()) for ends in (graph.inputs, graph.outputs))
        tensors_at, operators_at = self._offsets(tensors), self._offsets(operations)
        subgraph = self._table("SubGraph", Tensors=tensors_at, Inputs=inputs, Outputs=outputs, Operators=operators_at)
        subgraphs, buffers = self._offsets([subgraph]), self._offsets(self._buffers)
        codes = self._offsets([self._code(kind) for kind in self._codes])
        description = builder.CreateString(" ".join(["autocompress", *sorted(graph.channels_last)]))
        model = self._table("Model", Version=SCHEMA_VERSION, OperatorCodes=codes, Subgraphs=subgraphs,
                            Description=description, Buffers=buffers)
        builder.Finish(model, file_identifier=IDENTIFIER)
        return bytes(builder.Output())

    def _code(self, kind: str) -> int:
        number = getattr(tflite.BuiltinOperator, kind, tflite.BuiltinOperator.CUSTOM)
        custom = self._builder.CreateString(kind) if number == tflite.BuiltinOperator.CUSTOM else None
        return self._table("OperatorCode", DeprecatedBuiltinCode=min(number, 127), CustomCode=custom, Version=1,
                           BuiltinCode=number)

    def _every_tensor(self) -> list[Tensor]:
        operations = self._graph.operations
        every = [*self._graph.inputs.values(), *(tensor for operation in operations for tensor in
                 (*operation.inputs, *operation.outputs) if tensor is not None), *self._graph.outputs.values()]
        return list({id(tensor): tensor for tensor in every}.values())

    def _table(self, name: str, **fields: Any) -> int:
        """A table of the schema; a field that is None is left out."""
        getattr(tflite, f"{name}Start")(self._builder)
        for field, value in fields.items():
            if value is not None:
                getattr(tflite, f"{name}Add{field}")(self._builder, value)
        offset: int = getattr(tflite, f"{name}End")(self._builder)
        return offset

    def _once(self, key: Any, make: Any) -> int:
        if key not in self._stored:
            self._stored[key] = make()
        return self._stored[key]

    def _numbers(self, values: np.ndarray) -> int:
        """A vector of numbers, stored once."""
        return self._once((values.dtype.str, values.tobytes()), lambda: self._builder.CreateNumpyVector(values))

    def _indices(self, tensors: Any) -> int:
        return self._numbers(np.array([-1 if tensor is None else self._tensors[id(tensor)] for tensor in tensors],
                                      np.int32))

    def _offsets(self, offsets: list[int]) -> int:
        self._builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self._builder.PrependUOffsetTRelative(offset)
        vector: int = self._builder.EndVector()
        return vector

    def _buffer(self, data: np.ndarray | None) -> int:
        if data is None:
            return self._table("Buffer")
        raw = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
        builder = self._builder
        builder.StartVector(1, len(raw), 1)
        builder.Prep(ALIGNMENT, len(raw))  # the values, not their length, begin at a multiple
        builder.head = builder.Head() - len(raw)
        builder.Bytes[builder.Head():builder.Head() + len(raw)] = raw.tobytes()
        return self._table("Buffer", Data=builder.EndVector())

    def _constant(self, tensor: Tensor) -> int:
        """Index of the buffer of a constant, 0 for what is computed."""
        if tensor.data is None:
            return 0
        data = pack_fours(tensor.data) if tensor.dtype == "int4" else tensor.data.astype(tensor.dtype, copy=False)
        key = data.tobytes()
        if key not in self._stored:
            self._buffers.append(self._buffer(data))
            self._stored[key] = len(self._buffers) - 1
        return self._stored[key]

    def _quantization(self, tensor: Tensor) -> int | None:
        if tensor.scale is None:
            return None
        scale = np.asarray(tensor.scale, np.float32).reshape(-1)
        zeros = np.full(len(scale), tensor.zero_point, np.int64)
        axis = tensor.axis if len(scale) > 1 else 0

        def make() -> int:
            scales, points = self._numbers(scale), self._numbers(zeros)
            return self._table("QuantizationParameters", Scale=scales, ZeroPoint=points, QuantizedDimension=axis)

        return self._once(("quantization", scale.tobytes(), tensor.zero_point, axis), make)

    def _tensor(self, tensor: Tensor) -> int:
        buffer = self._constant(tensor)
        name = self._builder.CreateString(tensor.name) if tensor.name else None
        shape, quantization = self._numbers(np.array(tensor.shape, np.int32)), self._quantization(tensor)
        self._tensors[id(tensor)] = len(self._tensors)
        return self._table("Tensor", Shape=shape, Type=getattr(tflite.TensorType, TYPES[tensor.dtype]), Buffer=buffer,
                           Name=name, Quantization=quantization)

    def _operation(self, operation: Operation) -> int:
        code = self._codes.setdefault(operation.kind, len(self._codes))
        table, kind = OPTIONS.get(operation.kind), 0
        options: int | None = None
        if table:
            kind = getattr(tflite.BuiltinOptions, table)
            options = self._once((table, tuple(sorted(operation.options.items()))), lambda: self._table(
                table, **{name: getattr(ENUMERATIONS[name], value) if name in ENUMERATIONS else value
                          for name, value in operation.options.items()}))
        inputs, outputs = self._indices(operation.inputs), self._indices(operation.outputs)
        return self._table("Operator", OpcodeIndex=code, Inputs=inputs, Outputs=outputs,
                           BuiltinOptionsType=kind or None, BuiltinOptions=options)


def pack_fours(levels: np.ndarray) -> np.ndarray:
    """Two values of 4 bits a byte, the first in the low half."""
    flat = levels.reshape(-1).astype(np.int8)
    flat = np.pad(flat, (0, len(flat) % 2)).view(np.uint8) & 15
    packed: np.ndarray = flat[::2] | flat[1::2] << 4
    return packed
