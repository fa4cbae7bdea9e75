"""Decoded pictures in the user's cache folder, as many as a size allows."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import weakref
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

try:
    import fcntl
except ImportError:  # not on Windows: files that are open cannot be removed there anyway
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

DEFAULT_BYTES = 10 * 10**9
# What stays free of the disk.
LEFT_FREE_BYTES = 2 * 10**9
_PIXELS, _SUMS = "pixels.bin", "sums.bin"


class PictureCache:
    """The rows of one data set of decoded pictures, in two files: the bytes of each row at its place in a sparse file,
    and its checksum, 0 where there is none yet. Processes and threads share it without waiting for one another, since
    whoever writes a row writes the same.

    Where the size is reached, the folders of other data sets go that were not used for longest and are not in use;
    where that does not make room, or the disk is full, no further row is kept.

    Args:
        folder: of the caches of all data sets.
        key: the name of this one: a hash of all that the rows follow from.
        rows: number of rows.
        row_bytes: the length of each.
        limit: bytes of all data sets together.
    """

    def __init__(self, folder: Path, key: str, rows: int, row_bytes: int, limit: int) -> None:
        self._arguments = folder, key, rows, row_bytes, limit
        self._folder, self._place, self._row_bytes, self._limit = folder, folder / key, row_bytes, limit
        self._lock, self._room = threading.Lock(), 0
        self._pixels = self._sums_file = -1
        self._sums = np.zeros(rows, np.uint32)
        if hasattr(os, "preadv"):  # not on Windows
            try:
                self._open()
            except OSError as error:
                self._give_up(error)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the same files."""
        return PictureCache, self._arguments

    def read(self, row: int, buffer: memoryview) -> bool:
        """Fill `buffer` with a row, and return whether it was there."""
        if self._pixels < 0:
            return False
        try:
            if not self._sums[row]:  # another process may have written it
                checksum = os.pread(self._sums_file, 4, 4 * row)
                self._sums[row] = int.from_bytes(checksum, "little") if len(checksum) == 4 else 0
            return bool(self._sums[row]) and os.preadv(self._pixels, [buffer], row * self._row_bytes) == len(buffer) \
                and _sum(buffer) == self._sums[row]
        except OSError as error:
            self._give_up(error)
            return False

    def write(self, row: int, buffer: memoryview) -> None:
        """Keep a row, if there is room for it."""
        if self._pixels < 0 or not self._has_room():
            return
        try:
            os.pwrite(self._pixels, buffer, row * self._row_bytes)
            os.pwrite(self._sums_file, _sum(buffer).to_bytes(4, "little"), 4 * row)
            self._sums[row] = _sum(buffer)
        except OSError as error:
            self._give_up(error)

    @property
    def held(self) -> int:
        """Number of rows that are kept, as far as this process knows."""
        return int(np.count_nonzero(self._sums))

    def _open(self) -> None:
        self._place.mkdir(parents=True, exist_ok=True)
        self._sums_file = os.open(self._place / _SUMS, os.O_RDWR | os.O_CREAT, 0o600)
        weakref.finalize(self, os.close, self._sums_file)
        if fcntl is not None:
            fcntl.flock(self._sums_file, fcntl.LOCK_SH)
        os.truncate(self._sums_file, self._sums.nbytes)
        stored = np.frombuffer(os.pread(self._sums_file, self._sums.nbytes, 0), "<u4")
        self._sums[:len(stored)] = stored
        os.utime(self._place / _SUMS)
        self._pixels = os.open(self._place / _PIXELS, os.O_RDWR | os.O_CREAT, 0o600)
        weakref.finalize(self, os.close, self._pixels)
        self._room = self._left()

    def _has_room(self) -> bool:
        """Take the room of one row, made where possible by removing what was not used for longest."""
        with self._lock:
            if self._row_bytes > self._limit:
                return False
            while self._room < self._row_bytes:
                oldest = self._oldest()
                if oldest is None:
                    return False
                log.info("decoded pictures of %s were not used for longest and make room for others", oldest.name)
                shutil.rmtree(oldest, ignore_errors=True)
                self._room = self._left()
                if oldest.exists():
                    return False
            self._room -= self._row_bytes
            return True

    def _left(self) -> int:
        """Bytes that may still be written: of files, holes take none."""
        used = 0
        for path in self._folder.glob(f"*/{_PIXELS}"):
            with suppress(OSError):
                status = path.stat()
                used += status.st_blocks * 512
        return min(self._limit - used, shutil.disk_usage(self._place).free - LEFT_FREE_BYTES)

    def _oldest(self) -> Path | None:
        """The folder of another data set that was opened least recently, of those that no process has open."""
        unused = []
        for path in self._folder.glob(f"*/{_SUMS}"):
            with suppress(OSError):
                if path.parent != self._place and not _in_use(path):
                    unused.append((path.stat().st_mtime_ns, path.parent))
        return min(unused)[1] if unused else None

    def _give_up(self, error: OSError) -> None:
        if self._pixels >= 0 or not self._room:
            log.info("decoded pictures are not kept in %s: %s", self._place, error.strerror or error)
        self._pixels, self._room = -1, -1


def _in_use(path: Path) -> bool:
    if fcntl is None:
        return False
    with path.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _sum(buffer: memoryview) -> int:
    """A checksum that is not 0."""
    return max(1, zlib.crc32(buffer))
