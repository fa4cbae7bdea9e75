"""The inputs and outputs of a .tflite file: names, types and scales, read from the file itself."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import tflite

from autocompress.errors import TrialError
from autocompress.formats.tflite.flatbuffer import IDENTIFIER, TYPES

DTYPES = {getattr(tflite.TensorType, name): dtype for dtype, name in TYPES.items() if dtype != "int4"}
# Bytes of a value by type.
BYTES = {kind: np.dtype(dtype).itemsize for kind, dtype in DTYPES.items()} | {tflite.TensorType.INT4: 1}


@dataclass(frozen=True)
class End:
    """An input or output: its tensor's `index` and `name`, shape and type in the file, scale (0 for floats) and zero
    point; `last` where the file takes channels last, and torch has them second."""

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float
    zero_point: int
    last: bool

    def stored(self, values: np.ndarray) -> np.ndarray:
        """Values of torch `(N, C, …)` as the file takes them."""
        if self.last:
            values = np.moveaxis(values, 1, -1)
        if self.scale:
            bounds = np.iinfo(self.dtype)
            values = np.clip(np.rint(values.astype(np.float32) / np.float32(self.scale)) + self.zero_point, bounds.min,
                             bounds.max)
        return np.ascontiguousarray(values, self.dtype).reshape(-1, *self.shape[1:])

    def real(self, values: np.ndarray) -> np.ndarray:
        """Values of the file as floats."""
        if not self.scale:
            return values
        result: np.ndarray = (values.astype(np.float32) - self.zero_point) * np.float32(self.scale)
        return result


class Ends:
    """All inputs and outputs of a file.

    Raises:
        TrialError: where the bytes are no such file.
    """

    def __init__(self, data: bytes) -> None:
        if data[4:8] != IDENTIFIER:
            raise TrialError("the file must be a TFLite model, but does not begin as one")
        try:
            model = tflite.Model.GetRootAsModel(data, 0)
            graph = model.Subgraphs(0)
            if graph is None:
                raise TrialError("the file must hold a graph, but holds none")
            _, *last = (model.Description() or b"").decode().split(" ")
            self.inputs, self.outputs = ([_end(graph, int(index), last) for index in indices] for indices in (
                graph.InputsAsNumpy(), graph.OutputsAsNumpy()))
        except (struct.error, IndexError, TypeError, UnicodeDecodeError) as error:
            raise TrialError(f"the file must be a whole TFLite model, but ends before: {error}") from error


def _end(graph: tflite.SubGraph, index: int, last: list[str]) -> End:
    tensor = graph.Tensors(index)
    quantization, name = tensor.Quantization(), (tensor.Name() or b"").decode()
    quantized = quantization is not None and quantization.ScaleLength() > 0
    return End(index, name, tuple(int(size) for size in tensor.ShapeAsNumpy()), DTYPES[tensor.Type()],
               float(quantization.Scale(0)) if quantized else 0.0,
               int(quantization.ZeroPoint(0)) if quantized else 0, name in last)
