"""Low-bit integers in as many bits as they have, unpacked by the runtime itself when it loads the file.

A b-bit code u in [0, 2**b) stands for the odd integer 2u + 1 - 2**b: all levels are used, the grid is
symmetric, and a sign can be moved into the codes. Codes are cut into planes of 4, 2 and 1 bits, each packed
into bytes; a 256-row table turns a byte into its codes' INT8 shares, and the planes are summed. Runtimes fold
this arithmetic at load time, after which the weights are plain INT8. Gathering from a table loads and runs
right everywhere it was tried, where native INT2 or bit shifts do not.
"""

from __future__ import annotations

import numpy as np

PLANES: dict[int, tuple[int, ...]] = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1)}
"""Bits of each plane, least significant first, by bit-width."""

LOOKED_UP = 2
"""Rows of a lookup table by number of levels: odd integers leave every second row empty."""

ALIGN = 8
"""Codes are padded to a multiple of this, so that every plane has the same number of them."""


def pack(levels: np.ndarray, bits: int) -> list[np.ndarray]:
    """Odd integers in [1 - 2**bits, 2**bits - 1] → one uint8 array per plane of `PLANES[bits]`."""
    codes = (levels.astype(np.int32).reshape(-1) + 2**bits - 1) >> 1
    codes = np.pad(codes, (0, -len(codes) % ALIGN)).astype(np.uint8)
    packed, shift = [], 0
    for width in PLANES[bits]:
        plane = (codes >> shift) & (2**width - 1)
        rows = plane.reshape(-1, 8 // width)
        places = np.arange(8 // width) * width
        packed.append((rows << places).sum(axis=1).astype(np.uint8))
        shift += width
    return packed


def tables(bits: int) -> list[np.ndarray]:
    """For each plane an INT8 table (256, 8 / width): a byte → its codes' shares of the odd integers."""
    result, shift = [], 0
    for index, width in enumerate(PLANES[bits]):
        places = np.arange(8 // width) * width
        codes = (np.arange(256)[:, None] >> places) & (2**width - 1)
        offset = 1 - 2**bits if index == 0 else 0
        result.append((2 * (codes << shift) + offset).astype(np.int8))
        shift += width
    return result


def index_in(levels: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Levels of an ascending int8 `table` (2**bits,) → the odd integers that stand for them, int8."""
    index: np.ndarray = 2 * np.searchsorted(table, levels) + 1 - len(table)
    return index.astype(np.int8)


def lookup(table: np.ndarray) -> np.ndarray:
    """`lookup(table)[index_in(levels, table)]` is `levels`: negative indices count from the end, in ONNX as here."""
    rows = np.zeros(LOOKED_UP * len(table), np.int8)
    rows[2 * np.arange(len(table)) + 1 - len(table)] = table
    return rows


def unpack(packed: list[np.ndarray], bits: int, count: int) -> np.ndarray:
    """The inverse of `pack`: `count` odd integers as int8, by the same tables the file carries."""
    planes = [table[plane].reshape(-1) for table, plane in zip(tables(bits), packed, strict=True)]
    total: np.ndarray = np.stack(planes).sum(axis=0, dtype=np.int32)
    return total[:count].astype(np.int8)
