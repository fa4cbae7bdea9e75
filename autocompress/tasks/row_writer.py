"""Rows that are collected one batch after another: in memory while they are small, else in a file."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from autocompress.tasks.samples import Samples, bytes_of
from autocompress.tasks.shaped_samples import ShapedSamples
from autocompress.tasks.stored_samples import SampleWriter

# Bytes up to which the rows of one array of a split are held in memory.
HELD_BYTES = 64 * 2**20
# Part of them that rows of a further shape may take: there may be many.
FURTHER_SHAPES = 16


class RowWriter:
    """Collects rows of one shape: in memory up to a `share` of `HELD_BYTES`, one of so many, beyond in a file."""

    def __init__(self, share: int = 1) -> None:
        self._share = share
        self._pieces: list[Tensor] = []
        self._writer: SampleWriter | None = None
        self._digest, self.rows, self.bytes = hashlib.sha256(), 0, 0

    def append(self, rows: Tensor) -> None:
        """Add rows `(M, …)`, of the shape and type of the first."""
        rows = rows.detach().cpu().contiguous()
        self._digest.update(bytes_of(rows))
        self.rows, self.bytes = self.rows + len(rows), self.bytes + rows.nbytes
        if self._writer is None and self.bytes > HELD_BYTES // self._share:
            self._writer = SampleWriter()
            for piece in self._pieces:
                self._writer.append({"rows": piece})
            self._pieces = []
        if self._writer is None:
            self._pieces.append(rows.clone())
        else:
            self._writer.append({"rows": rows})

    @property
    def fingerprint(self) -> str:
        """Hash of all bytes so far."""
        return self._digest.hexdigest()

    def finish(self) -> Samples:
        """All rows; nothing can be added afterwards."""
        if self._writer is not None:
            return self._writer.finish()["rows"]
        return torch.cat(self._pieces) if self._pieces else torch.empty(0)


class ShapedWriter:
    """Collects rows of one or of several shapes, in batches of one shape each."""

    def __init__(self) -> None:
        self._writers: dict[tuple[int, ...], RowWriter] = {}
        self._part_of: list[Tensor] = []
        self._places: list[Tensor] = []

    def append(self, rows: Tensor) -> None:
        """Add rows `(M, …)`, of the type of the first."""
        shape = tuple(rows.shape[1:])
        writer = self._writers.setdefault(shape, RowWriter(FURTHER_SHAPES if self._writers else 1))
        self._part_of.append(torch.full((len(rows),), [*self._writers].index(shape)))
        self._places.append(torch.arange(writer.rows, writer.rows + len(rows)))
        writer.append(rows)

    @property
    def rows(self) -> int:
        """Number of rows so far."""
        return sum(writer.rows for writer in self._writers.values())

    @property
    def bytes(self) -> int:
        """Bytes of all rows so far."""
        return sum(writer.bytes for writer in self._writers.values())

    @property
    def fingerprint(self) -> str:
        """Hash of all rows so far, and of their shapes where there are several."""
        writers = [*self._writers.values()]
        if len(writers) < 2:
            return (writers or [RowWriter()])[0].fingerprint
        digest = hashlib.sha256(bytes_of(torch.cat(self._part_of)))
        for shape, writer in self._writers.items():
            digest.update(f"{shape} {writer.fingerprint}".encode())
        return digest.hexdigest()

    def finish(self) -> Samples:
        """All rows; nothing can be added afterwards."""
        parts = [writer.finish() for writer in self._writers.values()]
        if len(parts) < 2:
            return parts[0] if parts else torch.empty(0)
        return ShapedSamples(parts, torch.cat(self._part_of), torch.cat(self._places))
