"""Bytes of a .tflite file, from facts alone.

A FlatBuffer's tables and vectors have sizes that follow from their fields, so what a layer adds is known: its
operator, its tensors, their scales and the constants, each aligned to sixteen bytes. Equal vectors are stored once, and
so is what a kind of operator and a layout of tables take the first time. What does not follow from layers, such as sums
and pooling, is the skeleton, measured once on the original's file.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from autocompress.core.layer import Part

REFERENCE = 4  # bytes of an offset, and of the length of a vector
OPERATOR = 24 + REFERENCE  # an operator's table, and its place in the list of operators
PLAIN_OPERATOR = 16 + REFERENCE  # one without options
PADDING = 7.5  # typical bytes that bring a constant to its alignment
NUMBER = 4  # bytes of a number that a table leaves out where it is 0
CODE = 12 + REFERENCE  # what a kind of operator takes once
# Layouts of tables that appear with integers: of operators without options; of tensors of half floats, of stored
# integers and of computed ones; of scales without and with an axis.
LAYOUTS = {"operator": 12, "half": 12, "stored": 16, "computed": 16, "scales": 12, "axis": 18}
# How the names begin that torch gives to what a network pads by itself.
PADDED = ("pad", "constant")


def file_bytes(parts: Iterable[Part], skeleton_bytes: int, bias_scales: bool = True) -> int:
    """Predict the bytes of the file of a whole network, given in order of execution. `bias_scales`: whether biases of
    integers have their scales in the file."""
    everything = list(parts)
    layers = [part for part in everything if part.kind in ("conv", "linear")]
    total = skeleton_bytes + sum(_stored(part, bias_scales) for part in everything)
    total += sum(_vector(len(shape), 4) for shape in {shape for part in everything for shape in _shapes(part)})
    channels = {part.out_channels for part in everything if part.weight_bits <= 8}
    total += sum(_vector(count, 8) + 4 for count in channels)  # zero points, shared by all layers of so many channels
    # A layer without a bias has zeros, which layers of as many channels share.
    zeros = {(_bias(part), part.activation_bits <= 16) for part in layers if not part.bias}
    total += sum(_constant(size) + _tensor(False, True) * (not integer) for size, integer in zeros)
    conversions, into, out_of = _conversions(layers)
    dequantised = any(_is_restored(part) for part in everything) or out_of
    padded = any(_is_padded(part, following) for part, following in pairwise(layers))
    total += CODE * (dequantised + into + padded) + _padding() * padded
    total += sum(LAYOUTS[name] for name in _layouts(everything, dequantised or into or padded))
    return round(total + conversions + _scales(layers) + _places(layers, padded))


def _bias(part: Part) -> int:
    """Bytes of the values of a bias."""
    return part.out_channels * (8 if part.activation_bits == 16 else 4)


def _vector(count: int, width: int) -> int:
    return REFERENCE + count * width


def _tensor(integer: bool, constant: bool) -> int:
    """A tensor's table, and its place in the list."""
    return 8 + 8 * integer + 4 * constant + REFERENCE


def _constant(size: float) -> float:
    """A buffer's table, its place in the list, and its content."""
    return 8 + REFERENCE + REFERENCE + size + PADDING


