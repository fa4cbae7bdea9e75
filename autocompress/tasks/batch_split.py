"""One split of a task of batches: all batches that were given for it, or samples held out of another split."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from autocompress.errors import InputError
from autocompress.tasks.batch_structure import moved
from autocompress.tasks.batches import Batches
from autocompress.tasks.metrics.selection import has_targets, targets_of
from autocompress.tasks.samples import Samples, take_rows
from autocompress.tasks.shaped_samples import ShapedSamples
from autocompress.tasks.splits import SPLITS, phases, with_every_class_trained
from autocompress.tasks.views import Changes
from autocompress.tensors.named import NamedTensors

log = logging.getLogger(__name__)

ChangeBatch = Callable[[Any, Tensor], Any]
SplitName = Literal["train", "validation", "test"]
# Least number of samples, or of batches, of which a tenth can be held out.
LEAST_HELD_OUT = 10
# Batches that stand for all of a split at least.
LEAST_BATCHES = 10


class BatchSplit(Sequence[Any]):
    """Batches of one split, each read when it is asked for.

    Args:
        batches: the recorded ones.
        numbers: of those that are in the split; None for all, or where `rows` says which samples are.
        rows: numbers of the samples in the split, in its order, where they are not whole batches. Those of one shape
            are put together.
    """

    def __init__(self, batches: Batches, numbers: Sequence[int] | None = None, rows: Tensor | None = None) -> None:
        self._numbers = range(len(batches)) if numbers is None else [*numbers]
        sizes = [batches.starts[number + 1] - batches.starts[number] for number in self._numbers]
        if rows is not None:
            size, groups = max(sizes), batches.shape_groups(batches.input_columns)
            of_rows = torch.zeros(len(rows), dtype=torch.int64) if groups is None else groups[rows]
            rows = rows[torch.argsort(of_rows, stable=True)]
            sizes = [min(size, count - start) for count in torch.unique(of_rows, return_counts=True)[1].tolist()
                     for start in range(0, count, size)]
        self._batches, self._rows = batches, rows
        self.starts = [0, *torch.tensor(sizes).cumsum(0).tolist()]
        if numbers is not None and rows is None:
            self._rows = torch.cat([torch.arange(batches.starts[number], batches.starts[number + 1])
                                    for number in numbers])
        self._cut = rows is not None

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.starts) - 1

    @property
    def samples(self) -> int:
        """Number of samples."""
        return int(self.starts[-1])

    def __getitem__(self, number: Any) -> Any:
        """A batch: as it came where it is whole."""
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        number = range(len(self))[number]
        if self._cut and self._rows is not None:
            return self._batches.gather(self._rows[self.starts[number]:self.starts[number + 1]])
        return self._batches[self._numbers[number]]

    def among(self, batches: Batches) -> BatchSplit:
        """The same batches or samples of others."""
        other = copy.copy(self)
        other._batches = batches
        return other

    def of_one_shape(self, names: Collection[str]) -> BatchSplit:
        """The samples whose inputs of these names have the shapes that most have; the split itself where all do."""
        groups = self._batches.shape_groups(names)
        if groups is None:
            return self
        rows = torch.arange(self._batches.samples) if self._rows is None else self._rows
        kinds, counts = torch.unique(groups[rows], return_counts=True)
        return self if len(kinds) == 1 else BatchSplit(self._batches, rows=rows[groups[rows] == kinds[counts.argmax()]])

    @property
    def columns(self) -> list[str]:
        """Names of the arrays that may be inputs."""
        return [*self._batches.input_columns]

    def gather(self, rows: Tensor) -> Any:
        """The samples of `rows` `(M,)`, in that order, as one batch."""
        return self._batches.gather(rows if self._rows is None else self._rows[rows])

    def column(self, name: str) -> Samples:
        """The samples of an input."""
        column = self._batches.column(name)
        if self._rows is None:
            return column
        samples: Samples = column.taken(self._rows) if isinstance(column, ShapedSamples) else \
            take_rows(column, self._rows)
        return samples

    def pieces(self, most: int) -> Iterator[slice]:
        """Ranges of at most `most` samples, none of them of two batches."""
        for start, end in zip(self.starts[:-1], self.starts[1:], strict=True):
            yield from (slice(first, min(first + most, end)) for first in range(start, end, most))

    def part(self, samples: int) -> Tensor | None:
        """Numbers `(M,)` int64, ascending, of the rows of whole batches, drawn at random until they have as many
        `samples`. None where those are all, batches are few, or samples have several shapes."""
        if self._batches.shape_groups(self.columns) is not None:
            return None
        sizes = torch.tensor(self.starts).diff()
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))
        taken = order[:int(torch.searchsorted(sizes[order].cumsum(0), samples)) + 1].sort().values.tolist()
        if len(taken) == len(self) or len(taken) < LEAST_BATCHES:
            return None
        return torch.cat([torch.arange(self.starts[number], self.starts[number + 1]) for number in taken])


class GatheredBatches:
    """Samples of a split by rows, each set of them as one batch: what a user's loss is given.

    Args:
        split: which; None where there is no loss.
        samples: how many.
        change: a batch and the numbers of its samples → the batch with what is changed about these; None for nothing.
    """

    def __init__(self, split: BatchSplit | None, samples: int, change: ChangeBatch | None = None) -> None:
        self._split, self._samples, self._change = split, samples, change

    def __len__(self) -> int:
        """Number of samples."""
        return self._samples

    def __getitem__(self, rows: slice | Tensor) -> Batch:
        """The batch of these rows."""
        return _gathered(self._split, torch.arange(len(self))[rows], self._change)


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch that can be moved to a device and cut like a tensor.

    Args:
        content: the batch as the user's data gives it; None where there is no loss.
        split: where its samples are from; None where there is no loss.
        rows: their numbers in the split, `(B,)` int64.
        device: where its tensors are; None for where they were read.
        change: see `GatheredBatches`.
    """

    content: Any
    split: BatchSplit | None
    rows: Tensor
    device: Any = None
    change: ChangeBatch | None = None

    def to(self, device: Any) -> Batch:
        """With its tensors there."""
        return replace(self, content=moved(self.content, device), device=device)

    def __getitem__(self, part: slice) -> Batch:
        """Some of its samples, of a batch that does not fit into memory; itself where they are all."""
        rows = self.rows[part]
        if len(rows) == len(self.rows):
            return self
        cut = _gathered(self.split, rows, self.change)
        return cut if self.device is None else cut.to(self.device)


