"""Samples in a file on the disk: written once, read by rows."""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autocompress.core.files import remove_leftovers, temporary_name
from autocompress.errors import StorageError
from autocompress.tasks.cache import cache_dir
from autocompress.tasks.samples import LazySamples, bytes_of


class StoredSamples(LazySamples):
    """Samples in a file, row behind row, read by `pread`: what was read takes no memory afterwards, as pages that are
    mapped would.

    Pickled, it says where the file is; the process that made a temporary file removes it.

    Args:
        path: the file.
        shape: number of samples, then the shape of one.
        dtype: type of the numbers, in the byte order of this machine.
        offset: bytes in the file before the first sample.
        temporary: whether the file goes when this object does.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: torch.dtype, offset: int = 0,
                 temporary: bool = False) -> None:
        super().__init__(shape, dtype)
        self.path, self._offset, self._file = path, offset, _File(path)
        self._row_bytes = math.prod(shape[1:]) * dtype.itemsize
        if temporary:
            weakref.finalize(self, _remove, path, os.getpid())

    def __reduce__(self) -> tuple[Any, ...]:
        """Where the file is and what it holds."""
        return StoredSamples, (self.path, self.shape, self.dtype, self._offset)

    def read(self, rows: Tensor) -> Tensor:
        """See `LazySamples`. StorageError where the file is gone or too short."""
        samples = torch.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        if not samples.numel():
            return samples
        buffer = bytes_of(samples)
        for first, row, count in _runs(rows):
            size = self._row_bytes
            self._file.read(buffer[first * size:(first + count) * size], self._offset + row * size)
        return samples


class SampleWriter:
    """Writes samples as they come, one file for each named array, in a folder of the user's cache.

    Args:
        folder: where the files are; default, `samples` in the cache folder. They go with the objects that read them.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or cache_dir() / "samples"
        self._arrays: dict[str, tuple[Path, Any, Tensor]] = {}
        self.rows = 0

    def append(self, batch: Mapping[str, Tensor]) -> None:
        """Write the next samples.

        Args:
            batch: tensors `(M, …)` by name; always the same names, shapes and types.

        Raises:
            ValueError: where they differ from those of the first batch.
            StorageError: where the disk does not take them.
        """
        if not self._arrays:
            self._open(batch)
        signature = {name: (tensor.shape[1:], tensor.dtype) for name, tensor in batch.items()}
        first = {name: (tensor.shape[1:], tensor.dtype) for name, (_, _, tensor) in self._arrays.items()}
        if signature != first or len({len(tensor) for tensor in batch.values()}) != 1:
            raise ValueError(f"samples must be {first}, as the first are, but are {signature}")
        for name, tensor in batch.items():
            path, stream, _ = self._arrays[name]
            with _storing(path):
                stream.write(bytes_of(tensor.detach().cpu()))
        self.rows += len(next(iter(batch.values())))

    def finish(self) -> dict[str, StoredSamples]:
        """What was written, by name; nothing can be appended afterwards. ValueError where nothing was."""
        if not self._arrays:
            raise ValueError("no sample was written")
        stored = {}
        for name, (path, stream, like) in self._arrays.items():
            with _storing(path):
                stream.close()
            stored[name] = StoredSamples(path, (self.rows, *like.shape[1:]), like.dtype, temporary=True)
        return stored

    def discard(self) -> None:
        """Remove what was written: where it will not be finished."""
        for path, stream, _ in self._arrays.values():
            stream.close()
            _remove(path, os.getpid())

    def _open(self, batch: Mapping[str, Tensor]) -> None:
        with _storing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self._folder)
            for name, tensor in batch.items():
                path = self._folder / temporary_name()
                self._arrays[name] = path, path.open("wb"), torch.empty((0, *tensor.shape[1:]), dtype=tensor.dtype)


class _File:
    """A file that is opened when it is first read, and read from any thread."""

    def __init__(self, path: Path) -> None:
        self._path, self._descriptor, self._lock = path, -1, threading.Lock()

    def read(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` with what stands at `offset`. StorageError where there is less."""
        try:
            with self._lock:
                if self._descriptor < 0:
                    self._descriptor = os.open(self._path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
                    weakref.finalize(self, os.close, self._descriptor)
            while len(buffer):
                done = self._some(buffer, offset)
                if not done:
                    raise StorageError(f"{self._path} must hold what was written to it, but ends before: it was cut "
                                       "off; start again")
                buffer, offset = buffer[done:], offset + done
        except OSError as error:
            raise StorageError(f"{self._path} must be readable, but: {error.strerror or error}") from error

    def _some(self, buffer: memoryview, offset: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._descriptor, [buffer], offset)
        with self._lock:  # Windows reads at the position of the file alone
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            data = os.read(self._descriptor, len(buffer))
        buffer[:len(data)] = data
        return len(data)


@contextmanager
def _storing(path: Path) -> Iterator[None]:
    """A context in which an OSError becomes a StorageError that names the place."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path} must be writable, but: {error.strerror or error}; free space, or let "
                           "AUTOCOMPRESS_CACHE name another folder") from error


def _runs(rows: Tensor) -> Iterator[tuple[int, int, int]]:
    """Consecutive rows together: the place of the first in `rows`, its number, and how many."""
    starts = torch.cat([torch.tensor([0]), (rows.diff() != 1).nonzero()[:, 0] + 1, torch.tensor([len(rows)])])
    for first, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        yield first, int(rows[first]), end - first


def _remove(path: Path, process: int) -> None:
    """Remove a file, but not from a process that was forked from the one it belongs to."""
    if os.getpid() == process:
        with suppress(OSError):
            path.unlink()