def _shapes(part: Part) -> list[tuple[int, ...]]:
    """What tells the shapes of a part's tensors apart, each with as many numbers as the shape has."""
    if part.kind in ("norm", "other"):
        return []
    channels, bias = part.out_channels, [(part.out_channels,)] * (part.kind != "embedding")
    if not part.kernel:
        return [(channels, part.in_channels), (part.positions, channels), *bias]
    weight = (channels, part.kernel[0], part.kernel[-1], part.in_channels // part.groups)
    return [weight, (0, 0, part.positions, channels), *bias]


def _is_restored(part: Part) -> bool:
    """Whether a float weight is restored by an operator from what is stored of it."""
    return part.kind in ("conv", "linear", "embedding") and part.weight_bits <= 16 < part.activation_bits


def _is_padded(part: Part, following: Part) -> bool:
    """Whether a part is a factor that reads what the network pads, and whose layer spreads its kernel over the factors
    behind it: then no factor can pad by itself, as the whole layer does."""
    spread = part.layer == following.layer and max(following.kernel, default=0) > 1
    return spread and part.reads.partition("_")[0] in PADDED


def _padding() -> float:
    """Bytes of an operator that pads: itself, its output of four axes, and the pads, 4×2 numbers."""
    operator = PLAIN_OPERATOR + _vector(2, 4) + _vector(1, 4)
    return operator + _tensor(False, False) + _vector(4, 4) + _tensor(False, True) + _vector(2, 4) + _constant(32)


def _stored(part: Part, bias_scales: bool) -> float:
    """Operator and tensors of one part, all but shapes and the scale of its output."""
    if part.kind == "norm":
        return 8 * part.out_channels
    if part.kind == "other":
        return 4 * part.weights
    channels, integer = part.out_channels, part.activation_bits <= 16
    total: float = OPERATOR + _vector(2 + (part.kind != "embedding"), 4) + _vector(1, 4) + _tensor(False, False)
    narrow = part.weight_bits <= 16
    total += _tensor(narrow, True) - 4 * (part.weight_bits == 16)
    weights: float = _constant(part.weights * part.weight_bits / 8)
    if part.weight_bits <= 8:
        depthwise = part.groups > 1 and part.groups == part.in_channels
        weights += 12 + 4 * depthwise + _vector(channels, 4)
    if _is_restored(part):
        total += PLAIN_OPERATOR + 2 * _vector(1, 4) + _tensor(False, False)
    if part.kind != "embedding":
        total += _tensor(integer, True) * (part.bias or integer) + _constant(_bias(part)) * part.bias
        total += (12 + _vector(channels, 4)) * integer if bias_scales else 0
    return total + weights


# What a tensor of integers has beside one of floats, but for its zero point: its type, and its scale.
SCALED = 8 + 12 + _vector(1, 4)
ZERO_POINT = _vector(1, 8)


def _scales(layers: list[Part]) -> float:
    """Scales of what integer layers put out, and zero points: one for all that lies behind an activation function."""
    integers = [part for part in layers if part.activation_bits <= 16]
    last = {part.layer: part.name for part in layers}
    points = {part.activation_bits if part.activation_bits == 16 or (last[part.layer] == part.name and part.writes)
              else part.name for part in integers}
    return float(SCALED * len(integers) + ZERO_POINT * len(points))


def _conversions(layers: list[Part]) -> tuple[float, bool, bool]:
    """Bytes of the operators between integers and floats, and whether there are some to integers and to floats. What
    sums, pooling and inputs give is computed as the layer before it is; an input, as the layer that reads it."""
    width = {part.writes: part.activation_bits for part in layers}
    total, before, into, out_of = 0.0, 0, False, False
    read: set[tuple[str, int]] = set()
    for part in layers:
        bits = part.activation_bits
        if part.reads and part.reads not in width:
            width[part.reads] = before or bits
            total += (SCALED + ZERO_POINT) * (width[part.reads] <= 16)
        if part.reads and width[part.reads] != bits and (part.reads, bits) not in read:
            read.add((part.reads, bits))
            into, out_of = into or bits <= 16, out_of or bits > 16
            total += PLAIN_OPERATOR + 2 * _vector(1, 4) + 8 + REFERENCE + (SCALED + ZERO_POINT) * (bits <= 16)
        before = bits
    return total, into, out_of


def _layouts(parts: list[Part], has_plain: bool) -> set[str]:
    """Layouts of tables that a file of floats lacks."""
    layouts = {"operator"} if has_plain else set()
    for part in parts:
        if part.weight_bits == 16:
            layouts.add("half")
        if part.weight_bits <= 8:
            depthwise = part.groups > 1 and part.groups == part.in_channels
            layouts |= {"stored", "axis" if depthwise else "scales"}
        if part.activation_bits <= 16:
            layouts |= {"computed", "scales"}
    return layouts


def _places(layers: list[Part], padded: bool) -> int:
    """What operators gain whose kind is not the first in the file any more: its number, 0, is left out."""
    if not layers or not (padded or _is_restored(layers[0])):
        return 0
    same = sum(part.kind == layers[0].kind and (part.groups == 1) == (layers[0].groups == 1) for part in layers)
    first = 1 if padded else sum(map(_is_restored, layers))
    return NUMBER * (same - first)
