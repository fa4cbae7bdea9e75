"""Labels in the forms in which people keep them, as class numbers from 0."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autocompress.errors import InputError

log = logging.getLogger(__name__)

Array = np.ndarray[Any, Any]


def class_numbers(labels: Mapping[str, Any], name: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Labels (N,) int64 of each split, and the names of the classes where labels were names.

    Whole numbers of any type, floats that are whole, booleans, (N, 1), one-hot rows (N, classes) and names are taken;
    names are numbered in alphabetical order over all splits. InputError for anything else. `name` is the data set's.
    """
    columns = {split: _column(value, f"{name}, {split} split") for split, value in labels.items()}
    if any(column.dtype.kind == "U" for column in columns.values()):
        return _numbered(columns, name)
    return {split: torch.from_numpy(column.astype(np.int64)) for split, column in columns.items()}, ()


def _column(value: Any, where: str) -> Array:
    """One whole number or one name a sample."""
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else _as_array(value, where)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind in "fc" and not _whole(array):
        raise InputError(f"{where}: labels must be integers, but are {array.dtype} such as "
                         f"{array.flat[int(np.argmax(array != np.round(array)))]:g}: convert them to int64")
    if array.ndim == 2 and array.dtype.kind in "biuf":
        array = _from_one_hot(array, where)
    if array.ndim != 1:
        raise InputError(f"{where}: labels must be one integer a sample, (N,), but are {tuple(array.shape)}")
    if array.dtype.kind == "f":
        log.info("%s: labels are whole numbers kept as %s", where, array.dtype)
        return array.astype(np.int64)
    return array


def _as_array(value: Any, where: str) -> Array:
    array = np.asarray(value)
    if array.dtype.kind == "O" and all(isinstance(item, str) for item in array.flat):
        return array.astype(str)
    if array.dtype.kind == "S":
        return np.char.decode(array, "utf-8")
    if array.dtype.kind not in "biufcU":
        raise InputError(f"{where}: labels must be integers or names, but are {array.dtype}: convert them to int64")
    return array


def _whole(array: Array) -> bool:
    return array.dtype.kind == "f" and bool(np.isfinite(array).all()) and bool((array == np.round(array)).all())


def _from_one_hot(array: Array, where: str) -> Array:
    if not (np.isin(array, (0, 1)).all() and (array.sum(axis=1) == 1).all()):
        raise InputError(f"{where}: labels must be one integer a sample, (N,), or one-hot rows, but are "
                         f"{tuple(array.shape)} of other values")
    log.info("%s: labels are one-hot rows of %d classes", where, array.shape[1])
    numbers: Array = array.argmax(axis=1)
    return numbers


def _numbered(columns: Mapping[str, Array], name: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    texts = {split: column.astype(str) for split, column in columns.items()}
    present = sorted({str(text) for column in texts.values() for text in np.unique(column)})
    if all(text.strip().lstrip("-").isdecimal() for text in present):
        return {split: torch.from_numpy(column.astype(np.int64)) for split, column in texts.items()}, ()
    log.info("%s: labels are names, numbered in alphabetical order: %s%s", name,
             ", ".join(f"{text} = {number}" for number, text in enumerate(present[:5])),
             ", …" if len(present) > 5 else "")
    names = np.array(present)
    return {split: torch.from_numpy(np.searchsorted(names, column).astype(np.int64))
            for split, column in texts.items()}, tuple(present)
