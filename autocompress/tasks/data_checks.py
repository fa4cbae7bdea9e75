"""Checks of a classification data set, once when it comes in: shapes, types, labels and normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from autocompress.errors import InputError
from autocompress.tasks.samples import pieces
from autocompress.tasks.splits import READINGS, SPLITS, STORED, TOKENS, Split, TaskData, check_lengths


def checked(data: TaskData) -> TaskData:
    """`data` itself when every split can be used. InputError says which rule is broken, and where."""
    if data.classes < 2:
        raise InputError(f"{data.name}: classification needs at least 2 classes, but the data has {data.classes}")
    for name in SPLITS:
        _check_split(f"{data.name}, {name} split", getattr(data, name), data)
    if len(torch.unique(data.train.targets)) < 2:
        only = int(data.train.targets[0])
        raise InputError(f"{data.name}: the training split must hold at least 2 classes, but all labels are {only}")
    check_normalisation(data, turned=True)
    if data.augment is not None and not callable(data.augment):
        raise InputError(f"{data.name}: `augment` must be a function of a batch and a generator, "
                         f"but is {data.augment!r}")
    return data


def _check_split(where: str, split: Split, data: TaskData) -> None:
    inputs, targets = split.inputs, split.targets
    if inputs.dtype not in STORED or targets.dtype != torch.int64 or targets.ndim != 1:
        raise InputError(
            f"{where}: inputs must be whole numbers or float32 and labels int64 of shape (N,), but they are "
            f"{inputs.dtype} and {targets.dtype} {tuple(targets.shape)}"
        )
    check_lengths(split, where)
    if len(split) == 0:
        raise InputError(f"{where} is empty: bring more samples (an automatic split needs ten or more)")
    if inputs.ndim < 2 or math.prod(inputs.shape[1:]) == 0:
        raise InputError(f"{where}: a sample must be an array such as (C, H, W), but inputs are {tuple(inputs.shape)}")
    if len({inputs.dtype, data.train.inputs.dtype} - {torch.uint8, torch.float32}) + (
            inputs.dtype != data.train.inputs.dtype) > 1:
        raise InputError(f"{where}: all splits must hold one type of numbers, but training has "
                         f"{data.train.inputs.dtype} and this has {inputs.dtype}")
    if data.kind == TOKENS and inputs.dtype.is_floating_point:
        raise InputError(f"{where}: tokens must be whole numbers, but are {inputs.dtype}: convert them to int64")
    if inputs.shape[1:] != data.train.inputs.shape[1:]:
        raise InputError(
            f"{where}: samples must be shaped as in training, {data.input_shape}, but are {tuple(inputs.shape[1:])}"
        )
    bad = sum(int((~torch.isfinite(piece).flatten(1).all(dim=1)).sum()) for piece in pieces(inputs)
              ) if inputs.dtype.is_floating_point else 0
    if bad:
        raise InputError(f"{where}: values must be finite, but {bad} of {len(split)} samples hold NaN or infinity")
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= data.classes:
        raise InputError(
            f"{where}: labels must be from 0 to {data.classes - 1}, but they reach from {low} to {high}: "
            "renumber them, or give the right number of `classes`"
        )


def check_normalisation(data: TaskData, turned: bool = False) -> None:
    """InputError unless mean and std suit the inputs: those of channels that are last, where they may be `turned`."""
    values: Sequence[tuple[float, ...]] = (data.mean, data.std)
    channels = {1, data.input_shape[0], data.input_shape[-1 if turned else 0]}
    if data.reading is not None and data.reading not in READINGS:
        raise InputError(f"{data.name}: the reading of inputs must be one of {', '.join(READINGS)}, but is "
                         f"{data.reading!r}")
    if data.kind == TOKENS and not data.is_plain:
        raise InputError(f"{data.name}: tokens cannot be normalised, but mean and std are {data.mean} and {data.std}: "
                         "leave them out")
    if any(len(v) not in channels for v in values) or not all(s > 0 for s in data.std):
        raise InputError(
            f"{data.name}: mean and std must hold 1 or {data.input_shape[0]} values, std above zero, "
            f"but they are {data.mean} and {data.std}"
        )
    if data.pad < 0:
        raise InputError(f"{data.name}: pad must be 0 or more pixels, but is {data.pad}")
