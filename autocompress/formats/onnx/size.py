"""Bytes of the exported file, from facts alone.

Protobuf stores a field as tag, length and content, so the size of every tensor and node that
`autocompress.formats.onnx.writer` writes follows from shapes and names. What does not follow, the rest of the graph, is
the skeleton, measured once on the original's export. A test holds prediction and files together over every
ready-made space.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import count
from math import prod

from autocompress.core.layer import Part
from autocompress.core.sparsity import UNSTRUCTURED, code_bits, group_of, group_size
from autocompress.formats.onnx.protobuf import (
    AXIS,
    TO,
    field_bytes,
    node_bytes,
    numbers_bytes,
    tensor_bytes,
    varint_bytes,
)
from autocompress.formats.onnx.sparse_choice import stored_sparse
from autocompress.formats.packing import ALIGN, PLANES

SKELETON_NAME = 3  # typical length of a tensor's name in the skeleton: `p10` to `t99`
READERS = 1.3  # typical number of nodes that read an activation: more than one where a residual branches off
# Parts that the file stores sparse, by width and pattern.
Sparse = dict[tuple[int, str], list[Part]]


def file_bytes(parts: Iterable[Part], skeleton_bytes: int, absent: Iterable[Part] = ()) -> int:
    """Predict the bytes of the ONNX file of a whole network, given in order of execution. `absent`: convolutions and
    linear layers of the original that are gone, with the activation behind each."""
    layers: dict[str, list[Part]] = defaultdict(list)
    for part in parts:
        layers[part.layer].append(part)
    everything = [part for members in layers.values() for part in members]
    names = _Names()
    total = float(skeleton_bytes) - sum(_bare_node(part) for part in absent)
    total += sum(_factor_nodes(members) for members in layers.values() if len(members) > 1)
    sparse = _sparse(everything)
    masked = {part.name for members in sparse.values() for part in members}
    for bits in sorted({part.weight_bits for part in everything if part.weight_bits < 8}):
        shapes = [_shape(part) for part in everything if part.weight_bits == bits and part.name not in masked]
        shapes += [(_kept(pattern, members),) for (width, pattern), members in sparse.items() if width == bits]
        total += _unpacking(bits, shapes, names)
    products = {part.name for members in layers.values() for part in members if part.kind != "recurrent" and (
                    _op(members[-1]) == "MatMul" or not (members[-1].kernel or members[-1].bias))}
    total += sum(_expansion(bits, pattern, members, names, products) for (bits, pattern), members in sparse.items())
    total += sum(_stored(part, names, part.name in products, part.name in masked) for part in everything)
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


def _shape(part: Part) -> tuple[int, ...]:
    return (part.out_channels, part.in_channels // part.groups, *part.kernel)


def _factor_nodes(factors: list[Part]) -> float:
    """Bytes of the nodes of a layer's factors, less the node whose place they take."""
    total, previous = 0.0, SKELETON_NAME
    for i, factor in enumerate(factors):
        last = i == len(factors) - 1
        after = SKELETON_NAME if last else SKELETON_NAME + 2
        total += node_bytes(_op(factor), [previous, SKELETON_NAME + 2, after], _attributes([factor]) + _group(factor))
        previous = after
    kernel = numbers_bytes("kernel_shape", len(factors[0].kernel)) if factors[0].kernel else 0
    return total - node_bytes(_op(factors[0]), [SKELETON_NAME] * 3, _attributes(factors) + kernel)


def _bare_node(part: Part) -> int:
    """A layer's node in the skeleton, and the one of an activation."""
    kernel = numbers_bytes("kernel_shape", len(part.kernel)) if part.kernel else 0
    return node_bytes(_op(part), [SKELETON_NAME] * 4, _attributes([part]) + kernel + _group(part)) \
        + node_bytes("Relu", [SKELETON_NAME] * 2)


def _group(part: Part) -> int:
    """The attribute that tells a grouped convolution."""
    return field_bytes(field_bytes(len("group")) + 1 + varint_bytes(part.groups) + 3) if part.groups > 1 else 0


def _op(part: Part) -> str:
    """A linear layer at several positions, such as tokens, is a product; its bias is added by a node of its own."""
    if part.kernel:
        return "ConvTranspose" if part.transposed else "Conv"
    return "Gemm" if part.positions == 1 else "MatMul"


def _swapped(part: Part) -> bool:
    """Whether the file stores the weight with input channels first."""
    return part.transposed and part.groups == 1


def _arranged(part: Part) -> bool:
    """Whether the graph arranges the weight before it is read: what restores it takes its name."""
    depthwise = part.groups == part.in_channels == part.out_channels
    return part.kind == "recurrent" or (part.transposed and part.groups > 1 and not depthwise)


