"""Samples that a user's Python code hands over: pairs of arrays, torch Datasets, or a dict of those by split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset

from autocompress.errors import InputError
from autocompress.tasks.arrays import by_split, split_name
from autocompress.tasks.labels import class_numbers
from autocompress.tasks.metrics.selection import TARGET_NAMES
from autocompress.tasks.sources.base import (
    INPUT,
    TARGET,
    Sample,
    SampleDataset,
    Source,
    SourceContext,
    in_three_splits,
)
from autocompress.tasks.sources.named_arrays import ArrayRows, as_tensor
from autocompress.tasks.splits import SPLITS


@dataclass(frozen=True, eq=False)
class Items:
    """The samples of a torch Dataset: tuples of an input and a target, or mappings of inputs and perhaps a target."""

    dataset: Any
    where: str

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        item = self.dataset[int(index)]
        if isinstance(item, Mapping):
            return {TARGET if key in TARGET_NAMES else str(key): as_tensor(value) for key, value in item.items()}
        if not isinstance(item, tuple | list) or not 1 <= len(item) <= 2:
            raise InputError(f"{self.where}: samples must be (input, target) or a mapping, but one is a "
                             f"{type(item).__name__}")
        return dict(zip((INPUT, TARGET), map(_picture_or_array, item), strict=False))


def _picture_or_array(value: Any) -> Tensor:
    """An array as `as_tensor`; a picture of Pillow as bytes `(channels, height, width)`."""
    array = np.asarray(value) if not isinstance(value, Tensor | np.ndarray) else value
    return as_tensor(array)


def source_of(value: Any, name: str, context: SourceContext) -> Source:
    """The samples that a user hands over.

    Args:
        value: `(x, y)` arrays, `(train, test)` or `(train, validation, test)` of such pairs or of torch Datasets, one
            Dataset, or a dict of those by split.
        name: of the data.
        context: see `SourceContext`.

    Raises:
        InputError: for anything else.
    """
    parts = {split_name(key): part for key, part in value.items()} if isinstance(value, Mapping) else \
        by_split(value, name)
    unknown = [str(key) for key in parts if key not in SPLITS]
    if unknown:
        raise InputError(f"{name}: keys must be {', '.join(SPLITS)}, but there is {', '.join(unknown)}")
    pairs = {split: part for split, part in parts.items() if isinstance(part, tuple | list) and len(part) == 2}
    class_names: tuple[str, ...] = ()
    targets: dict[str, Any] = {split: pair[1] for split, pair in pairs.items()}
    if context.classes and len(pairs) == len(parts):
        targets, class_names = class_numbers(targets, name)
    samples: dict[str, SampleDataset] = {
        split: _arrays(part[0], targets[split], f"{name}, {split} split") if split in pairs else
        Items(part, f"{name}, {split} split") for split, part in parts.items()}
    begins = np.cumsum([0, *map(len, samples.values())]).tolist()
    ranges = {split: range(begins[number], begins[number + 1]) for number, split in enumerate(samples)}
    everything: ConcatDataset[Sample] = ConcatDataset(list(samples.values()))  # type: ignore[arg-type]
    strata = torch.cat([targets[split] for split in samples]) if context.classes and len(pairs) == len(parts) else None
    splits = in_three_splits(everything, ranges, context.seed, name, strata)
    first = splits["train"][0]
    classes = len(class_names) or (None if strata is None else int(strata.max()) + 1)
    inputs = {key: each for key, each in first.items() if key != TARGET}
    pictures = any(each.dtype == torch.uint8 and each.dim() > 2 for each in inputs.values())
    said = context.preparation
    mean, std = (said.mean or (0.0,), said.std or (1.0,)) if pictures else context.normalisation
    return Source(name, splits, tuple(inputs), TARGET in first, classes, class_names, mean, std)


def _arrays(inputs: Any, targets: Any, where: str) -> ArrayRows:
    named = inputs if isinstance(inputs, Mapping) else {INPUT: inputs}
    arrays = {name: np.asarray(array) for name, array in named.items()}
    lengths = {len(array) if array.ndim else 0 for array in (*arrays.values(), np.asarray(targets))}
    if len(lengths) > 1:
        raise InputError(f"{where}: arrays must have a row for each sample, but have "
                         f"{' and '.join(map(str, sorted(lengths)))} rows")
    return ArrayRows(arrays, np.asarray(targets))
