"""What a source gives: samples in three splits, each a mapping of tensors that is read when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Subset

from autocompress.errors import InputError
from autocompress.tasks.arrays import SPELLINGS
from autocompress.tasks.augmentation import Augmentation
from autocompress.tasks.preparation import Preparation
from autocompress.tasks.splits import Split, complete

# Keys of a sample: what it should give, and its one input where that has no name.
TARGET, INPUT = "target", "input"
Sample = dict[str, Tensor]


class SampleDataset(Protocol):
    """Samples by number, each read when it is asked for."""

    def __len__(self) -> int:
        """Number of samples."""

    def __getitem__(self, index: int) -> Sample:
        """One sample: inputs by name, without a batch axis, and its target under `TARGET`."""


@dataclass(frozen=True)
class SourceContext:
    """What a source is read for.

    Args:
        seed: Settles the splits that are made here.
        preparation: How pictures are brought to size and normalised.
        arguments: Names of the tensors that the network's `forward` takes, in order, and whether each must be given;
            none where they are not known.
        tokenizer: Makes tokens of text; None where the network brings none.
        classes: Whether targets name classes, rather than be numbers.
    """

    seed: int = 0
    preparation: Preparation = field(default_factory=Preparation)
    arguments: Mapping[str, bool] = field(default_factory=dict)
    tokenizer: Any = None
    classes: bool = False

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and std of numbers other than pictures: what the user says, else none."""
        from_user = not self.preparation.origin
        return (from_user and self.preparation.mean) or (0.0,), (from_user and self.preparation.std) or (1.0,)


@dataclass(frozen=True, eq=False)
class Source:
    """Samples in the splits `train`, `validation` and `test`.

    Args:
        name: What the data are called, fit for a heading.
        splits: SampleDataset of each split, which share keys, shapes and types.
        inputs: Names of the inputs in a sample; a lone `INPUT` is for the first argument of `forward`.
        labelled: Whether samples hold a target.
        classes: Number of classes that targets name; None where they are numbers.
        class_names: Names of the classes in the order of their numbers, where targets are classes with names.
        mean, std: What is subtracted from and divided by, behind the 255 of pictures' bytes: one value for each
            channel or column, or one for all.
        prepared: In words, how files became inputs.
        files: The same as values, by which other files are read like them (`artifact/inputs.py`).
        shipped: Files, by name, that reading others takes, such as those of a tokenizer.
        augmentation: Random changes of training inputs that the data set brings.
    """

    name: str
    splits: Mapping[str, SampleDataset]
    inputs: tuple[str, ...] = (INPUT,)
    labelled: bool = True
    classes: int | None = None
    class_names: tuple[str, ...] = ()
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    prepared: str = ""
    files: Mapping[str, Any] = field(default_factory=dict)
    shipped: Mapping[str, bytes] = field(default_factory=dict)
    augmentation: Augmentation = field(default_factory=Augmentation)


def in_three_splits(samples: SampleDataset, at_hand: Mapping[str, Sequence[int]], seed: int, name: str,
                    strata: Tensor | None = None) -> dict[str, SampleDataset]:
    """Samples of all three splits out of those at hand, by the rule for arrays (`splits.complete`).

    Args:
        samples: Those of all splits.
        at_hand: Which of them each split at hand has, `train` among them.
        seed: Settles what is split off.
        name: Of the data, for messages.
        strata: Class numbers `(N,)`, where classes are to be spread evenly over the splits.

    Raises:
        InputError: where a split has no sample, or there is no training split.
    """
    empty = [split for split, numbers in at_hand.items() if not len(numbers)]
    if empty:
        raise InputError(f"{name}: every split must hold samples, but {', '.join(empty)} has none")
    numbered = {split: torch.as_tensor(numbers, dtype=torch.int64) for split, numbers in at_hand.items()}
    parts = {split: Split(numbers, torch.zeros_like(numbers) if strata is None else strata[numbers])
             for split, numbers in numbered.items()}
    rows = {split: part.inputs.numpy() for split, part in complete(parts, seed, name).items()}
    short = [split for split, numbers in rows.items() if not len(numbers)]
    if short:
        raise InputError(f"{name}: the {short[0]} split is empty: bring more samples (an automatic split needs ten or "
                         "more)")
    return {split: Subset(samples, numbers) for split, numbers in rows.items()}  # type: ignore[arg-type]


def spelled_split(name: str) -> str | None:
    """Which split a name stands for, such as `train`, `val2017` or `Testing`; None for none."""
    word = name.strip().lower().rstrip("0123456789_-")
    return next((split for split, spellings in SPELLINGS.items() if word in spellings), None)