def _attributes(parts: list[Part]) -> int:
    """Attributes of the one node that does the work of `parts`."""
    rank = len(parts[0].kernel)
    if _op(parts[0]) == "MatMul":
        return 0
    if not rank:
        return field_bytes(field_bytes(len("transB")) + 5)
    pads = any(prod(part.kernel) > 1 for part in parts)
    strides = any(part.positions < part.in_positions or part.positions < part.out_positions for part in parts)
    return pads * numbers_bytes("pads", 2 * rank) + strides * numbers_bytes("strides", rank)


def _sparse(parts: list[Part]) -> Sparse:
    groups: Sparse = defaultdict(list)
    for part in parts:
        if part.pattern:
            groups[part.weight_bits, part.pattern].append(part)
    by_table = {}
    for (bits, pattern), members in sorted(groups.items()):
        sparse = stored_sparse(pattern, bits, [(part.weights, part.kept) for part in members])
        by_table[bits, pattern] = [part for part, take in zip(members, sparse, strict=True) if take]
    return {key: members for key, members in by_table.items() if members}


def _padding(pattern: str, parts: list[Part]) -> int:
    """Weights added so that codes come in whole bytes."""
    step = group_size(pattern) * (1 if pattern == UNSTRUCTURED else ALIGN)
    return -sum(part.weights for part in parts) % step


def _kept(pattern: str, parts: list[Part]) -> int:
    """Values that the file stores for the parts of one pattern."""
    extra = 0 if pattern == UNSTRUCTURED else _padding(pattern, parts) // group_size(pattern) * group_of(pattern)[0]
    return sum(part.kept for part in parts) + extra


