"""The source `npz:` of a task: arrays called as the arguments of `forward`, and targets, by split.

Arrays stay as they are stored, large ones mapped; a sample is converted when it is asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset

from autocompress.errors import InputError
from autocompress.tasks.arrays import SPELLINGS
from autocompress.tasks.labels import class_numbers
from autocompress.tasks.npz import read_arrays
from autocompress.tasks.preparation import Preparation, channel_numbers
from autocompress.tasks.sources.base import INPUT, TARGET, Sample, Source, SourceContext, in_three_splits
from autocompress.tasks.sources.specs import SourceSpec

log = logging.getLogger(__name__)

_TARGETS = ("targets", "target", "labels", "label", "y")
# What the one input may be called where it is not called as the argument.
_INPUTS = ("x", "inputs", "input", "images", "data", "features")
# Numbers that are looked at in one piece.
PIECE = 2**24
# Arrays that say something of the others.
_FACTS = ("mean", "std")


@dataclass(frozen=True, eq=False)
class ArrayRows:
    """Rows of arrays by the name of the input, and their targets."""

    inputs: Mapping[str, np.ndarray[Any, Any]]
    targets: Any

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def __getitem__(self, index: int) -> Sample:
        sample = {name: as_tensor(array[index]) for name, array in self.inputs.items()}
        return sample if self.targets is None else {**sample, TARGET: as_tensor(self.targets[index])}


def as_tensor(row: Any) -> Tensor:
    """One sample of an array: real numbers as float32, whole ones as int64, but for bytes of pictures, which are turned
    to (channels, height, width), and booleans."""
    if isinstance(row, Tensor):
        return row
    array = np.asarray(row)
    if array.dtype.kind == "f":
        return torch.from_numpy(np.array(array, np.float32))
    if array.dtype == np.uint8 and array.ndim > 1:
        picture = torch.from_numpy(np.array(array))
        if array.ndim == 2:
            return picture[None]
        last = array.ndim == 3 and array.shape[2] in (1, 3, 4) and array.shape[0] not in (1, 3, 4)
        return picture.permute(2, 0, 1).contiguous() if last else picture
    return torch.from_numpy(np.array(array, bool if array.dtype.kind == "b" else np.int64))


def open_npz(spec: SourceSpec, context: SourceContext) -> Source:
    """Arrays `NAME`, `NAME_train`, `train_NAME` and so on of each split, where NAME is an argument of `forward` or, of
    the one input, x, inputs, images, data or features, and of the targets targets, labels or y. Without targets there
    are no labels.

    Raises:
        InputError: where arrays are missing, of different lengths, there twice under two names, or no numbers.
    """
    (path,) = spec.paths
    arrays = read_arrays(path)
    names = {name.lower(): name for name in arrays}
    all_keys = {split: dict(_of_split(split, spellings, names, context.arguments, path))
                for split, spellings in SPELLINGS.items()}
    keys_of_split = {split: keys for split, keys in all_keys.items() if keys}
    if not any(name != TARGET for name in keys_of_split.get("train", ())):
        arguments = ", ".join(context.arguments) or "x"
        raise InputError(f"{path} must hold arrays called as the inputs of the network, {arguments}, or those with "
                         f"_train, _val and _test, but holds {', '.join(arrays) or 'none'}")
    _check_keys(keys_of_split, context.arguments, path)
    parts = {split: {name: arrays[key] for name, key in keys.items()} for split, keys in keys_of_split.items()}
    _check_arrays(parts, path)
    left = sorted(set(arrays) - {key for keys in keys_of_split.values() for key in keys.values()} - set(_FACTS))
    if left:
        log.info("%s: left out %s, which are no inputs of the network and no targets", path, ", ".join(left))
    targets: Mapping[str, Any] = {split: part.pop(TARGET) for split, part in parts.items() if TARGET in part}
    class_names: tuple[str, ...] = ()
    strata = None
    if targets and context.classes:
        targets, class_names = class_numbers(targets, path.stem)
        strata = torch.cat([targets[split] for split in parts])
    rows = {split: ArrayRows(part, targets.get(split)) for split, part in parts.items()}
    begins = np.cumsum([0, *(len(part) for part in rows.values())]).tolist()
    ranges = {split: range(begins[number], begins[number + 1]) for number, split in enumerate(rows)}
    everything: ConcatDataset[Sample] = ConcatDataset(list(rows.values()))  # type: ignore[arg-type]
    pictures = any(array.dtype == np.uint8 and array.ndim > 2 for array in parts["train"].values())
    splits = in_three_splits(everything, ranges, context.seed, str(path), strata)
    said = Preparation() if context.preparation.origin and not pictures else context.preparation
    facts = {name: channel_numbers(arrays[name], name) for name in _FACTS if name in arrays}
    return Source(path.stem, splits, tuple(parts["train"]), bool(targets),
                  len(class_names) or (None if strata is None else int(strata.max()) + 1), class_names,
                  said.mean or facts.get("mean") or (0.0,), said.std or facts.get("std") or (1.0,))


def _of_split(split: str, spellings: Sequence[str], names: Mapping[str, str], arguments: Mapping[str, bool],
              path: Path) -> Iterator[tuple[str, str]]:
    """Names of inputs, and `TARGET`, with the arrays that a split has for them. InputError for two of one."""
    def named(word: str) -> list[str]:
        keys = [form for spelling in spellings
                for form in (f"{word}_{spelling}", f"{spelling}_{word}", f"{word}{spelling}")]
        keys += [word] if split == "train" else []
        return [names[key] for key in dict.fromkeys(keys) if key in names]

    def only(keys: Sequence[str], what: str) -> str:
        if len(keys) > 1:
            raise InputError(f"{path}: {what} of the {split} split must be one array, but there are {', '.join(keys)}")
        return keys[0]

    inputs = {argument: keys for argument in arguments if (keys := named(argument.lower()))}
    for argument, keys in inputs.items():
        yield argument, only(keys, f"input {argument!r}")
    if not inputs and (keys := [key for word in _INPUTS for key in named(word)]):
        yield INPUT, only(keys, "the input")
    if keys := [key for word in _TARGETS if word not in inputs for key in named(word)]:
        yield TARGET, only(keys, "targets")


def _check_keys(keys_of_split: Mapping[str, Mapping[str, str]], arguments: Mapping[str, bool], path: Path) -> None:
    """InputError unless all splits have the same inputs and targets, among them all that `forward` must be given."""
    there = set(keys_of_split["train"])
    if INPUT not in there:
        missing = [name for name, needed in arguments.items() if needed and name not in there]
        if missing:
            raise InputError(f"{path} must hold an array for each input of the network, but holds none for "
                             f"{', '.join(missing)}")
    for split, keys in keys_of_split.items():
        if set(keys) != there:
            raise InputError(f"{path}: every split must have the same arrays, but training has "
                             f"{', '.join(sorted(there))} and {split} has {', '.join(sorted(keys))}")


def _check_arrays(parts: Mapping[str, Mapping[str, np.ndarray[Any, Any]]], path: Path) -> None:
    """InputError unless arrays of a split have as many rows each, of numbers, and one shape in all splits."""
    for split, part in parts.items():
        lengths = {name: len(array) if array.ndim else 0 for name, array in part.items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise InputError(f"{path}: arrays of the {split} split must have as many rows each, but have: {told}")
        for name, array in part.items():
            if array.dtype.kind not in "biuf" and name != TARGET:
                raise InputError(f"{path}: {name} must be an array of numbers, but is {array.dtype}")
            pieces = np.array_split(array, max(1, array.size // PIECE)) if array.dtype.kind == "f" else ()
            if not all(np.isfinite(piece).all() for piece in pieces):
                raise InputError(f"{path}: {name} of the {split} split must be finite, but holds NaN or infinity")
            shape = parts["train"][name].shape[1:]
            if array.shape[1:] != shape:
                raise InputError(f"{path}: {name} must have one shape in all splits, but samples are {shape} in "
                                 f"training and {array.shape[1:]} in {split}")
