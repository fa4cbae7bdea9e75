"""Data in an .npz file, whose large arrays are mapped and not read."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from autocompress.errors import InputError
from autocompress.tasks.arrays import OPTIONS, SPELLINGS, from_memory, refuse_bomb
from autocompress.tasks.samples import READ_WHOLE_BYTES
from autocompress.tasks.splits import TaskData

# From here on an array that is stored uncompressed is mapped; a still larger one is read by rows
# (`arrays.in_its_file`).
MAPPED_BYTES = 64 * 2**20
_STORED = tuple(name for name in OPTIONS if name != "augment")
_PAIRS = (("x", "y"), ("images", "labels"), ("data", "labels"), ("data", "target"), ("inputs", "targets"),
          ("inputs", "labels"), ("features", "labels"))
_LOCAL_HEADER = struct.Struct("<26xHH")


def from_npz(path: Path, seed: int, options: dict[str, Any] | None = None) -> TaskData:
    """An .npz with x and y, or x_train, y_train and x_/y_ of val or validation and of test; images and labels, and
    train_images and the like, are understood too, in any case of letters.

    It may also hold classes, mean, std, pad, flip and inputs. Never unpickles. InputError when it is no such
    file, is damaged, declares 500 times its own size, or more than 8 GiB of it is compressed.
    """
    arrays = read_arrays(path)
    lower = {name.lower(): array for name, array in arrays.items()}
    value: dict[str, Any] = {key: lower[key].tolist() for key in _STORED if key in lower and lower[key].ndim < 2
                             and lower[key].size < 4096}
    for split, spellings in SPELLINGS.items():
        names = list(_names(split, spellings))
        pair = next(((x, y) for x, y in names if x in lower and y in lower), None)
        pair = pair or next(((x, y) for x, y in names if x in lower or y in lower), None)
        if pair is None:
            continue
        if not all(name in lower for name in pair):
            there, absent = pair if pair[0] in lower else reversed(pair)
            raise InputError(f"{path} holds {there} and so must hold {absent}, but does not: it holds "
                             f"{', '.join(arrays)}")
        value[split] = (lower[pair[0]], lower[pair[1]])
    if "train" not in value:
        held = ", ".join(arrays) or "none"
        raise InputError(f"{path} must hold arrays x and y, or x_train and y_train, but holds {held}")
    return from_memory(value | (options or {}), path.stem, seed)


def holds_pairs(path: Path) -> bool:
    """Whether an .npz file has inputs and labels under the names that `from_npz` understands; also where it cannot be
    read, so that `from_npz` says why."""
    try:
        with zipfile.ZipFile(path) as archive:
            held = {name.removesuffix(".npy").lower() for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile):
        return True
    return any(x in held and y in held for x, y in _names("train", SPELLINGS["train"]))


def read_arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of an .npz file by name, large ones mapped. InputError as of `from_npz`."""
    if not path.is_file():
        raise InputError(f"data: there is no file {str(path)!r}")
    try:
        with zipfile.ZipFile(path) as archive:
            refuse_bomb(archive, path)
            return {info.filename.removesuffix(".npy"): _array(archive, info, path) for info in archive.infolist()}
    except zipfile.BadZipFile as error:
        hint = ": put the arrays into one file by numpy.savez(file, x=…, y=…)" if path.suffix == ".npy" else ""
        raise InputError(f"{path} must be an intact .npz file of plain arrays, but: {error}{hint}") from error
    except (zlib.error, OSError, EOFError, ValueError, MemoryError, RuntimeError,
            struct.error) as error:
        raise InputError(f"{path} must be an intact .npz file of plain arrays, but: {error}") from error


def _names(split: str, spellings: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """The names that inputs and labels of a split may have, those with the split's name first."""
    for spelling in spellings:
        for x, y in _PAIRS:
            yield f"{x}_{spelling}", f"{y}_{spelling}"
            yield f"{spelling}_{x}", f"{spelling}_{y}"
            yield f"{x}{spelling}", f"{y}{spelling}"
    if split == "train":
        yield from _PAIRS


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> np.ndarray[Any, Any]:
    with archive.open(info) as stream:
        shape, order, dtype, offset = _header(stream, info)
        if info.compress_type == zipfile.ZIP_STORED and info.file_size >= MAPPED_BYTES and not dtype.hasobject:
            while info.file_size <= READ_WHOLE_BYTES and stream.read(2**20):  # the checksum is compared at its end
                pass
            return np.memmap(path, dtype, "c", _start(path, info) + offset, shape, "F" if order else "C")
    with archive.open(info) as stream:
        array: np.ndarray[Any, Any] = np.lib.format.read_array(stream, allow_pickle=False)
        return array


def _start(path: Path, info: zipfile.ZipInfo) -> int:
    """Where an entry's bytes begin in the archive: its local header has fields of its own lengths."""
    with path.open("rb") as stream:
        stream.seek(info.header_offset)
        name, extra = _LOCAL_HEADER.unpack(stream.read(_LOCAL_HEADER.size))
    return info.header_offset + _LOCAL_HEADER.size + int(name) + int(extra)


def _header(stream: IO[bytes], info: zipfile.ZipInfo) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, Fortran order, type and the header's length. ValueError when the array's own header asks for more memory
    than the archive's entry holds."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, order, dtype = read(stream)
    if dtype.hasobject:
        name = info.filename.removesuffix(".npy")
        raise ValueError(f"{name} holds Python objects, which are not read: store names by {name}.astype(str), numbers "
                         f"by {name}.astype(float)")
    if math.prod(shape) * dtype.itemsize > info.file_size:
        raise ValueError(f"{info.filename} declares {shape} {dtype}, more than its {info.file_size:,} bytes hold")
    return shape, order, dtype, stream.tell()
