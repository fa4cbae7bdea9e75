"""Bytes of files of torch's formats, from facts alone.

A tensor takes its bytes and an entry of known length. What a layer's operators take in a compressed graph is a typical
number of bytes; all that does not follow from layers is the skeleton, measured once on the original's file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autocompress.core.layer import Part
from autocompress.formats.packing import ALIGN, PLANES
from autocompress.formats.pytorch.stored import BYTE, sparse_bits

# Bytes of one more call in a compressed graph of a safetensors file, and of the five that round what a layer reads.
CALL, ROUNDING = 12, 38
# Bytes of an archive's entry beside its name: its headers in front of the content and at the end of the file.
ENTRY = 30 + 46
ENTRY_NAME = len("archive/data/weights/weight_10")
# Compressed bytes that an archive's JSON takes: for a tensor, for one more factor, for what rounds an input, for what
# restores a weight of a kind, and once, for what all restored weights share. Least squares over small networks.
SAID, FACTOR, ROUNDING_PT2, SHARED = 160.6, -88.3, 147.2, 299.4
EIGHT, NARROW, PLANE, HALF, TABLE, FACTORS, MASK = -16.8, 186.5, 47.8, 60.7, -111.7, 12.1, 131.0


@dataclass(frozen=True)
class Stored:
    """One tensor: its name, its type in letters, its shape and its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int


def safetensors_bytes(parts: Sequence[Part], skeleton_bytes: int) -> int:
    """Predict the bytes of a safetensors file."""
    tensors = [tensor for part in parts for tensor in tensors_of(part)]
    digits = len(str(sum(tensor.size for tensor in tensors)))
    total = skeleton_bytes + sum(tensor.size + _entry(tensor, digits) for tensor in tensors)
    total += sum(_facts(part) for part in parts if _is_packed(part))
    return round(total + CALL * _factors(parts) + ROUNDING * sum(part.activation_bits <= 16 for part in parts))


def pt2_bytes(parts: Sequence[Part], skeleton_bytes: int) -> int:
    """Predict the bytes of an archive."""
    tensors = [tensor for part in parts for tensor in tensors_of(part)]
    packed = [part for part in parts if _is_packed(part)]
    total = skeleton_bytes + sum(tensor.size + ENTRY + 2 * ENTRY_NAME + SAID for tensor in tensors)
    total += FACTOR * _factors(parts) + ROUNDING_PT2 * sum(part.activation_bits <= 16 for part in parts)
    return round(total + SHARED * bool(packed) + sum(map(_restoring, packed)))


def _restoring(part: Part) -> float:
    """Bytes of the operators that restore a weight in an archive."""
    bits = part.weight_bits
    total = MASK * _is_sparse(part) + FACTORS * bool(part.quant_group_size)
    if bits < BYTE:
        return total + NARROW + PLANE * (len(PLANES[bits]) - 1) + TABLE * (part.grid != "linear")
    return total + (EIGHT if bits == BYTE else HALF if bits == 2 * BYTE else 0)


def tensors_of(part: Part) -> list[Stored]:
    """The tensors that are stored of a part."""
    channels = part.out_channels
    if part.kind == "norm":
        return [Stored(f"{part.name}.{name}", "F32", (channels,), 4 * channels)
                for name in ("weight", "bias", "running_mean", "running_var")]
    if part.kind == "other":
        return [Stored(f"{part.name}.weight", "F32", (part.weights,), 4 * part.weights)]
    shape = (channels, part.in_channels // part.groups, *part.kernel)
    tensors = [Stored(f"{part.name}.bias", "F32", (channels,), 4 * channels)] if part.bias else []
    if not _is_packed(part):
        return [*tensors, Stored(f"{part.name}.weight", "F32", shape, 4 * part.weights)]
    return [*tensors, *(Stored(f"{part.name}.weight.{name}", dtype, of, size)
                        for name, dtype, of, size in _packed(part))]


def _packed(part: Part) -> Iterable[tuple[str, str, tuple[int, ...], int]]:
    """Name, type, shape and bytes of what is stored of a weight that is not plain."""
    count, bits, channels = _kept(part), part.weight_bits, part.out_channels
    if _is_sparse(part):
        yield "mask", "U8", (-(-part.weights // BYTE),), -(-part.weights // BYTE)
    if bits < BYTE:
        for i, width in enumerate(PLANES[bits]):
            size = -(-count // ALIGN) * ALIGN * width // BYTE
            yield f"plane{i}", "U8", (size,), size
        if part.grid != "linear":
            yield "table", "I8", (2**bits,), 2**bits
    else:
        yield "values", {8: "I8", 16: "F16", 32: "F32"}[bits], (count,), count * bits // BYTE
    if bits <= BYTE:
        yield "scale", "F32", (channels,), 4 * channels
        if part.quant_group_size:
            runs = -(-part.weights // channels // part.quant_group_size)
            yield "factors", "U8", (channels, runs), channels * runs


def _is_sparse(part: Part) -> bool:
    return bool(part.pattern) and sparse_bits(part.weights, part.kept, part.weight_bits)


def _is_packed(part: Part) -> bool:
    return part.kind not in ("norm", "other") and (part.weight_bits < 32 or _is_sparse(part))


def _kept(part: Part) -> int:
    return part.kept if _is_sparse(part) else part.weights


def _factors(parts: Sequence[Part]) -> int:
    """Calls beside one for each layer."""
    return sum(count - 1 for count in Counter(part.layer for part in parts).values())


def _entry(tensor: Stored, digits: int) -> int:
    """Bytes of a tensor's entry in the header of a safetensors file."""
    shape = sum(len(str(size)) + 1 for size in tensor.shape) - 1
    return len(f'"{tensor.name}":{{"dtype":"{tensor.dtype}","shape":[],"data_offsets":[,]}},') + shape + 2 * digits


def _facts(part: Part) -> int:
    """Bytes of what the header says of a packed weight, its quotes behind backslashes."""
    shape = (part.out_channels, part.in_channels // part.groups, *part.kernel)
    numbers = f"[{list(shape)},{part.weight_bits},{_kept(part)},{part.quant_group_size}],".replace(" ", "")
    return len(f'\\"{part.name}.weight\\":{numbers}')


