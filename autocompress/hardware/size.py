"""Bytes of the exported file, from facts alone.

Protobuf stores a field as tag, length and content, so the size of every tensor and node that
`autocompress.export.build` writes follows from shapes and names. What does not follow, the rest of the graph, is
the skeleton, measured once on the original's export. A test holds prediction and files together over every
ready-made space.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import count
from math import prod

from autocompress.core.layer import Part

PLANES = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1)}
"""Bits of each packed plane by width, and `ALIGN`, to a multiple of which codes are padded: as in export.packing."""
ALIGN = 8
SKELETON_NAME = 3
"""Typical length of a tensor's name in the skeleton: `p10` to `t99`."""
READERS = 1.3
"""Typical number of nodes that read an activation: more than one where a residual branches off."""
TO = 11
"""The attribute `to` of a Cast."""
AXIS = 13
"""The attribute `axis` of a DequantizeLinear."""


def file_bytes(parts: Iterable[Part], skeleton_bytes: int) -> int:
    """Predicted bytes of `model.onnx` for a whole network, given in order of execution."""
    layers: dict[str, list[Part]] = defaultdict(list)
    for part in parts:
        layers[part.layer].append(part)
    everything = [part for own in layers.values() for part in own]
    names = _Names()
    total = float(skeleton_bytes) + sum(_factor_nodes(own) for own in layers.values() if len(own) > 1)
    for bits in sorted({part.weight_bits for part in everything if part.weight_bits < 8}):
        total += _unpacking(bits, [part for part in everything if part.weight_bits == bits], names)
    products = {part.name for own in layers.values() for part in own if not own[-1].kernel and not own[-1].bias}
    total += sum(_stored(part, names, part.name in products) for part in everything)
    activations: dict[str, int] = {}
    for part in everything:
        if part.activation_bits <= 16:
            for end in (part.reads, part.writes):
                activations[end] = min(part.activation_bits, activations.get(end, 16))
    activations.pop("", None)
    return round(total + sum(_activation(bits, names) for bits in activations.values()))


class _Names:
    """Lengths of the names that the exporter gives out: q1, q2, …"""

    def __init__(self) -> None:
        self._numbers = count(1)

    def take(self) -> int:
        """Length of the next name."""
        return 1 + len(str(next(self._numbers)))


