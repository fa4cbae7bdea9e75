"""The levels of integer weights, read back out of a .tflite file."""

from __future__ import annotations

import numpy as np
import tflite

from autocompress.errors import TrialError, reason_of
from autocompress.formats.tflite.flatbuffer import IDENTIFIER
from autocompress.formats.tflite_micro.decoding import DECODE, HEADER_BYTES, unpack

_READ = {tflite.TensorType.INT8: "int8", tflite.TensorType.INT4: "int4"}


def integer_levels(data: bytes) -> list[np.ndarray]:
    """Levels of the integer weights of a .tflite file, int8 `(C, n)` each, a row for each output channel; those that
    TensorFlow Lite Micro looks up in a table too.

    Raises:
        TrialError: when the bytes are no .tflite file.
    """
    if data[4:8] != IDENTIFIER:
        raise TrialError("the file is no .tflite file")
    try:
        model = tflite.Model.GetRootAsModel(data, 0)
        return [levels for at in range(model.SubgraphsLength()) for levels in _of_graph(model, model.Subgraphs(at))]
    except Exception as error:  # what a damaged FlatBuffer leads to
        raise TrialError(f"the weights of the file cannot be read: {reason_of(error)}") from error


def _of_graph(model: tflite.Model, graph: tflite.SubGraph) -> list[np.ndarray]:
    tensors = [graph.Tensors(at) for at in range(graph.TensorsLength())]
    custom = {at for at in range(model.OperatorCodesLength())
              if (model.OperatorCodes(at).CustomCode() or b"").decode() == DECODE}
    values = {at: _stored(model, tensor) for at, tensor in enumerate(tensors) if tensor.Type() in _READ}
    for operator in (graph.Operators(at) for at in range(graph.OperatorsLength())):
        if operator.OpcodeIndex() in custom:
            codes, ancillary = (_bytes(model, tensors[at]) for at in operator.InputsAsNumpy()[:2])
            values[int(operator.OutputsAsNumpy()[0])] = _looked_up(codes, ancillary)
    weights = []
    for at, stored in values.items():
        shape, facts = tensors[at].ShapeAsNumpy(), tensors[at].Quantization()
        if stored is None or facts is None or np.ndim(shape) != 1 or len(shape) < 2:
            continue
        axis = facts.QuantizedDimension()
        if facts.ScaleLength() == shape[axis]:
            whole = stored[:int(np.prod(shape))].reshape(shape)
            weights.append(np.moveaxis(whole, axis, 0).reshape(shape[axis], -1))
    return weights


def _bytes(model: tflite.Model, tensor: tflite.Tensor) -> np.ndarray:
    stored: np.ndarray = model.Buffers(tensor.Buffer()).DataAsNumpy()
    return stored


def _stored(model: tflite.Model, tensor: tflite.Tensor) -> np.ndarray | None:
    """Values of a constant of integers, flat; None for what is computed."""
    if not tensor.Buffer() or not model.Buffers(tensor.Buffer()).DataLength():
        return None
    data = _bytes(model, tensor)
    if tensor.Type() == tflite.TensorType.INT8:
        return data.view(np.int8)
    halves = np.stack([data & 15, data >> 4], 1).reshape(-1).astype(np.int8)
    return np.where(halves > 7, halves - 16, halves).astype(np.int8)


def _looked_up(codes: np.ndarray, ancillary: np.ndarray) -> np.ndarray:
    """Levels of codes; there may be some more than the weight has."""
    bits = int(ancillary[5]) & 15
    table = ancillary[HEADER_BYTES:].view(np.int8)
    numbers = unpack(codes, bits)
    levels: np.ndarray = table[np.minimum(numbers, len(table) - 1)]
    return levels
