"""Bytes of a file for TensorFlow Lite Micro, and of the arena in which it runs, from facts alone."""

from __future__ import annotations

from collections.abc import Sequence

from autocompress.core.layer import Part
from autocompress.formats.tflite import size
from autocompress.formats.tflite.size import PADDING, PLAIN_OPERATOR, REFERENCE
from autocompress.formats.tflite_micro.arena import buffers_of, is_padded, planned_bytes
from autocompress.formats.tflite_micro.decoding import HEADER_BYTES

# What the interpreter keeps in the arena, on a machine of 64 bits: for itself, for each operator with its tensors, for
# each operator that looks a weight up, and for each channel of integers. Facts about layers do not tell of tables of
# a softmax in 16 bits, 2,052 bytes.
INTERPRETER, OPERATOR, DECODE, CHANNEL = 1300, 230, 208, 8
SHAPE = REFERENCE + 4  # bytes of a shape of one axis
# Bytes of the operator before the reader of a weight, the whole weight, and the tensor of the table; codes have no
# reference to scales.
DECODING = PLAIN_OPERATOR + 3 * REFERENCE + 12 + 16 + 16


def file_bytes(parts: Sequence[Part], skeleton_bytes: int) -> int:
    """Predict the bytes of the file of a whole network, given in order of execution."""
    tables = {(part.weight_bits, part.layer if part.grid == "codebook" else part.grid) for part in parts
              if part.weight_bits < 8}
    total: float = size.file_bytes(parts, skeleton_bytes, bias_scales=False)
    # A table that layers share is stored once; a weight that is looked up has an operator and two tensors more.
    total += sum(HEADER_BYTES + 2**bits + 8 + 2 * REFERENCE + PADDING for bits, _ in tables)
    # Tables of as many levels have one shape, and so have as many bytes of codes.
    codes = {-(-part.weights * part.weight_bits // 8) for part in parts if part.weight_bits < 8}
    total += DECODING * sum(part.weight_bits < 8 for part in parts)
    total += SHAPE * (len({bits for bits, _ in tables}) + len(codes))
    return round(total)


def arena_bytes(activation_bytes: int, parts: Sequence[Part]) -> int:
    """Predict the arena of a network whose activations take so much at their peak."""
    layers = [part for part in parts if part.kind in ("conv", "linear", "embedding")]
    tables = sum(OPERATOR + CHANNEL * part.out_channels * (part.weight_bits <= 8)
                 + DECODE * (part.weight_bits < 8) for part in layers)
    reading = [part for part in layers if part.kind != "embedding"]
    between = len({part.reads for part in reading} - {part.writes for part in layers}) + sum(map(is_padded, reading))
    planned = planned_bytes(buffers_of(reading))
    return max(activation_bytes, planned) + INTERPRETER + tables + OPERATOR * between
