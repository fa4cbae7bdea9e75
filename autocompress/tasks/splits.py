"""The shape of data inside autocompress: tensors in three splits, checked once when they come in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from autocompress.errors import InputError

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """`inputs` (N, …) uint8 pixels, float32 values or int64 tokens; `targets` (N,) int64 labels from 0."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.targets)

    def take(self, indices: Tensor) -> Split:
        """The samples at `indices` (M,) int64, in that order."""
        return Split(self.inputs[indices], self.targets[indices])


@dataclass(frozen=True, eq=False)
class TaskData:
    """A classification data set.

    `mean` and `std` hold one value for each channel, or one for all, and apply after uint8 pixels were
    divided by 255; float inputs are not divided, and tokens left as they are. `pad` (pixels) and `flip` describe
    the augmentation of images. `augment` (if given) follows, for inputs of any kind: a batch (N, …) and a CPU generator
    → a batch of that shape and type. Its outcome must be settled by the generator, and must stay the same while a study
    lasts: the original's answers are kept. To travel to other processes it must be a module's function.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: int
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    pad: int = 0
    flip: bool = False
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample, without the batch: `(C, H, W)` for images."""
        return tuple(self.train.inputs.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """What a network is fed: int64 tokens, or float32."""
        return torch.int64 if self.train.inputs.dtype == torch.int64 else torch.float32

    @cached_property
    def fingerprint(self) -> str:
        """Content hash of every sample, label and the normalisation."""
        digest = hashlib.sha256(repr((self.classes, self.mean, self.std)).encode())
        for name in SPLITS:
            split: Split = getattr(self, name)
            for tensor in (split.inputs, split.targets):
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    def normalise(self, inputs: Tensor) -> Tensor:
        """A batch (N, …) as stored → float32 of the same shape, or the same tokens: as the model is fed."""
        if inputs.dtype == torch.int64:
            return inputs
        values = inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs.float()
        if set(self.mean) == {0.0} and set(self.std) == {1.0}:
            return values
        shape = (1, -1) + (1,) * (inputs.ndim - 2)
        mean = torch.tensor(self.mean, device=inputs.device).view(shape)
        std = torch.tensor(self.std, device=inputs.device).view(shape)
        return (values - mean) / std

    @property
    def train_targets(self) -> Tensor:
        """Labels of the training split (N,)."""
        return self.train.targets

    def train_view(self, view: int, seed: int) -> Tensor:
        """All training inputs as stored, augmented; each view number gives another, settled by `seed`."""
        return self.augmented(self.train.inputs, torch.Generator().manual_seed(1000 * seed + view))

    def augmented(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """A batch (N, …), raw or normalised: images randomly shifted and mirrored, then what `augment` makes of it.

        The outcome is settled by the state of `generator`, a CPU generator. InputError when `augment` gives back
        something of another shape or type.
        """
        moved = self._moved(inputs, generator)
        if self.augment is None:
            return moved
        made = self.augment(moved, generator)
        if not isinstance(made, Tensor) or (made.shape, made.dtype) != (inputs.shape, inputs.dtype):
            got = f"{made.dtype} {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
            raise InputError(f"{self.name}: `augment` must give back what it was given, {inputs.dtype} "
                             f"{tuple(inputs.shape)}, but gave {got}")
        return made

    def _moved(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Images (N, C, H, W) each randomly shifted and mirrored; anything else is left alone.

        A shift is a crop out of the image padded with zeros by `pad` pixels on each side.
        """
        if inputs.ndim != 4 or not (self.pad or self.flip):
            return inputs
        count, channels, height, width = inputs.shape
        device = inputs.device
        offsets = torch.randint(0, 2 * self.pad + 1, (2, count, 1), generator=generator).to(device)
        rows = offsets[0] + torch.arange(height, device=device)
        columns = offsets[1] + torch.arange(width, device=device)
        if self.flip:
            mirror = torch.rand((count, 1), generator=generator).to(device) < 0.5
            columns = torch.where(mirror, columns.flip(1), columns)
        padded = functional.pad(inputs, (self.pad,) * 4)
        samples = torch.arange(count, device=device).view(-1, 1, 1, 1)
        planes = torch.arange(channels, device=device).view(1, -1, 1, 1)
        return padded[samples, planes, rows[:, None, :, None], columns[:, None, None, :]]


def phases(targets: Tensor, period: int, seed: int) -> Tensor:
    """A number from 0 to `period` - 1 for each sample, each class spread evenly over the numbers.

    Systematic sampling: shuffle, order by class, count round. The samples of one number are a
    stratified share of 1/`period`.
    """
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    order = order[torch.argsort(targets[order], stable=True)]
    numbers = torch.empty_like(order)
    numbers[order] = torch.arange(len(order)) % period
    return numbers


def complete(parts: Mapping[str, Split], seed: int) -> dict[str, Split]:
    """All three splits out of those at hand; `train` must be among them.

    Alone, training data is split 80/10/10. Without validation data a tenth of the training data is
    held out; without test data one half of the validation data becomes the test.
    """
    train, validation, test = (parts.get(name) for name in SPLITS)
    if train is None:
        raise InputError(f"data must have a training split, but only has {', '.join(parts) or 'nothing'}")
    if validation is None:
        numbers = phases(train.targets, 10, seed)
        if test is None:
            test = train.take((numbers == 8).nonzero()[:, 0])
            validation = train.take((numbers == 9).nonzero()[:, 0])
            train = train.take((numbers < 8).nonzero()[:, 0])
        else:
            validation = train.take((numbers == 9).nonzero()[:, 0])
            train = train.take((numbers < 9).nonzero()[:, 0])
    elif test is None:
        numbers = phases(validation.targets, 2, seed)
        test = validation.take((numbers == 1).nonzero()[:, 0])
        validation = validation.take((numbers == 0).nonzero()[:, 0])
    return {"train": train, "validation": validation, "test": test}


def checked(data: TaskData) -> TaskData:
    """`data` itself when every split can be used. InputError says which rule is broken, and where."""
    if data.classes < 2:
        raise InputError(f"{data.name}: classification needs at least 2 classes, but the data has {data.classes}")
    for name in SPLITS:
        _check_split(f"{data.name}, {name} split", getattr(data, name), data)
    if len(torch.unique(data.train.targets)) < 2:
        only = int(data.train.targets[0])
        raise InputError(f"{data.name}: the training split must hold at least 2 classes, but all labels are {only}")
    _check_normalisation(data)
    if data.augment is not None and not callable(data.augment):
        raise InputError(f"{data.name}: `augment` must be a function of a batch and a generator, "
                         f"but is {data.augment!r}")
    return data


def _check_split(where: str, split: Split, data: TaskData) -> None:
    inputs, targets = split.inputs, split.targets
    known = (torch.uint8, torch.float32, torch.int64)
    if inputs.dtype not in known or targets.dtype != torch.int64 or targets.ndim != 1:
        raise InputError(
            f"{where}: inputs must be uint8, float32 or int64 and labels int64 of shape (N,), but they are "
            f"{inputs.dtype} and {targets.dtype} {tuple(targets.shape)}"
        )
    if len(inputs) != len(targets):
        raise InputError(f"{where}: needs one label for each sample, but has {len(inputs)} and {len(targets)} labels")
    if len(split) == 0:
        raise InputError(f"{where} is empty: bring more samples (an automatic split needs ten or more)")
    if inputs.ndim < 2 or inputs[0].numel() == 0:
        raise InputError(f"{where}: a sample must be an array such as (C, H, W), but inputs are {tuple(inputs.shape)}")
    if inputs.dtype == torch.int64 and int(inputs.min()) < 0:
        raise InputError(f"{where}: tokens must be 0 or more, but the least is {int(inputs.min())}")
    if (inputs.dtype == torch.int64) != (data.dtype == torch.int64):
        raise InputError(f"{where}: all splits must hold tokens, or none, but training has {data.train.inputs.dtype} "
                         f"and this has {inputs.dtype}")
    if inputs.shape[1:] != data.train.inputs.shape[1:]:
        raise InputError(
            f"{where}: samples must be shaped as in training, {data.input_shape}, but are {tuple(inputs.shape[1:])}"
        )
    if inputs.dtype.is_floating_point and not bool(torch.isfinite(inputs).all()):
        bad = int((~torch.isfinite(inputs).flatten(1).all(dim=1)).sum())
        raise InputError(f"{where}: values must be finite, but {bad} of {len(split)} samples hold NaN or infinity")
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= data.classes:
        raise InputError(
            f"{where}: labels must be from 0 to {data.classes - 1}, but they reach from {low} to {high}: "
            "renumber them, or give the right number of `classes`"
        )


def _check_normalisation(data: TaskData) -> None:
    values: Sequence[tuple[float, ...]] = (data.mean, data.std)
    channels = data.input_shape[0]
    if data.dtype == torch.int64 and (set(data.mean), set(data.std)) != ({0.0}, {1.0}):
        raise InputError(f"{data.name}: tokens cannot be normalised, but mean and std are {data.mean} and {data.std}: "
                         "leave them out")
    if any(len(v) not in (1, channels) for v in values) or not all(s > 0 for s in data.std):
        raise InputError(
            f"{data.name}: mean and std must hold 1 or {channels} values, std above zero, "
            f"but they are {data.mean} and {data.std}"
        )
    if data.pad < 0:
        raise InputError(f"{data.name}: pad must be 0 or more pixels, but is {data.pad}")
