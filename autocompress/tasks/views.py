"""Augmented views of training samples: what is random about one is drawn once, and samples are changed when they are
read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from autocompress.errors import InputError
from autocompress.tasks.augmentation import Augmentation
from autocompress.tasks.samples import LazySamples, Samples

# A user's augmentation: a batch `(N, …)` and a CPU generator to a batch of that shape and type.
Augment = Callable[[Tensor, torch.Generator], Tensor]


class Changes(Protocol):
    """What is changed about each sample of a view, as it was drawn."""

    def __getitem__(self, rows: Tensor) -> Changes:
        """Those of some samples, by a slice or their numbers `(M,)`."""

    def applied(self, samples: Tensor) -> Tensor:
        """As many samples `(N, …)`, changed."""


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

    def applied(self, images: Tensor, edge: int = 0) -> Tensor:
        """As many images `(N, C, H, W)`, shifted and mirrored; what comes in is zeros, or another value at the `edge`.
        """
        count, channels, height, width = images.shape
        device = images.device
        rows = self.down.to(device).long()[:, None] + torch.arange(height, device=device)
        columns = self.right.to(device).long()[:, None] + torch.arange(width, device=device)
        if self.mirrored is not None:
            columns = torch.where(self.mirrored.to(device)[:, None], columns.flip(1), columns)
        padded = functional.pad(images, (self.pad,) * 4, value=edge)
        samples = torch.arange(count, device=device).view(-1, 1, 1, 1)
        planes = torch.arange(channels, device=device).view(1, -1, 1, 1)
        return padded[samples, planes, rows[:, None, :, None], columns[:, None, None, :]]


@dataclass(frozen=True)
class SoundChanges:
    """By how many samples each sound begins `later` `(N,)` int64, zeros coming in, and the `factors` `(N,)` float32 of
    its loudness."""

    later: Tensor
    factors: Tensor

    @classmethod
    def drawn(cls, count: int, shift: int, gain: float, generator: torch.Generator) -> SoundChanges:
        """The changes of `count` sounds, by up to `shift` samples and `gain` decibels either way, settled by the state
        of a CPU generator."""
        later = torch.randint(-shift, shift + 1, (count,), generator=generator)
        decibels = gain * (2 * torch.rand(count, generator=generator) - 1)
        return cls(later, 10 ** (decibels / 20))

    def __getitem__(self, rows: Tensor) -> SoundChanges:
        """Those of some sounds, by their numbers `(M,)`."""
        return SoundChanges(self.later[rows], self.factors[rows])

    def applied(self, sounds: Tensor) -> Tensor:
        """As many sounds `(N, …, T)`, changed."""
        one_each = (-1,) + (1,) * (sounds.dim() - 1)
        places = torch.arange(sounds.shape[-1]) - self.later.view(one_each)
        inside = (places >= 0) & (places < sounds.shape[-1])
        moved = sounds.gather(-1, places.clamp(0, sounds.shape[-1] - 1).expand(sounds.shape))
        return moved * inside * self.factors.view(one_each).to(sounds.dtype)


def drawn_changes(augmentation: Augmentation, inputs: Mapping[str, Samples],
                  generator: torch.Generator) -> dict[str, Changes]:
    """The changes of one view, by the names of the inputs that are changed: all pictures of a sample alike, and the one
    sound.

    Args:
        augmentation: what is changed.
        inputs: training samples by name.
        generator: of a CPU; its state settles the changes.

    Raises:
        InputError: where there is no picture or no sound to be changed, several sounds, or a picture or sound is
            smaller than its shift.
    """
    changes: dict[str, Changes] = {}
    count = len(next(iter(inputs.values())))
    if augmentation.of_pictures:
        pictures = {name: samples for name, samples in inputs.items() if samples.ndim == 4}
        sides = [side for samples in pictures.values() for side in samples.shape[2:]]
        if not sides or min(sides) <= augmentation.pad:
            raise InputError("augment: pad and flip need inputs (N, channels, height, width) of pictures of more than "
                             f"{augmentation.pad} pixels, but inputs are {_shapes(inputs)}")
        shifts = Shifts.drawn(count, augmentation.pad, augmentation.flip, generator)
        changes |= dict.fromkeys(pictures, shifts)
    if augmentation.of_sounds:
        sounds = [name for name, samples in inputs.items() if samples.dtype.is_floating_point
                  and (samples.ndim == 2 or (samples.ndim == 3 and samples.shape[1] == 1))]
        if len(sounds) != 1 or inputs[sounds[0]].shape[-1] <= augmentation.shift:
            raise InputError("augment: shift and gain need one input (N, samples) or (N, 1, samples) of sounds in "
                             f"floating point, of more than {augmentation.shift} samples, but inputs are "
                             f"{_shapes(inputs)}")
        changes[sounds[0]] = SoundChanges.drawn(count, augmentation.shift, augmentation.gain, generator)
    return changes


def sounds_changed(sounds: Tensor, generator: torch.Generator, *, shift: int, gain: float) -> Tensor:
    """Sounds `(N, …, T)` moved in time and in loudness at random; see `SoundChanges`."""
    return SoundChanges.drawn(len(sounds), shift, gain, generator).applied(sounds)


def _shapes(inputs: Mapping[str, Samples]) -> str:
    return ", ".join(f"{name} {str(samples.dtype).removeprefix('torch.')} {tuple(samples.shape)}".strip()
                     for name, samples in inputs.items())


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
