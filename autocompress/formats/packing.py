"""Low-bit integers in as many bits as they have, unpacked by the runtime itself when it loads the file.

Below 7 bits a code u in [0, 2**b) stands for the odd integer 2u + 1 - 2**b: all levels are used, the grid is
symmetric, and a sign can be moved into the codes. Seven bits stand for u - 64: odd integers would reach 127, and two
weights above 64 overflow the 16 bits in which some CPUs add (one code, -64, is then idle). Codes are cut into planes
of 4, 2 and 1 bits, each packed into bytes; a 256-row table turns a byte into its codes' INT8 shares, and the planes
are summed. Runtimes fold this arithmetic at load time, after which the weights are plain INT8. Gathering from a table
loads and runs right everywhere it was tried, where native INT2 or bit shifts do not.
"""

from __future__ import annotations

import numpy as np

# Bits of each plane, least significant first, by bit-width.
PLANES: dict[int, tuple[int, ...]] = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1)}

ALIGN = 8  # codes are padded to a multiple of this, so that every plane has the same number of them


def integers(bits: int) -> np.ndarray:
    """Return the integers for which codes 0 to 2**bits - 1 stand: ascending, int8 `(2**bits,)`."""
    odd: np.ndarray = np.arange(1 - 2**bits, 2**bits, 2)
    return (odd if bits < 7 else (odd - 1) // 2).astype(np.int8)


def pack(levels: np.ndarray, bits: int) -> list[np.ndarray]:
    """Pack levels, each one of `integers(bits)`, into one uint8 array for each plane of `PLANES[bits]`."""
    first, second = integers(bits)[:2].astype(np.int32)
    codes = (levels.astype(np.int32).reshape(-1) - first) // (second - first)
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
    """Build for each plane an INT8 table `(256, 8 / width)` from a byte to its codes' shares of the integers."""
    first, second = integers(bits)[:2].astype(np.int32)
    result, shift = [], 0
    for index, width in enumerate(PLANES[bits]):
        places = np.arange(8 // width) * width
        codes = (np.arange(256)[:, None] >> places) & (2**width - 1)
        offset = first if index == 0 else 0
        result.append(((second - first) * (codes << shift) + offset).astype(np.int8))
        shift += width
    return result


def index_in(levels: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Replace levels of an ascending int8 `table` `(2**bits,)` by the integers that stand for them, int8."""
    stand_ins: np.ndarray = integers(len(table).bit_length() - 1)[np.searchsorted(table, levels)]
    return stand_ins


def lookup(table: np.ndarray, bits: int) -> np.ndarray:
    """Reorder `table` `(at most 2**bits, …)` so that the integers that stand for codes index it: negative indices count
    from the end, in ONNX as here, and odd integers leave every second row empty."""
    places = integers(bits).astype(np.int64)
    rows = np.zeros(((places[1] - places[0]) * 2**bits, *table.shape[1:]), table.dtype)
    rows[places[:len(table)]] = table
    return rows


def unpack(packed: list[np.ndarray], bits: int, count: int) -> np.ndarray:
    """Invert `pack`: `count` integers as int8, by the same tables as the file's."""
    planes = [table[plane].reshape(-1) for table, plane in zip(tables(bits), packed, strict=True)]
    total: np.ndarray = np.stack(planes).sum(axis=0, dtype=np.int32)
    return total[:count].astype(np.int8)
