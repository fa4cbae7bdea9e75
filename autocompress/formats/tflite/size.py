"""Bytes of a .tflite file, from facts alone.

A FlatBuffer's tables and vectors have sizes that follow from their fields, so what a layer adds is known: its
operator, its tensors, their scales and the constants, each aligned to sixteen bytes. What does not follow from layers,
such as sums and pooling, is the skeleton, measured once on the original's file.
"""

from __future__ import annotations

from collections.abc import Iterable

from autocompress.core.layer import Part

REFERENCE = 4  # bytes of an offset, and of the length of a vector
OPERATOR = 24 + REFERENCE  # an operator's table, and its place in the list of operators
PLAIN_OPERATOR = 16 + REFERENCE  # one without options
PADDING = 7.5  # typical bytes that bring a constant to its alignment


def file_bytes(parts: Iterable[Part], skeleton_bytes: int, bias_scales: bool = True) -> int:
    """Predict the bytes of the file of a whole network, given in order of execution. `bias_scales`: whether biases of
    integers have their scales in the file."""
    everything = list(parts)
    total = skeleton_bytes + sum(_stored(part, bias_scales) for part in everything)
    channels = {part.out_channels for part in everything if part.weight_bits <= 8}
    total += sum(_vector(count, 8) + 4 for count in channels)  # zero points, shared by all layers of so many channels
    # A layer without a bias has zeros, which layers of as many channels share.
    zeros = {(_bias(part), part.activation_bits <= 16) for part in everything
             if part.kind in ("conv", "linear") and not part.bias}
    total += sum(_constant(size) + _tensor(0, False, True) * (not integer) for size, integer in zeros)
    return round(total + _activations(everything))


def _bias(part: Part) -> int:
    """Bytes of the values of a bias."""
    return part.out_channels * (8 if part.activation_bits == 16 else 4)


def _vector(count: int, width: int) -> int:
    return REFERENCE + count * width


def _tensor(rank: int, integer: bool, constant: bool) -> int:
    """A tensor's table, its place in the list, and its shape."""
    return 8 + 8 * integer + 4 * constant + REFERENCE + _vector(rank, 4)


def _constant(size: float) -> float:
    """A buffer's table, its place in the list, and its content."""
    return 8 + REFERENCE + REFERENCE + size + PADDING


def _stored(part: Part, bias_scales: bool) -> float:
    """Operator and tensors of one part, all but the scale of its output."""
    if part.kind == "norm":
        return 8 * part.out_channels
    if part.kind == "other":
        return 4 * part.weights
    rank, channels, integer = (4 if part.kernel else 2), part.out_channels, part.activation_bits <= 16
    total: float = OPERATOR + _vector(2 + (part.kind != "embedding"), 4) + _vector(1, 4) + _tensor(rank, False, False)
    narrow = part.weight_bits <= 16
    total += _tensor(rank, narrow, True) - 4 * (part.weight_bits == 16)
    weights: float = _constant(part.weights * part.weight_bits / 8)
    if part.weight_bits <= 8:
        depthwise = part.groups > 1 and part.groups == part.in_channels
        weights += 12 + 4 * depthwise + _vector(channels, 4)
    if narrow and not integer:
        total += PLAIN_OPERATOR + 2 * _vector(1, 4) + 16 + REFERENCE
    if part.kind != "embedding":
        total += _tensor(0, integer, True) * (part.bias or integer) + _constant(_bias(part)) * part.bias
        total += (12 + _vector(channels, 4)) * integer if bias_scales else 0
    return total + weights


# What a tensor of integers has beside one of floats: its type, and its scale and zero point.
SCALED = 8 + 12 + _vector(1, 4) + 12


def _activations(parts: list[Part]) -> float:
    """Scales of activations, and the operators between integers and floats. What sums, pooling and inputs give is
    computed as the layer before it is; an input, as the layer that reads it."""
    layers = [part for part in parts if part.kind in ("conv", "linear")]
    width = {part.writes: part.activation_bits for part in layers}
    total, before = float(SCALED * sum(part.activation_bits <= 16 for part in layers)), 0
    read: set[tuple[str, int]] = set()
    for part in layers:
        bits = part.activation_bits
        if part.reads and part.reads not in width:
            width[part.reads] = before or bits
            total += SCALED * (width[part.reads] <= 16)
        if part.reads and width[part.reads] != bits and (part.reads, bits) not in read:
            read.add((part.reads, bits))
            total += PLAIN_OPERATOR + 2 * _vector(1, 4) + 8 + REFERENCE + SCALED * (bits <= 16)
        before = bits
    return total
