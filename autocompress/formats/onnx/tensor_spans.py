"""Where an ONNX file holds its tensors: byte ranges by name, so that an update can be told tensor by tensor."""

from __future__ import annotations

import onnx
from onnx import TensorProto

from autocompress.core.spans import Span
from autocompress.errors import TrialError, reason_of

# Smaller tensors are told with what stands around them.
LEAST_BYTES = 64
_BITS = {TensorProto.FLOAT: 32, TensorProto.INT32: 32, TensorProto.FLOAT16: 16, TensorProto.BFLOAT16: 16,
         TensorProto.INT16: 16, TensorProto.UINT16: 16, TensorProto.DOUBLE: 64, TensorProto.INT64: 64,
         TensorProto.INT4: 4, TensorProto.UINT4: 4}


def tensor_spans(data: bytes) -> dict[str, Span]:
    """Byte ranges of the stored tensors of an ONNX file, by name, in order.

    Planes of packed codes are told with the bits of their codes, as `formats/onnx/packing.py` cuts them: the table that
    a `Gather` reads with the plane's bytes has so many codes in a row.

    Raises:
        TrialError: when the bytes are no ONNX file.
    """
    try:
        graph = onnx.load_model_from_string(data).graph
    except Exception as error:  # protobuf's errors share no base class with onnx's
        raise TrialError(f"onnx cannot read the file: {reason_of(error)}") from error
    planes = _planes(graph)
    spans: dict[str, Span] = {}
    at = 0
    for tensor in graph.initializer:
        content = tensor.raw_data
        if len(content) < LEAST_BYTES or tensor.name in spans:
            continue
        begin = data.find(content, at)  # fields keep their order, so that the next one follows
        if begin < 0:
            continue
        spans[tensor.name] = Span(begin, len(content), planes.get(tensor.name, _BITS.get(tensor.data_type, 8)))
        at = begin + len(content)
    return spans


def _planes(graph: onnx.GraphProto) -> dict[str, int]:
    """Bits of the codes in tensors of packed codes, by name."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    casts = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
    bits = {}
    for node in graph.node:
        table = stored.get(node.input[0]) if node.op_type == "Gather" else None
        source = casts.get(node.input[1], "") if table is not None else ""
        if table is not None and source in stored and len(table.dims) == 2 and table.dims[0] == 256 \
                and table.dims[1] in (2, 4, 8):
            bits[source] = 8 // table.dims[1]
    return bits
