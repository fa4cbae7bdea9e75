"""Samples by rows: in memory, stored on a disk, or made when they are asked for.

A `torch.Tensor` `(N, …)` is samples in memory. The classes here are what a tensor cannot be: samples that take no
memory until some of their rows are read.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from autocompress.core.files import remove_leftovers, temporary_name
from autocompress.errors import StorageError
from autocompress.tasks.cache import cache_dir
from autocompress.tensors.named import NamedTensors

Rows = slice | Tensor | int
"""Which samples: consecutive ones, numbers `(M,)` int64 in any order, a mask `(N,)` bool, or one of them."""


class Samples(Protocol):
    """Samples `(N, …)` of one shape and type, read by rows. A tensor is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of samples, then the shape of one."""

    @property
    def ndim(self) -> int:
        """Length of `shape`."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of the numbers."""

    def __len__(self) -> int:
        """Number of samples."""

    def __getitem__(self, rows: Any) -> Tensor:
        """The samples of `rows`, a tensor `(M, …)`; without the axis of samples where `rows` is one number."""


class LazySamples:
    """Samples that are made or read when they are asked for: implement `read`.

    Args:
        shape: number of samples, then the shape of one.
        dtype: type of the numbers.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.shape, self.dtype = tuple(shape), dtype

    @property
    def ndim(self) -> int:
        """Length of `shape`."""
        return len(self.shape)

    def __len__(self) -> int:
        """Number of samples."""
        return self.shape[0]

    def numel(self) -> int:
        """Number of values of all samples."""
        return math.prod(self.shape)

    def __getitem__(self, rows: Rows) -> Tensor:
        """The samples of `rows`; see `Samples`."""
        if isinstance(rows, int):
            return self.read(torch.tensor([range(len(self))[rows]]))[0]
        return self.read(row_numbers(rows, len(self)))

    def read(self, rows: Tensor) -> Tensor:
        """The samples `(M, …)` of the numbers `rows` `(M,)`, each from 0 to `len(self)` - 1."""
        raise NotImplementedError


class ChosenSamples(LazySamples):
    """Some of the samples of others, in an order of their own.

    Args:
        samples: the others.
        rows: numbers `(M,)` int64 of those that are chosen.
    """

    def __init__(self, samples: Samples, rows: Tensor) -> None:
        super().__init__((len(rows), *samples.shape[1:]), samples.dtype)
        self.samples, self.rows = samples, rows

    def read(self, rows: Tensor) -> Tensor:
        """See `LazySamples`."""
        return self.samples[self.rows[rows]]


class ChangedSamples(LazySamples):
    """The samples of others, each changed by the same function when it is read.

    Args:
        samples: the others.
        change: maps a batch `(M, …)` to another, sample by sample; a module's function, so that it can be pickled.
    """

    def __init__(self, samples: Samples, change: Callable[[Tensor], Tensor]) -> None:
        one = change(samples[:1])
        super().__init__((len(samples), *one.shape[1:]), one.dtype)
        self.samples, self.change = samples, change

    def read(self, rows: Tensor) -> Tensor:
        """See `LazySamples`."""
        return self.change(self.samples[rows])


class NamedSamples(Mapping[str, Samples]):
    """Samples by name whose rows belong together: by rows they are `NamedTensors`.

    Args:
        samples: by name, each of as many rows.
    """

    def __init__(self, samples: Mapping[str, Samples]) -> None:
        self._samples = dict(samples)

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._samples)

    def __len__(self) -> int:
        """Number of samples."""
        return len(next(iter(self._samples.values())))

    def __bool__(self) -> bool:
        """True, also where there is no sample: there are names."""
        return True

    def __getitem__(self, which: Any) -> Any:
        """The samples of a name; of any other index, those rows of all."""
        if isinstance(which, str):
            return self._samples[which]
        return NamedTensors({name: samples[which] for name, samples in self._samples.items()})


def chosen(samples: Any, rows: Tensor) -> Any:
    """The samples at `rows` `(M,)` int64, in that order: read at once where they are in memory, else when they are
    asked for."""
    if isinstance(samples, Tensor | NamedTensors):
        return samples[rows]
    if isinstance(samples, NamedSamples):
        return NamedSamples({name: chosen(samples[name], rows) for name in samples})
    if isinstance(samples, ChosenSamples):
        return ChosenSamples(samples.samples, samples.rows[rows])
    return ChosenSamples(samples, rows)


def changed(samples: Samples, change: Callable[[Tensor], Tensor]) -> Samples:
    """The samples with `change` of each: at once where they are in memory, else when they are asked for."""
    return change(samples) if isinstance(samples, Tensor) else ChangedSamples(samples, change)


def row_numbers(rows: slice | Tensor, count: int) -> Tensor:
    """The numbers `(M,)` int64 that an index stands for, of `count` samples. IndexError where one is not there."""
    if isinstance(rows, slice):
        wanted = range(*rows.indices(count))
        return wanted.start + wanted.step * torch.arange(len(wanted))
    numbers = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows.to("cpu", torch.int64)
    if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < count:
        raise IndexError(f"rows must be from 0 to {count - 1}, but reach from {int(numbers.min())} to "
                         f"{int(numbers.max())}")
    return numbers


# -- on a disk -------------------------------------------------------------------------------------------


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
        made = torch.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        if not made.numel():
            return made
        buffer = made.flatten().view(torch.uint8).numpy().data
        for first, row, count in _runs(rows):
            size = self._row_bytes
            self._file.read(buffer[first * size:(first + count) * size], self._offset + row * size)
        return made


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
                stream.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
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