def _expansion(bits: int, pattern: str, parts: list[Part], names: _Names, products: set[str]) -> float:
    """The mask of all weights of one width and pattern, and what makes whole weights of the kept ones."""
    padding, width = _padding(pattern, parts), code_bits(pattern)
    codes = (sum(part.weights for part in parts) + padding) // group_size(pattern)
    value, bytes_each = names.take(), max(1, bits // 8)
    total = tensor_bytes(value, (_kept(pattern, parts),), _kept(pattern, parts) * bytes_each) if bits >= 8 else 0.0
    if width == 8:
        total += tensor_bytes(names.take(), (codes,), codes)
    else:
        total += _planes(width, codes, names)
    table, zero, axis, flat, sizes = (names.take() for _ in range(5))
    rows = 256 if width == 8 else _rows(width)
    total += tensor_bytes(table, (rows, group_size(pattern)), rows * group_size(pattern))
    total += tensor_bytes(zero, (1,), bytes_each) + tensor_bytes(axis, (), 4) + tensor_bytes(flat, (1,), 8)
    place = max(names.take() for _ in range(8))
    total += 2 * node_bytes("Cast", [place, place], TO) + 2 * node_bytes("Gather", [place] * 3)
    total += node_bytes("Reshape", [place] * 3) + node_bytes("CumSum", [place] * 3) + node_bytes("Mul", [place] * 3)
    total += node_bytes("Concat", [place] * 3, AXIS)
    pieces = [names.take() for _ in parts] + [place] * bool(padding)
    total += tensor_bytes(sizes, (len(pieces),), 8 * len(pieces)) + node_bytes("Split", [place, sizes, *pieces])
    for part, piece in zip(parts, pieces, strict=False):
        shape, rank = names.take(), len(_shape(part))
        total += tensor_bytes(shape, (rank,), 8 * rank) + node_bytes("Reshape", [piece, shape, names.take()])
        if pattern != UNSTRUCTURED and (prod(part.kernel) > 1 or part.name in products or _swapped(part)):
            total += node_bytes("Transpose", [piece, names.take()], numbers_bytes("perm", rank))
    return total


def _rows(bits: int) -> int:
    """Of a table that unpacked integers index: below 7 bits they are odd, and every second row is empty."""
    return 1 << (bits if bits == 7 else bits + 1)


def _unpacking(bits: int, shapes: list[tuple[int, ...]], names: _Names) -> float:
    """The packed stream of all weights of one width, and what turns it into one INT8 tensor for each."""
    weights = sum(map(prod, shapes))
    codes = -(-weights // ALIGN) * ALIGN
    total = _planes(bits, codes, names)
    sizes, pieces = names.take(), [names.take() for _ in shapes]
    amount = len(shapes) + (codes > weights)
    padding = [pieces[-1]] if codes > weights else []
    total += tensor_bytes(sizes, (amount,), 8 * amount) + node_bytes("Split", [sizes, sizes, *pieces, *padding])
    for weight_shape, piece in zip(shapes, pieces, strict=True):
        shape, rank = names.take(), len(weight_shape)
        total += tensor_bytes(shape, (rank,), 8 * rank) + node_bytes("Reshape", [piece, shape, names.take()])
    return total


def _planes(bits: int, codes: int, names: _Names) -> float:
    """Packed codes, and what turns them into one flat INT8 tensor."""
    flat = names.take()
    total, planes = tensor_bytes(flat, (1,), 8), []
    for width in PLANES[bits]:
        packed, index, table, gathered, plane = (names.take() for _ in range(5))
        total += tensor_bytes(packed, (codes * width // 8,), codes * width // 8)
        total += tensor_bytes(table, (256, 8 // width), 256 * 8 // width)
        total += node_bytes("Cast", [packed, index], TO) + node_bytes("Gather", [table, index, gathered])
        total += node_bytes("Reshape", [gathered, flat, plane])
        planes.append(plane)
    if len(planes) > 1:
        wide = [names.take() for _ in planes]
        total += sum(node_bytes("Cast", pair, TO) for pair in zip(planes, wide, strict=True))
        added = wide[0]
        for plane in wide[1:]:
            previous, added = added, names.take()
            total += node_bytes("Add", [previous, plane, added])
        total += node_bytes("Cast", [added, names.take()], TO)
    return total


def _stored(part: Part, names: _Names, transposed: bool, sparse: bool) -> float:
    """Tensors of one part and the nodes that restore its weight, what parts of its width share left out. A matrix
    product without a bias is stored `transposed`."""
    if part.kind == "norm":
        return 4 * tensor_bytes(SKELETON_NAME, (part.out_channels,), 4 * part.out_channels)
    if part.kind == "other":
        return tensor_bytes(SKELETON_NAME, (part.weights,), 4 * part.weights)
    channels, shape = part.out_channels, _shape(part)
    total: float = tensor_bytes(SKELETON_NAME, (channels,), 4 * channels) if part.bias else 0
    if part.weight_bits == 32 and sparse:
        return total + names.take() - SKELETON_NAME
    if part.weight_bits == 32:
        return total + tensor_bytes(_weight_name(part), shape, 4 * part.weights)
    name = names.take()
    if part.weight_bits == 16:
        weight = _restored_name(part, names)
        total += 0 if sparse else tensor_bytes(name, shape, 2 * part.weights)
        return total + node_bytes("Cast", [name, weight], TO) + weight - SKELETON_NAME
    if part.weight_bits == 8 and not sparse:
        total += tensor_bytes(name, shape, part.weights)
    if part.grid != "linear":
        index, table, name = names.take(), names.take(), names.take()
        rows = _rows(part.weight_bits)
        total += node_bytes("Cast", [name, index], TO) + tensor_bytes(table, (rows,), rows)
        total += node_bytes("Gather", [table, index, name])
    if part.quant_group_size:
        return total + _grouped(part, name, names, transposed)
    scale, weight = names.take(), _restored_name(part, names)
    if part.activation_bits <= 16:
        total += tensor_bytes(scale, (channels,), 4 * channels)
        total += node_bytes("DequantizeLinear", [name, scale, weight], AXIS)
    else:
        wide = names.take()
        total += tensor_bytes(scale, (channels,) + (1,) * (len(shape) - 1), 4 * channels)
        total += node_bytes("Cast", [name, wide], TO) + node_bytes("Mul", [wide, scale, weight])
    return total + weight - _replaced_name(part)


def _grouped(part: Part, name: int, names: _Names, transposed: bool) -> float:
    """Scales, factors and the nodes that give each weight its step and its value."""
    shape, channels = _shape(part), part.out_channels
    columns = part.weights // channels
    runs = -(-columns // part.quant_group_size)

    def numbers(amount: int) -> int:
        return tensor_bytes(taken, (amount,), 8 * amount) + node_bytes(op, [steps, taken, after])

    wide, factors, steps, scale, after = (names.take() for _ in range(5))
    total = node_bytes("Cast", [name, wide], TO) + tensor_bytes(factors, (channels, runs, 1), channels * runs)
    total += node_bytes("Cast", [factors, steps], TO) + tensor_bytes(scale, (channels, 1, 1), 4 * channels)
    total += node_bytes("Mul", [steps, scale, after])
    sizes = {"Expand": 3, "Reshape": 2}
    if columns % part.quant_group_size:
        sizes["Split"] = 2
    for op, amount in sizes.items():
        taken, steps, after = names.take(), after, names.take()
        total += numbers(amount)
        if op == "Split":
            total += field_bytes(names.take()) + AXIS
    if transposed:
        steps, after = after, names.take()
        total += node_bytes("Transpose", [steps, after])
    elif part.kernel:
        op, taken, steps, after = "Reshape", names.take(), after, names.take()
        total += numbers(len(shape))
    if _swapped(part):
        steps, after = after, names.take()
        total += node_bytes("Transpose", [steps, after], numbers_bytes("perm", len(shape)))
    weight = _restored_name(part, names)
    return total + node_bytes("Mul", [wide, after, weight]) + weight - _replaced_name(part)


def _restored_name(part: Part, names: _Names) -> int:
    """Length of the name of a restored weight."""
    return SKELETON_NAME if _arranged(part) else names.take()


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
    total = tensor_bytes(scale, (), 4) + tensor_bytes(zero, (), bits // 8)
    total += node_bytes("QuantizeLinear", [SKELETON_NAME, scale, zero, code])
    total += node_bytes("DequantizeLinear", [code, scale, zero, real])
    return total + READERS * (real - SKELETON_NAME)
