"""Weights of fewer than 8 bits in TensorFlow Lite Micro: codes and a table, which a DECODE before the reader looks up.

The operator writes a weight into the arena just before its reader runs, so that RAM holds one weight at a time. What it
reads: the codes, packed from the highest bit on, and ancillary data, whose first sixteen bytes say how to decode them.

Source: tensorflow/lite/micro/compression/decode.py and lut.py of tflite-micro.
"""

from __future__ import annotations

import numpy as np

from autocompress.formats.tflite.graph import Graph, Operation, Tensor

DECODE = "TFLM_DECODE"
HEADER_BYTES = 16
LOOK_UP, VERSION = 0, 1
ONE_TABLE = 15  # in place of an axis: all channels share the table


def decoded(graph: Graph) -> None:
    """Store weights that have a table as codes, and put the operation that looks them up before their reader."""
    operations: list[Operation] = []
    for operation in graph.operations:
        for place, tensor in enumerate(operation.inputs):
            if tensor is not None and tensor.table is not None:
                whole = Tensor(tensor.shape, tensor.dtype, scale=tensor.scale, axis=tensor.axis)
                operations.append(Operation(DECODE, [*_stored(tensor)], [whole]))
                operation.inputs[place] = whole
        operations.append(operation)
    graph.operations = operations


def _stored(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and ancillary data of a weight."""
    assert weight.data is not None and weight.table is not None
    bits = code_bits(len(weight.table))
    codes = pack(np.searchsorted(weight.table, weight.data.reshape(-1)), bits)
    header = np.zeros(HEADER_BYTES, np.uint8)
    header[:2], header[4:7] = (LOOK_UP, VERSION), (VERSION, ONE_TABLE << 4 | bits, 0)
    ancillary = np.concatenate([header, weight.table.view(np.uint8)])
    return Tensor(codes.shape, "uint8", codes), Tensor(ancillary.shape, "uint8", ancillary)


def code_bits(levels: int) -> int:
    """Bits that tell so many levels apart."""
    return max(1, (levels - 1).bit_length())


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes of so many bits, one behind the other, each from its highest bit on."""
    planes = codes.astype(np.uint8)[:, None] >> np.arange(bits - 1, -1, -1) & 1
    return np.packbits(planes.reshape(-1))


def unpack(packed: np.ndarray, bits: int) -> np.ndarray:
    """Codes out of bytes, uint8; the last byte may hold some more."""
    planes = np.unpackbits(packed)
    whole = planes[:len(planes) // bits * bits].reshape(-1, bits)
    codes: np.ndarray = whole @ (1 << np.arange(bits - 1, -1, -1))
    return codes.astype(np.uint8)
