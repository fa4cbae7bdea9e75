"""Sparsity patterns as arithmetic: how many weights a layer keeps, and the bits that their mask takes.

`unstructured`: any of them; a bit for each weight says which. `n:m`: n of every m consecutive input channels, at each
tap of the kernel, which is the order in which a matrix product sums them; one code says which of the arrangements.
"""

from __future__ import annotations

import re
from functools import lru_cache
from math import comb

from autocompress.errors import InputError

UNSTRUCTURED = "unstructured"
MAX_ARRANGEMENTS = 256
MAX_GROUP = 16
BYTE = 8


@lru_cache(maxsize=64)
def group_of(pattern: str) -> tuple[int, int]:
    """`"2:4"` → (2, 4). InputError for anything else but a small n:m."""
    match = re.fullmatch(r"([1-9]\d?):([1-9]\d?)", pattern)
    n, m = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 0 < n < m <= MAX_GROUP or comb(m, n) > MAX_ARRANGEMENTS:
        raise InputError(f"a sparsity pattern must be {UNSTRUCTURED!r} or n:m with n < m ≤ {MAX_GROUP} and at most "
                         f"{MAX_ARRANGEMENTS} arrangements, such as '2:4', but got {pattern!r}")
    return n, m


def code_bits(pattern: str) -> int:
    """Return the bits of the code for one group of weights: a group of `unstructured` is a byte of the mask."""
    if pattern == UNSTRUCTURED:
        return BYTE
    n, m = group_of(pattern)
    return (comb(m, n) - 1).bit_length()


def group_size(pattern: str) -> int:
    """Return the number of weights that share one code."""
    return BYTE if pattern == UNSTRUCTURED else group_of(pattern)[1]


def kept_weights(weights: int, pattern: str, density: float = 1.0) -> int:
    """Return how many of a layer's weights stay; `density` applies to `unstructured` only, and keeps at least one."""
    if pattern == UNSTRUCTURED:
        return max(1, min(weights, round(weights * density)))
    n, m = group_of(pattern)
    return weights // m * n


def mask_bits(pattern: str) -> float:
    """Return the bits of the mask for each weight, kept or not."""
    return code_bits(pattern) / group_size(pattern)


def saves(pattern: str, weights: int, nonzero: int, bits: int) -> bool:
    """Tell whether a layer is smaller sparse than dense, without the tables that layers share."""
    return mask_bits(pattern) * weights + nonzero * bits < weights * bits


def stored_bits(pattern: str, weights: int, nonzero: int, bits: int) -> float:
    """Return the bits of a layer's weights with their mask, or dense where smaller; without a pattern always dense."""
    if pattern and (bits < 8 or saves(pattern, weights, nonzero, bits)):
        return mask_bits(pattern) * weights + nonzero * bits
    return weights * bits