def _varint(value: int) -> int:
    return max(1, -(-value.bit_length() // 7))


def _field(content: int) -> int:
    return 1 + _varint(content) + content


def _tensor(name: int, dims: tuple[int, ...], content: int) -> int:
    """An initialiser; its element type takes two bytes."""
    return _field(sum(1 + _varint(size) for size in dims) + 2 + _field(name) + _field(content))


def _node(op: str, names: Iterable[int], attributes: int = 0) -> int:
    """A node; `names` are the lengths of its inputs' and outputs' names."""
    return _field(_field(len(op)) + sum(map(_field, names)) + attributes)


def _numbers(name: str, amount: int) -> int:
    """An attribute of small integers."""
    return _field(_field(len(name)) + 2 * amount + 3)


def _shape(part: Part) -> tuple[int, ...]:
    return (part.out_channels, part.in_channels // part.groups, *part.kernel)


def _factor_nodes(factors: list[Part]) -> float:
    """Nodes of a layer's factors, less the node whose place they take."""
    total, previous = 0.0, SKELETON_NAME
    for i, factor in enumerate(factors):
        last = i == len(factors) - 1
        after = SKELETON_NAME if last else SKELETON_NAME + 2
        total += _node(_op(factor), [previous, SKELETON_NAME + 2, after], _attributes([factor]))
        previous = after
    kernel = _numbers("kernel_shape", len(factors[0].kernel)) if factors[0].kernel else 0
    return total - _node(_op(factors[0]), [SKELETON_NAME] * 3, _attributes(factors) + kernel)


def _op(part: Part) -> str:
    return "Conv" if part.kernel else "Gemm"


def _attributes(parts: list[Part]) -> int:
    """Attributes of the one node that does the work of `parts`."""
    rank = len(parts[0].kernel)
    if not rank:
        return _field(_field(len("transB")) + 5)
    pads = any(prod(part.kernel) > 1 for part in parts)
    strides = any(part.positions < part.in_positions for part in parts)
    return pads * _numbers("pads", 2 * rank) + strides * _numbers("strides", rank)


def _unpacking(bits: int, parts: list[Part], names: _Names) -> float:
    """The packed stream of all weights of one width, and what turns it into one INT8 tensor for each."""
    weights = sum(part.weights for part in parts)
    codes = -(-weights // ALIGN) * ALIGN
    flat = names.take()
    total, planes = _tensor(flat, (1,), 8), []
    for width in PLANES[bits]:
        packed, index, table, gathered, plane = (names.take() for _ in range(5))
        total += _tensor(packed, (codes * width // 8,), codes * width // 8)
        total += _tensor(table, (256, 8 // width), 256 * 8 // width)
        total += _node("Cast", [packed, index], TO) + _node("Gather", [table, index, gathered])
        total += _node("Reshape", [gathered, flat, plane])
        planes.append(plane)
    whole = planes[0]
    if len(planes) > 1:
        wide = [names.take() for _ in planes]
        total += sum(_node("Cast", pair, TO) for pair in zip(planes, wide, strict=True))
        added = wide[0]
        for plane in wide[1:]:
            previous, added = added, names.take()
            total += _node("Add", [previous, plane, added])
        whole = names.take()
        total += _node("Cast", [added, whole], TO)
    sizes, pieces = names.take(), [names.take() for _ in parts]
    amount = len(parts) + (codes > weights)
    padding = [pieces[-1]] if codes > weights else []
    total += _tensor(sizes, (amount,), 8 * amount) + _node("Split", [whole, sizes, *pieces, *padding])
    for part, piece in zip(parts, pieces, strict=True):
        shape, rank = names.take(), len(_shape(part))
        total += _tensor(shape, (rank,), 8 * rank) + _node("Reshape", [piece, shape, names.take()])
    return total


def _stored(part: Part, names: _Names, transposed: bool) -> float:
    """Tensors of one part and the nodes that restore its weight, the shared unpacking of its width left out. A
    matrix product without a bias is stored `transposed`."""
    if part.kind == "norm":
        return 4 * _tensor(SKELETON_NAME, (part.out_channels,), 4 * part.out_channels)
    if part.kind == "other":
        return _tensor(SKELETON_NAME, (part.weights,), 4 * part.weights)
    channels, shape = part.out_channels, _shape(part)
    total: float = _tensor(SKELETON_NAME, (channels,), 4 * channels) if part.bias else 0
    if part.weight_bits == 32:
        return total + _tensor(_weight_name(part), shape, 4 * part.weights)
    name = names.take()
    if part.weight_bits == 16:
        weight = names.take()
        return total + _tensor(name, shape, 2 * part.weights) + _node("Cast", [name, weight], TO) + weight - 3
    if part.weight_bits == 8:
        total += _tensor(name, shape, part.weights)
    if part.grid != "linear":
        index, table, name = names.take(), names.take(), names.take()
        rows = 2 * 2**part.weight_bits
        total += _node("Cast", [name, index], TO) + _tensor(table, (rows,), rows)
        total += _node("Gather", [table, index, name])
    if part.group:
        return total + _grouped(part, name, names, transposed)
    scale, weight = names.take(), names.take()
    if part.activation_bits <= 16:
        total += _tensor(scale, (channels,), 4 * channels) + _node("DequantizeLinear", [name, scale, weight], AXIS)
    else:
        wide = names.take()
        total += _tensor(scale, (channels,) + (1,) * (len(shape) - 1), 4 * channels)
        total += _node("Cast", [name, wide], TO) + _node("Mul", [wide, scale, weight])
    return total + weight - _replaced_name(part)


def _grouped(part: Part, name: int, names: _Names, transposed: bool) -> float:
    """Scales, factors and the nodes that give each weight its step and its value."""
    shape, channels = _shape(part), part.out_channels
    columns = part.weights // channels
    runs = -(-columns // part.group)

    def numbers(amount: int) -> int:
        return _tensor(taken, (amount,), 8 * amount) + _node(op, [steps, taken, after])

    wide, factors, steps, scale, after = (names.take() for _ in range(5))
    total = _node("Cast", [name, wide], TO) + _tensor(factors, (channels, runs, 1), channels * runs)
    total += _node("Cast", [factors, steps], TO) + _tensor(scale, (channels, 1, 1), 4 * channels)
    total += _node("Mul", [steps, scale, after])
    sizes = {"Expand": 3, "Reshape": 2}
    if columns % part.group:
        sizes["Split"] = 2
    for op, amount in sizes.items():
        taken, steps, after = names.take(), after, names.take()
        total += numbers(amount)
        if op == "Split":
            total += _field(names.take()) + AXIS
    if transposed:
        steps, after = after, names.take()
        total += _node("Transpose", [steps, after])
    elif part.kernel:
        op, taken, steps, after = "Reshape", names.take(), after, names.take()
        total += numbers(len(shape))
    weight = names.take()
    return total + _node("Mul", [wide, after, weight]) + weight - _replaced_name(part)


def _replaced_name(part: Part) -> int:
    """Length of the name that a restored weight's takes the place of; of a factor's less one, to err on the safe side:
    a prediction may be a little high, but not low."""
    return SKELETON_NAME if part.name == part.layer else SKELETON_NAME + 1


def _weight_name(part: Part) -> int:
    """Length of a weight's name in the skeleton: a factor's has its number behind it."""
    return SKELETON_NAME if part.name == part.layer else SKELETON_NAME + 2


def _activation(bits: int, names: _Names) -> float:
    """Scale, zero point, and the QuantizeLinear and DequantizeLinear of one activation tensor."""
    scale, zero, code, real = (names.take() for _ in range(4))
    total = _tensor(scale, (), 4) + _tensor(zero, (), bits // 8)
    total += _node("QuantizeLinear", [SKELETON_NAME, scale, zero, code])
    total += _node("DequantizeLinear", [code, scale, zero, real])
    return total + READERS * (real - SKELETON_NAME)
