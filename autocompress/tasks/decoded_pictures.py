"""The pictures of a listing as samples: decoded when they are read, in threads, and kept as far as a cache goes."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL
import torch
from torch import Tensor

from autocompress.errors import InputError
from autocompress.tasks.picture_cache import PictureCache
from autocompress.tasks.picture_listing import PictureListing
from autocompress.tasks.pictures import READING_ERRORS, Levels, Remarks, quiet_reading, square
from autocompress.tasks.samples import READ_WHOLE_BYTES, SAMPLED_ROWS, LazySamples, bytes_of

log = logging.getLogger(__name__)

# Of more pictures, names, sizes and some contents make the fingerprint.
READ_WHOLE_FILES = 50_000
MAX_CORRUPT_SHARE = 0.05
# Pictures that one thread decodes one after another.
_DECODED_TOGETHER = 8

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Decoding:
    """How a picture becomes a square of RGB bytes: see `pictures.square`."""

    resize: int
    size: int
    interpolation: str
    levels: Levels | None = None


class DecodedPictures(LazySamples):
    """Pictures `(N, 3, size, size)` uint8 of one listing or several, decoded when they are read.

    An unreadable one is replaced by the next readable one of its class, with a warning; where more than 5% of all are
    unreadable, reading ends in an InputError.

    Args:
        listings: one behind another.
        decoding: how they are decoded.
        cache_folder: where decoded ones are kept; None for nowhere.
        cache_bytes: most that is kept there.
    """

    def __init__(self, listings: Sequence[PictureListing], decoding: Decoding, cache_folder: Path | None = None,
                 cache_bytes: int = 0) -> None:
        lengths = [len(listing) for listing in listings]
        super().__init__((sum(lengths), 3, decoding.size, decoding.size), torch.uint8)
        self.listings, self.decoding, self.remarks = tuple(listings), decoding, Remarks()
        self._starts = np.cumsum([0, *lengths])
        self._replaced: dict[int, int] = {}
        self._lock = threading.Lock()
        self._cache_place = cache_folder, cache_bytes
        self._cache: PictureCache | None = None
        if cache_folder is not None and cache_bytes > 0:
            self._cache = PictureCache(cache_folder, self._key(), len(self), 3 * decoding.size**2, cache_bytes)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the same cache."""
        return DecodedPictures, (self.listings, self.decoding, *self._cache_place)

    @property
    def labels(self) -> Tensor:
        """The class of each picture `(N,)` int64."""
        return torch.from_numpy(np.concatenate([listing.labels for listing in self.listings]))

    def path(self, row: int) -> Path:
        """The file of a picture."""
        listing, number = self._at(row)
        return listing.path(number)

    def read(self, rows: Tensor) -> Tensor:
        """See `LazySamples`."""
        pixels = torch.empty((len(rows), *self.shape[1:]), dtype=torch.uint8)
        for place in self._read_into(pixels, rows):
            row = int(rows[place])
            pixels[place] = self._substitute(row)
        return pixels

    def readable(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures `(N, 3, size, size)` of `rows` `(N,)`, and which could be read `(N,)` bool: nothing is replaced, and
        nothing said."""
        pixels, fine = torch.empty((len(rows), *self.shape[1:]), dtype=torch.uint8), torch.ones(len(rows)).bool()
        for place in self._read_into(pixels, rows):
            fine[place] = False
        return pixels, fine

    @property
    def cached(self) -> int:
        """Number of pictures that the cache holds."""
        return 0 if self._cache is None else self._cache.held

    @property
    def is_large(self) -> bool:
        """By the number and the size of the files: decoding takes longer than reading."""
        return len(self) > READ_WHOLE_FILES or \
            sum(int(listing.sizes.sum()) for listing in self.listings) > READ_WHOLE_BYTES

    def content(self, rows: Tensor) -> Iterator[Any]:
        """How pictures are decoded, names and sizes; of a moderate number the files, of more those of some."""
        yield repr(self.decoding).encode()
        for row in rows.tolist():
            listing, number = self._at(row)
            yield listing.names.raw(number) + b"\0%d\0" % listing.sizes[number]
        whole = len(rows) <= SAMPLED_ROWS or not self.is_large
        for row in (rows if whole else rows[torch.arange(SAMPLED_ROWS) * len(rows) // SAMPLED_ROWS]).tolist():
            try:
                with self.path(row).open("rb") as stream:
                    yield hashlib.file_digest(stream, "sha256").digest()
            except OSError as error:
                raise InputError(f"{self.path(row)} must be readable, but: {error.strerror or error}") from error

    def _key(self) -> str:
        facts = [repr(self.decoding), PIL.__version__]
        facts += [f"{listing.root.resolve()} {listing.digest}" for listing in self.listings]
        return hashlib.sha256("\n".join(facts).encode("utf-8", "surrogateescape")).hexdigest()[:32]

    def _at(self, row: int) -> tuple[PictureListing, int]:
        which = int(np.searchsorted(self._starts, row, "right")) - 1
        return self.listings[which], row - int(self._starts[which])

    def _read_into(self, pixels: Tensor, rows: Tensor) -> list[int]:
        """Fill `pixels` with the pictures of `rows`; return the places of those that cannot be read."""
        numbers, cache = rows.tolist(), self._cache
        missing = [place for place, row in enumerate(numbers)
                   if cache is None or not cache.read(row, bytes_of(pixels[place]))]
        together = [missing[i:i + _DECODED_TOGETHER] for i in range(0, len(missing), _DECODED_TOGETHER)]

        def decode(places: list[int]) -> list[int]:
            return [place for place in places if not self._decode(numbers[place], pixels[place])]

        return [place for places in (in_threads(decode, together) if together else ()) for place in places]

    def _decode(self, row: int, pixels: Tensor) -> bool:
        """Fill `pixels` `(3, size, size)` with one picture, and return whether it can be read."""
        done, how = Remarks(), self.decoding
        try:
            pixels.copy_(torch.from_numpy(
                square(self.path(row), how.resize, how.size, how.interpolation, how.levels, done).copy()))
        except READING_ERRORS:
            return False
        if done != Remarks():
            with self._lock:
                self.remarks.turned += done.turned
                self.remarks.on_black += done.on_black
        if self._cache is not None:
            self._cache.write(row, bytes_of(pixels))
        return True

    def _substitute(self, row: int) -> Tensor:
        """The next readable picture of the class of one that is not. InputError where there are too many of those."""
        with self._lock:
            is_new = row not in self._replaced
            first = self._replaced.setdefault(row, row)
            count = len(self._replaced)
        if is_new and count > MAX_CORRUPT_SHARE * len(self):
            raise InputError(f"{self.listings[0].root}: at most {MAX_CORRUPT_SHARE:.0%} of the pictures may be "
                             f"unreadable, but {count} of {len(self)} are, such as {self.path(row)}")
        if is_new and count & (count - 1) == 0:  # the first, and then at twice as many
            log.warning("%s cannot be read and is replaced by another picture of its class: %d of %d so far",
                        self.path(row), count, len(self))
        listing, number = self._at(row)
        start = row - number
        same = np.flatnonzero(listing.labels == listing.labels[number]) + start
        begin = int(np.searchsorted(same, first))
        for other in np.roll(same, -begin).tolist():
            pixels, fine = self.readable(torch.tensor([other]))
            if fine[0]:
                self._replaced[row] = other
                return pixels[0]
        raise InputError(f"{self.path(row).parent}: none of its {len(same)} pictures can be read")


def in_threads(work: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """The results in order. Pillow decodes and resizes without the interpreter's lock, so threads keep up with
    processes, and nothing has to travel."""
    with quiet_reading(), ThreadPoolExecutor(max(1, min(8, os.cpu_count() or 1))) as pool:
        yield from pool.map(work, items)
