"""Augmented views of training samples: what is random about one is drawn once, and samples are changed when they are
read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from autocompress.errors import InputError
from autocompress.tasks.samples import LazySamples, Samples

# A user's augmentation: a batch `(N, …)` and a CPU generator to a batch of that shape and type.
Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Shifts:
    """A random shift of each image, and whether it is mirrored first.

    A shift is a crop out of the image padded with zeros by `pad` pixels on each side; `down` and `right` `(N,)` int16
    are its first row and column, `mirrored` `(N,)` bool is None where no image is.
    """

    pad: int
    down: Tensor
    right: Tensor
    mirrored: Tensor | None

    @classmethod
    def drawn(cls, count: int, pad: int, flip: bool, generator: torch.Generator) -> Shifts:
        """The shifts of `count` images, settled by the state of a CPU generator."""
        down, right = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator)[..., 0].to(torch.int16)
        mirrored = torch.rand((count, 1), generator=generator)[:, 0] < 0.5 if flip else None
        return cls(pad, down, right, mirrored)

    def __getitem__(self, rows: Tensor) -> Shifts:
        """Those of some images, by their numbers `(M,)`."""
        mirrored = None if self.mirrored is None else self.mirrored[rows]
        return Shifts(self.pad, self.down[rows], self.right[rows], mirrored)

    def applied(self, images: Tensor) -> Tensor:
        """As many images `(N, C, H, W)`, shifted and mirrored."""
        count, channels, height, width = images.shape
        device = images.device
        rows = self.down.to(device).long()[:, None] + torch.arange(height, device=device)
        columns = self.right.to(device).long()[:, None] + torch.arange(width, device=device)
        if self.mirrored is not None:
            columns = torch.where(self.mirrored.to(device)[:, None], columns.flip(1), columns)
        padded = functional.pad(images, (self.pad,) * 4)
        samples = torch.arange(count, device=device).view(-1, 1, 1, 1)
        planes = torch.arange(channels, device=device).view(1, -1, 1, 1)
        return padded[samples, planes, rows[:, None, :, None], columns[:, None, None, :]]


def augmented_by(augment: Augment, batch: Tensor, generator: torch.Generator) -> Tensor:
    """What a user's function makes of a batch `(N, …)`. InputError when it is of another shape or type."""
    view = augment(batch, generator)
    if not isinstance(view, Tensor) or (view.shape, view.dtype) != (batch.shape, batch.dtype):
        got = f"{view.dtype} {tuple(view.shape)}" if isinstance(view, Tensor) else type(view).__name__
        raise InputError(f"`augment` must give back what it was given, {batch.dtype} {tuple(batch.shape)}, but gave "
                         f"{got}")
    return view


class View(LazySamples):
    """Samples that are augmented when they are read, each in the same way whatever is read with it.

    Args:
        samples: as they are stored.
        shifts: of each sample, an image; None where nothing is shifted.
        augment: what follows, called with one sample at a time.
        number: settles the generator that `augment` gets, together with the number of the sample.
    """

    def __init__(self, samples: Samples, shifts: Shifts | None, augment: Augment | None, number: int) -> None:
        super().__init__(samples.shape, samples.dtype)
        self._samples, self._shifts, self._augment, self._number = samples, shifts, augment, number

    def read(self, rows: Tensor) -> Tensor:
        """See `LazySamples`."""
        batch = self._samples[rows]
        if self._shifts is not None:
            batch = self._shifts[rows].applied(batch)
        if self._augment is None or not len(rows):
            return batch
        generator = torch.Generator()
        return torch.cat([augmented_by(self._augment, batch[i:i + 1], generator.manual_seed(self._seed(row)))
                          for i, row in enumerate(rows.tolist())])

    def _seed(self, row: int) -> int:
        return int.from_bytes(hashlib.sha256(f"{self._number} {row}".encode()).digest()[:7])