def _gathered(split: BatchSplit | None, rows: Tensor, change: ChangeBatch | None) -> Batch:
    content = None if split is None else split.gather(rows)
    return Batch(content if split is None or change is None else change(content, rows), split, rows, change=change)


def completed(at_hand: Mapping[str, Batches], name: str) -> dict[str, BatchSplit]:
    """All three splits out of those at hand, as `splits.complete` makes them for arrays: without validation data a
    tenth of the training data is held out, without test data another tenth, or half of the validation data. Each class
    is spread evenly where targets are labels, and samples of a batch stay together where they cannot be taken apart.

    Raises:
        InputError: where `train` is missing, or too small to hold anything out.
    """
    if "train" not in at_hand:
        raise InputError(f"{name}: a task needs a train split, but has {', '.join(at_hand) or 'none'}")
    splits = {split: BatchSplit(batches) for split, batches in at_hand.items()}
    missing = [split for split in SPLITS if split not in at_hand]
    if "validation" in missing:
        parts = ["train"] * 8 + (["test", "validation"] if "test" in missing else ["train", "validation"])
        splits |= _held_out(at_hand["train"], parts, name)
    elif "test" in missing:
        splits |= _held_out(at_hand["validation"], ["validation", "test"], name)
    if missing:
        log.info("%s: no %s split is given: %s after splitting", name, " and no ".join(missing),
                 ", ".join(f"{splits[split].samples} {split} samples" for split in SPLITS))
    return splits


def _held_out(batches: Batches, parts: Sequence[str], name: str) -> dict[str, BatchSplit]:
    """The splits `parts`, each of as many samples as it has places, drawn of one."""
    by_samples = not batches.structure.whole
    units = batches.samples if by_samples else len(batches)
    if units < max(2, min(LEAST_HELD_OUT, len(parts))):
        why = "" if by_samples else f" (no samples can be taken out of {batches.structure.whole})"
        raise InputError(f"{name}: a tenth is held out where no validation split is given, which needs "
                         f"{LEAST_HELD_OUT} {'samples' if by_samples else 'batches'} or more, but there are "
                         f"{units}{why}: give validation= and test=")
    labels = _labels(batches) if by_samples else None
    targets = torch.zeros(units, dtype=torch.int64) if labels is None else labels
    numbers = phases(targets, len(parts), 0)
    if labels is not None and parts[0] == "train":
        numbers = with_every_class_trained(numbers, targets, parts.count("train"))
    splits = {}
    for part in dict.fromkeys(parts):
        places = [number for number, each in enumerate(parts) if each == part]
        chosen_units = torch.isin(numbers, torch.tensor(places)).nonzero()[:, 0]
        splits[part] = BatchSplit(batches, rows=chosen_units) if by_samples else \
            BatchSplit(batches, numbers=chosen_units.tolist())
    return splits


def _labels(batches: Batches) -> Tensor | None:
    """Targets `(N,)` of all samples where they are whole numbers, found by their usual names; None else."""
    labels = []
    for number in range(len(batches)):
        if not has_targets(batches.skeleton(number)):
            return None
        targets = batches.entry(number, targets_of)
        targets = torch.from_numpy(targets) if isinstance(targets, np.ndarray) else targets
        if not isinstance(targets, Tensor) or targets.dim() != 1 or targets.dtype.is_floating_point:
            return None
        labels.append(targets.long())
    return torch.cat(labels)


def named_rows(split: BatchSplit, names: Mapping[str, str], rows: Any,
               changes: Mapping[str, Changes] = MappingProxyType({})) -> Any:
    """Samples of a split as a network reads them: floating-point numbers in float32.

    Args:
        split: which.
        names: the arguments of `forward`, and the column of each; the empty name for the one tensor.
        rows: a slice or numbers.
        changes: of all samples, for the arguments that are changed.
    """
    tensors = {name: split.column(column)[rows] for name, column in names.items()}
    tensors |= {name: changes[name][rows].applied(tensors[name]) for name in changes}
    tensors = {name: tensor.float() if tensor.dtype.is_floating_point else tensor for name, tensor in tensors.items()}
    return tensors[""] if [*tensors] == [""] else NamedTensors(tensors)
