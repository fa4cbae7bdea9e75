"""Samples by rows: in memory, stored on a disk, or made when they are asked for.

A `torch.Tensor` `(N, …)` is samples in memory. The classes here are what a tensor cannot be: samples that take no
memory until some of their rows are read. `stored_samples` has those in a file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from autocompress.tensors.named import NamedTensors

# The bytes up to which samples that come from a file are held in memory as a whole.
HELD_BYTES = 512 * 2**20
# The bytes from which on samples that are not in memory are not read whole to be checked and hashed, but so many rows.
READ_WHOLE_BYTES, SAMPLED_ROWS = 2**31, 1024
# The bytes that one pass over samples holds at once as floats.
PIECE_BYTES = 64 * 2**20

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

    @property
    def is_large(self) -> bool:
        """Whether it would take long to read all samples, so that some have to stand for them in checks and hashes."""
        return self.numel() * self.dtype.itemsize > READ_WHOLE_BYTES

    def content(self, rows: Tensor) -> Iterator[Any]:
        """Bytes that settle the samples of `rows` `(M,)`, for a fingerprint."""
        sampled = rows if not self.is_large else rows[_spread(len(rows), SAMPLED_ROWS)]
        for part in torch.split(sampled, rows_of_a_piece(self)):
            yield bytes_of(self.read(part))


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

    @property
    def is_large(self) -> bool:
        """As the others are."""
        return is_large(self.samples)

    def content(self, rows: Tensor) -> Iterator[Any]:
        """See `LazySamples`."""
        return self.samples.content(self.rows[rows]) if isinstance(self.samples, LazySamples) else super().content(rows)


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

    @property
    def is_large(self) -> bool:
        """As the others are."""
        return is_large(self.samples)


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


def take_rows(samples: Any, rows: Tensor) -> Any:
    """The samples at `rows` `(M,)` int64, in that order: read at once where they are in memory, else when they are
    asked for."""
    if isinstance(samples, Tensor | NamedTensors):
        return samples[rows]
    if isinstance(samples, NamedSamples):
        return NamedSamples({name: take_rows(samples[name], rows) for name in samples})
    if isinstance(samples, ChosenSamples):
        return ChosenSamples(samples.samples, samples.rows[rows])
    return ChosenSamples(samples, rows)


def changed(samples: Samples, change: Callable[[Tensor], Tensor]) -> Samples:
    """The samples with `change` of each: at once where they are in memory, else when they are asked for."""
    return change(samples) if isinstance(samples, Tensor) else ChangedSamples(samples, change)


def is_large(samples: Any) -> bool:
    """Whether some samples have to stand for all in checks and hashes; none in memory are so large."""
    return isinstance(samples, LazySamples) and samples.is_large


def rows_of_a_piece(samples: Samples) -> int:
    """How many samples are `PIECE_BYTES` as float32."""
    return max(1, PIECE_BYTES // max(1, 4 * math.prod(samples.shape[1:])))


def pieces(samples: Samples) -> Iterator[Tensor]:
    """Consecutive parts of samples, to be looked at one after another; of large ones, of rows spread over all."""
    if is_large(samples):
        for part in torch.split(_spread(len(samples), SAMPLED_ROWS), rows_of_a_piece(samples)):
            yield samples[part]
    else:
        for start in range(0, len(samples), rows := rows_of_a_piece(samples)):
            yield samples[start:start + rows]


def content_of(samples: Samples) -> Iterator[Any]:
    """Bytes that settle samples, for a fingerprint; the same for the same numbers in memory and on a disk."""
    return samples.content(torch.arange(len(samples))) if isinstance(samples, LazySamples) else \
        map(bytes_of, pieces(samples))


def row_numbers(rows: slice | Tensor, count: int) -> Tensor:
    """The numbers `(M,)` int64 that an index stands for, of `count` samples. IndexError where one is not there."""
    if isinstance(rows, slice):
        span = range(*rows.indices(count))
        return span.start + span.step * torch.arange(len(span))
    numbers = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows.to("cpu", torch.int64)
    if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < count:
        raise IndexError(f"rows must be from 0 to {count - 1}, but reach from {int(numbers.min())} to "
                         f"{int(numbers.max())}")
    return numbers


def bytes_of(tensor: Tensor) -> Any:
    """The bytes of a tensor, in order."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy().data


def _spread(count: int, most: int) -> Tensor:
    """At most so many of the numbers below `count`, evenly spread."""
    return torch.arange(count) if count <= most else torch.arange(most) * count // most
