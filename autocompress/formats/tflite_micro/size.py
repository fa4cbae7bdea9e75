"""Bytes of a file for TensorFlow Lite Micro, and of the arena in which it runs, from facts alone."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt, prod

from autocompress.core.layer import Part
from autocompress.formats.tflite import size
from autocompress.formats.tflite.size import PADDING, PLAIN_OPERATOR, REFERENCE
from autocompress.formats.tflite_micro.decoding import HEADER_BYTES

# What the interpreter keeps in the arena, on a machine of 64 bits: for itself, for each operator with its tensors, for
# each operator that looks a weight up, and for each channel of integers.
INTERPRETER, OPERATOR, DECODE, CHANNEL = 1300, 230, 208, 8


def file_bytes(parts: Sequence[Part], skeleton_bytes: int) -> int:
    """Predict the bytes of the file of a whole network, given in order of execution."""
    tables = {(part.weight_bits, part.layer if part.grid == "codebook" else part.grid) for part in parts
              if part.weight_bits < 8}
    total: float = size.file_bytes(parts, skeleton_bytes, bias_scales=False)
    # A table that layers share is stored once; a weight that is looked up has an operator and two tensors more.
    total += sum(HEADER_BYTES + 2**bits + 8 + 2 * REFERENCE + PADDING for bits, _ in tables)
    total += _decode() * sum(part.weight_bits < 8 for part in parts)
    return round(total)


def _decode() -> int:
    """Bytes of the operator before the reader of a weight, the whole weight, and the tensor of the table."""
    shapes = 2 * (REFERENCE + 4)
    return PLAIN_OPERATOR + 2 * REFERENCE + 12 + 16 + REFERENCE + 16 + REFERENCE + shapes


def arena_bytes(activation_bytes: int, parts: Sequence[Part]) -> int:
    """Predict the arena of a network whose activations take so much at their peak."""
    layers = [part for part in parts if part.kind in ("conv", "linear", "embedding")]
    tables = sum(OPERATOR + CHANNEL * part.out_channels * (part.weight_bits <= 8)
                 + DECODE * (part.weight_bits < 8) for part in layers)
    last = {part.reads: number for number, part in enumerate(layers)}
    alive = [_alive(part, last[part.reads] > number) for number, part in enumerate(layers)]
    return max([activation_bytes, *alive]) + INTERPRETER + tables


def _alive(part: Part, read_again: bool) -> int:
    """Bytes that a layer needs at once: a weight that is looked up beside input and output, and pads around its input,
    which a stride asks for as an operation of its own; an image is taken for a square."""
    size, weight = part.activation_bits // 8, part.weights * (part.weight_bits < 8)
    read, written = size * part.in_channels * part.in_positions, size * part.out_channels * part.positions
    if prod(part.kernel) <= 1 or part.positions >= part.in_positions:
        return read + written + weight
    side, wider = isqrt(part.in_positions), max(part.kernel) - 1
    padded = size * part.in_channels * (side + wider) ** 2
    return padded + max(read, written + weight + read * read_again)
