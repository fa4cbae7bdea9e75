"""Sparse weights in the bytes that they need: the values that are kept, and which they are.

For each group of weights a code is stored, a byte of a bit mask or the number of an n:m arrangement. A table turns
codes into a mask of zeros and ones; its running sum is the place of each kept weight among the values, and times the
mask it is zero, the place of a zero put before them, for each weight that is gone. Runtimes fold all this when they
load the file, after which the weights are plain tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from onnx import TensorProto

from autocompress.core.sparsity import UNSTRUCTURED, code_bits, group_of, group_size
from autocompress.formats.base import Mask
from autocompress.formats.onnx.sparse_choice import stored_sparse
from autocompress.formats.packing import ALIGN, integers, lookup


@dataclass(frozen=True)
class Writer:
    """What adds constants and nodes to the head of a graph; each returns names of tensors."""

    # Stores a tensor.
    constant: Callable[[np.ndarray], str]
    # Adds a node: operator, inputs, number of outputs, attributes.
    node: Callable[..., list[str]]
    # Stores `integers` of that many bits, a multiple of `ALIGN` of them; restored as flat INT8.
    unpack: Callable[[np.ndarray, int], str]


@dataclass(frozen=True)
class Packed:
    """Weights of one pattern, flattened one after the other, with input channels innermost where it is n:m."""

    pattern: str
    values: np.ndarray
    codes: np.ndarray
    # In the stream, by name.
    shapes: dict[str, tuple[int, ...]]
    # Axes of the stream's shape that make the weight's own; nothing where they agree.
    orders: dict[str, tuple[int, ...]]
    padding: int


def to_store(masks: Mapping[str, Mask], bits: Mapping[str, int]) -> dict[tuple[int, str], list[str]]:
    """Return the names of the layers to store sparse by width and pattern, sorted; the others are smaller dense."""
    groups: dict[tuple[int, str], list[str]] = {}
    for name in sorted(masks):
        groups.setdefault((bits[name], masks[name].pattern), []).append(name)
    result = {}
    for (width, pattern), names in sorted(groups.items()):
        counts = [(masks[name].kept.numel(), int(masks[name].kept.sum())) for name in names]
        sparse = stored_sparse(pattern, width, counts)
        if any(sparse):
            result[width, pattern] = [name for name, take in zip(names, sparse, strict=True) if take]
    return result


def pack_sparse(pattern: str, weights: Mapping[str, np.ndarray], masks: Mapping[str, np.ndarray],
                inputs: Mapping[str, int]) -> Packed:
    """Pack the kept values and the codes of masks; weights and masks are in the file's axes, `inputs` is the axis of
    the input channels of each."""
    shapes, orders, values, flags = {}, {}, [], []
    for name, weight in weights.items():
        axes = list(range(weight.ndim))
        if pattern != UNSTRUCTURED:
            axes.append(axes.pop(inputs[name]))
        streamed = weight.transpose(axes)
        squeezed = [axis for axis in axes if weight.shape[axis] > 1]
        moved = squeezed != sorted(squeezed)  # axes of length one move for nothing
        shapes[name] = streamed.shape if moved else weight.shape
        orders[name] = tuple(int(axis) for axis in np.argsort(axes)) if moved else ()
        mask = masks[name].transpose(axes).reshape(-1)
        values.append(streamed.reshape(-1)[mask])
        flags.append(mask)
    mask, padding = _padded(np.concatenate(flags), pattern)
    whole = np.concatenate(values)
    filling = np.ones(int(mask[len(mask) - padding:].sum()), whole.dtype)
    return Packed(pattern, np.concatenate([whole, filling]), _codes(mask, pattern), shapes, orders, padding)


def _padded(mask: np.ndarray, pattern: str) -> tuple[np.ndarray, int]:
    """Pad a mask to whole groups, and to a multiple of `ALIGN` codes of n:m; a group added is like any other."""
    size = group_size(pattern)
    if pattern == UNSTRUCTURED:
        padding = -len(mask) % size
        return np.pad(mask, (0, padding)), padding
    groups = -(len(mask) // size) % ALIGN
    return np.concatenate([mask, np.tile(arrangements(pattern)[0], groups)]), groups * size


def arrangements(pattern: str) -> np.ndarray:
    """Return the masks for which codes stand, bool `(codes, group)`."""
    size = group_size(pattern)
    if pattern == UNSTRUCTURED:
        return (np.arange(2**size)[:, None] >> np.arange(size) & 1).astype(bool)
    n, m = group_of(pattern)
    places = np.array(list(combinations(range(m), n)))
    table = np.zeros((len(places), m), bool)
    np.put_along_axis(table, places, True, axis=1)
    return table


def _codes(mask: np.ndarray, pattern: str) -> np.ndarray:
    size = group_size(pattern)
    power = 1 << np.arange(size)
    code_of = np.zeros(2**size, np.int32)
    code_of[arrangements(pattern) @ power] = np.arange(len(arrangements(pattern)))
    codes: np.ndarray = code_of[mask.reshape(-1, size) @ power]
    return codes


def expand(writer: Writer, values: str, packed: Packed) -> dict[str, str]:
    """Add the nodes that restore whole weights from the tensor `values`, and return their names by layer."""
    mask = _mask(writer, packed)
    (places,) = writer.node("CumSum", [mask, writer.constant(np.array(0, np.int32))])
    (index,) = writer.node("Mul", [places, mask])
    (padded,) = writer.node("Concat", [writer.constant(np.zeros(1, packed.values.dtype)), values], axis=0)
    (whole,) = writer.node("Gather", [padded, index])
    sizes = [int(np.prod(shape)) for shape in packed.shapes.values()] + ([packed.padding] if packed.padding else [])
    pieces = writer.node("Split", [whole, writer.constant(np.array(sizes, np.int64))], len(sizes))
    restored = {}
    for (name, shape), piece in zip(packed.shapes.items(), pieces, strict=False):
        (restored[name],) = writer.node("Reshape", [piece, writer.constant(np.array(shape, np.int64))])
        if packed.orders[name]:
            (restored[name],) = writer.node("Transpose", [restored[name]], perm=packed.orders[name])
    return restored


def _mask(writer: Writer, packed: Packed) -> str:
    """Add the nodes of a flat INT32 mask of zeros and ones, and return its name."""
    bits, table = code_bits(packed.pattern), arrangements(packed.pattern).astype(np.int8)
    if bits == 8:
        stored = writer.constant(packed.codes.astype(np.uint8))
    else:
        stored = writer.unpack(integers(bits)[packed.codes], bits)
        table = lookup(table, bits)
    (index,) = writer.node("Cast", [stored], to=TensorProto.INT32)
    (rows,) = writer.node("Gather", [writer.constant(table), index])
    (flat,) = writer.node("Reshape", [rows, writer.constant(np.array([-1], np.int64))])
    return writer.node("Cast", [flat], to=TensorProto.INT32)[0]

