"""What an ONNX file for TensorRT may hold, checked on the file itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from autocompress.errors import AutocompressError

# Operators of TensorRT's ONNX parser. Source: docs/operators.md of onnx-tensorrt 10.
OPERATORS = frozenset((
    "Abs", "Add", "And", "ArgMax", "ArgMin", "Asin", "Atan", "AveragePool", "BatchNormalization", "Cast", "Ceil",
    "Clip", "Concat", "Constant", "ConstantOfShape", "Conv", "ConvTranspose", "Cos", "Cosh", "CumSum", "DepthToSpace",
    "DequantizeLinear", "Div", "Dropout", "Einsum", "Elu", "Equal", "Erf", "Exp", "Expand", "EyeLike", "Flatten",
    "Floor", "GRU", "Gather", "GatherElements", "GatherND", "Gelu", "Gemm", "GlobalAveragePool", "GlobalMaxPool",
    "Greater", "GreaterOrEqual", "GridSample", "GroupNormalization", "HardSigmoid", "HardSwish", "Identity",
    "InstanceNormalization", "LSTM", "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax",
    "MatMul", "Max", "MaxPool", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pad", "Pow",
    "QuantizeLinear", "RNN", "Range", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceProd", "ReduceSum", "Relu", "Reshape", "Resize", "Round", "ScatterND", "Selu", "Shape", "Sigmoid", "Sign",
    "Sin", "Sinh", "Size", "Slice", "Softmax", "Softplus", "Softsign", "SpaceToDepth", "Split", "Sqrt", "Squeeze",
    "Sub", "Sum", "Tan", "Tanh", "Tile", "TopK", "Transpose", "Trilu", "Unsqueeze", "Where", "Xor"))
# Newest opset that it reads.
OPSET = 24


def check_structure(data: bytes) -> dict[str, Any]:
    """Prove that a file has TensorRT's operators alone, and symmetric 8-bit integers with whole weights.

    Raises:
        AutocompressError: naming the first thing that TensorRT would refuse.
    """
    model = onnx.load_model_from_string(data)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    opset = max(entry.version for entry in model.opset_import if not entry.domain)
    _require(opset <= OPSET, f"must have opset {OPSET} at most, but has {opset}")
    _require(not model.functions, "must hold no functions of its own, but does")
    for node in model.graph.node:
        _require(node.op_type in OPERATORS and not node.domain,
                 f"must have operators of TensorRT alone, but has {node.domain or ''} {node.op_type}")
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            _check_pair(node, stored)
    weights = sum(node.op_type == "DequantizeLinear" and node.input[0] in stored for node in model.graph.node)
    operators = sorted({node.op_type for node in model.graph.node})
    return {"tensorrt": {"opset": opset, "operators": operators, "integer_weights": weights, "symmetric": True}}


def _check_pair(node: onnx.NodeProto, stored: dict[str, TensorProto]) -> None:
    """Hold one Q or DQ to 8 bits about zero, with a stored scale above zero."""
    scale = stored.get(node.input[1])
    _require(scale is not None and bool((numpy_helper.to_array(scale) > 0).all()),
             f"must have stored scales above zero, but {node.input[1]} is none")
    weight = stored.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
    zero = stored.get(node.input[2]) if len(node.input) > 2 else None
    _require(zero is not None or weight is not None,
             f"must have a zero point at {node.output[0]}, which says that it is signed, but has none")
    if zero is not None:
        values = numpy_helper.to_array(zero)
        _require(values.dtype == np.int8 and not values.any(),
                 f"must have zero points of 0, int8, but {zero.name} is {values.ravel()[:1]}, {values.dtype}")
    if weight is not None:
        _require(weight.data_type == TensorProto.INT8,
                 f"must have integer weights of 8 bits, but {weight.name} has type {weight.data_type}")


def _require(holds: bool, must: str) -> None:
    if not holds:
        raise AutocompressError(f"a file for TensorRT {must}. Export it again, or choose another format")
