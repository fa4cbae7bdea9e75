"""The difference between two tensors of one size as bytes that compress well, and its inverse.

Numbers are subtracted modulo their range and folded so that small differences of either sign are small numbers
(zigzag, as of protobuf); numbers of several bytes are then cut into planes, all lowest bytes first.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_WIDE: dict[int, np.dtype[Any]] = {8: np.dtype("u1"), 16: np.dtype("<u2"), 32: np.dtype("<u4"), 64: np.dtype("<u8")}
PACKED = (1, 2, 4)
LEGAL_BITS = (*PACKED, *_WIDE)


def difference(old: bytes, new: bytes, bits: int) -> bytes:
    """What turns `old` into `new`, of the same length, as numbers of `bits` each; bytes where they fill no number."""
    bits = _fitting(bits, len(new))
    before, after = _numbers(old, bits), _numbers(new, bits)
    half, every = _ones(before, bits - 1), _ones(before, bits)
    change = (after - before) & every
    folded = np.where(change > half, ((every - change) << 1) + 1, change << 1) & every
    return _bytes(folded.astype(before.dtype), bits)


def applied(old: bytes, change: bytes, bits: int) -> bytes:
    """The inverse: what `difference` was given as `new`."""
    bits = _fitting(bits, len(old))
    folded = _numbers(change, bits, planes=True)
    before = _numbers(old, bits)
    every = _ones(before, bits)
    step: np.ndarray = np.where(folded & 1, every - (folded >> 1), folded >> 1).astype(before.dtype)
    return _stored((before + step) & every, bits)


def _fitting(bits: int, length: int) -> int:
    return bits if bits < 8 or length % (bits // 8) == 0 else 8


def _ones(numbers: np.ndarray, bits: int) -> Any:
    """A number of the arrays' own type whose lowest bits are ones."""
    return numbers.dtype.type((1 << bits) - 1)


def _numbers(data: bytes, bits: int, planes: bool = False) -> np.ndarray:
    """Numbers `(N,)`, one a byte where they are packed; of `planes`, as `_bytes` lays them out."""
    if bits in PACKED:
        places = np.arange(8 // bits, dtype=np.uint8) * np.uint8(bits)
        fields: np.ndarray = (np.frombuffer(data, np.uint8)[:, None] >> places) & np.uint8((1 << bits) - 1)
        return fields.reshape(-1)
    if planes and bits > 8:
        data = np.frombuffer(data, np.uint8).reshape(bits // 8, -1).T.tobytes()
    return np.frombuffer(data, _WIDE[bits])


def _stored(numbers: np.ndarray, bits: int) -> bytes:
    """Numbers as the file stores them."""
    if bits in PACKED:
        places = np.arange(8 // bits, dtype=np.uint8) * np.uint8(bits)
        numbers = (numbers.reshape(-1, 8 // bits) << places).sum(axis=1, dtype=np.uint8)
        return numbers.tobytes()
    return numbers.astype(_WIDE[bits]).tobytes()


def _bytes(numbers: np.ndarray, bits: int) -> bytes:
    """Numbers as they compress well."""
    data = _stored(numbers, bits)
    return np.frombuffer(data, np.uint8).reshape(-1, bits // 8).T.tobytes() if bits > 8 else data
