"""Where a file holds a tensor."""

from __future__ import annotations

from typing import NamedTuple


class Span(NamedTuple):
    """A range of bytes that holds numbers of `bits` each: 1, 2 or 4 bits packed into bytes, the first in the lowest
    bits; or 8, 16, 32 or 64, little-endian."""

    begin: int
    length: int
    bits: int = 8
