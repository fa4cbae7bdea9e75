"""Batches as users make them: tuples, dicts and dataclasses of arrays, of which samples can be taken.

Of each value in a batch it is settled by the first one what it is: *rows*, one for each sample (a tensor or array whose
first axis is the samples, or a list of one entry a sample), *parts* (a tuple, mapping or dataclass of values), or the
*same* for all samples.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from autocompress.errors import InputError

Kind = Literal["tensor", "list", "parts", "same", "whole"]
# Types of values that are the same for all samples; those of others are left whole, and no samples are taken of them.
_PLAIN = (type(None), bool, int, float, complex, str, bytes, np.generic, torch.dtype, torch.device)


# What can be done about samples of several shapes.
ONE_SHAPE = ("bring pictures to one size (a transform of the Dataset; on the command line --image-size), and pad "
             "sequences to one length (with transformers, padding=\"max_length\" in place of each batch's longest), "
             "with a mask as a further input")


@dataclasses.dataclass(frozen=True)
class Structure:
    """How a batch is built: for each place in it the kind of value, and that in words.

    Args:
        kinds: by place, such as `.target[0]`.
        words: by place.
    """

    kinds: dict[str, Kind]
    words: dict[str, str]

    @classmethod
    def of(cls, batch: Any, samples: int, first: Structure | None = None) -> Structure:
        """That of a batch of so many samples; what its lists are is told by the `first` batch, where it has them."""
        kinds: dict[str, Kind] = {}
        words: dict[str, str] = {}

        def look(value: Any, place: str) -> None:
            kind = _kind(value, samples, place, first)
            kinds[place], words[place] = kind, _words(value, kind)
            for key, part in parts(value) if kind == "parts" else ():
                look(part, place + key)

        look(batch, "")
        return cls(kinds, words)

    def require_like(self, first: Structure, where: str) -> None:
        """InputError where batches of one split, found `where`, are not what those of another are: arrays, sequences,
        or entries by name. They may hold more or less, and arrays of other types: one split has weights of samples or
        shares of classes, another one labels alone."""
        if self._form != first._form:
            raise _unlike(where, self.words[""], first.words[""], "")

    @property
    def _form(self) -> str:
        start = self.words[""].split()[0]
        return {"a": "array", "an": "array", "tuple": "sequence", "list": "sequence"}.get(start, "by name")

    def merged(self, other: Structure, where: str) -> Structure:
        """The structure of these batches and another, found `where`: an array that has a row for each sample by chance
        is left whole. InputError where it is built otherwise."""
        for place in [*self.words, *other.words]:
            before, now = (words.words.get(place, "nothing") for words in (self, other))
            if before != now:
                raise _unlike(where, now, before, place)
        kinds = {place: kind if kind == other.kinds[place] else "whole" for place, kind in self.kinds.items()}
        return self if kinds == self.kinds else Structure(kinds, self.words)

    @property
    def whole(self) -> str:
        """In words, a value of which no samples can be taken; empty where there is none."""
        return next((f"{self.words[place]}{f' at {place}' if place else ''}" for place, kind in self.kinds.items()
                     if kind == "whole"), "")


class Read(Protocol):
    """Reads what a reference stands for in one of several batches."""

    def __call__(self, reference: Reference, batch: int, whole: bool) -> Any:
        """Rows of an array: all those of the batch, or those that are chosen."""


class Reference:
    """Stands in a stored batch for rows that are stored elsewhere.

    Args:
        column: number of the column.
        is_array: whether it was a numpy array.
    """

    def __init__(self, column: int, is_array: bool) -> None:
        self.column, self.is_array = column, is_array


def parts(value: Any) -> list[tuple[str, Any]]:
    """The values inside a tuple, mapping or dataclass, with how they are reached: `.image`, `[0]`."""
    if isinstance(value, Mapping):
        return [(f".{key}", part) for key, part in value.items()]
    if dataclasses.is_dataclass(value):
        return [(f".{field.name}", getattr(value, field.name)) for field in dataclasses.fields(value)]
    if hasattr(value, "_fields"):
        return [(f".{name}", part) for name, part in zip(value._fields, value, strict=True)]
    return [(f"[{i}]", part) for i, part in enumerate(value)]


def rebuilt(value: Any, values: Sequence[Any]) -> Any:
    """A tuple, mapping or dataclass like `value` with other values inside."""
    if type(value) is dict:
        return dict(zip(value, values, strict=True))
    if isinstance(value, Mapping):
        other: Any = copy.copy(value)
        for key, part in zip([*value], values, strict=True):
            other[key] = part
        return other
    if dataclasses.is_dataclass(value):
        other = copy.copy(value)
        for field, part in zip(dataclasses.fields(value), values, strict=True):
            object.__setattr__(other, field.name, part)
        return other
    return type(value)(*values) if hasattr(value, "_fields") else type(value)(values)


def resolved(value: Any, read: Callable[[Reference], Any]) -> Any:
    """A stored batch with its references read."""
    if isinstance(value, Reference):
        return read(value)
    if isinstance(value, Mapping | tuple | list) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        values = [resolved(part, read) for _, part in parts(value)]
        changed = any(one is not part for one, (_, part) in zip(values, parts(value), strict=True))
        return rebuilt(value, values) if changed else value
    return value


def gathered(batches: Sequence[Any], rows: Sequence[Sequence[int]], structure: Structure,
             read: Read) -> Any:
    """Samples of several batches as one batch.

    Args:
        batches: stored ones, with references.
        rows: of each batch, which of its samples.
        structure: how batches are built.
        read: a reference, the number of the batch among `batches`, and whether all its rows are meant → these, or those
            that are chosen.

    Raises:
        InputError: where samples cannot be put together.
    """
    def build(values: Sequence[Any], place: str) -> Any:
        kind = structure.kinds.get(place, "same")
        if kind == "tensor":
            return _stacked([read(value, i, False) if isinstance(value, Reference) else value[list(rows[i])]
                             for i, value in enumerate(values)], place)
        if kind == "list":  # what looks like rows inside an entry is all of it
            entries = [resolved(value[row], partial(read, batch=i, whole=True))
                       for i, value in enumerate(values) for row in rows[i]]
            return type(values[0])(entries)
        if kind == "parts":
            every = [parts(value) for value in values]
            return rebuilt(values[0], [build([each[k][1] for each in every], place + key)
                                       for k, (key, _) in enumerate(every[0])])
        if kind == "whole":
            raise InputError(f"samples cannot be taken out of {structure.whole} of a batch: give arrays, or lists with "
                             "an entry for each sample")
        return values[0]

    return build(batches, "")


def moved(value: Any, device: Any) -> Any:
    """A batch with its tensors on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping | tuple | list) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        return rebuilt(value, [moved(part, device) for _, part in parts(value)])
    return value


def changed_at(value: Any, change: Callable[[str, Any], Any], place: str = "") -> Any:
    """A batch in which each tensor and array is what `change` makes of its place, such as `.target[0]`, and of it."""
    if isinstance(value, Tensor | np.ndarray):
        return change(place, value)
    if isinstance(value, Mapping | tuple | list) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        return rebuilt(value, [changed_at(part, change, place + key) for key, part in parts(value)])
    return value


def places_of(value: Any, place: str = "") -> dict[str, int]:
    """The columns of references in a stored batch, by their places."""
    if isinstance(value, Reference):
        return {place: value.column}
    if isinstance(value, Mapping | tuple | list) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        return {at: column for key, part in parts(value) for at, column in places_of(part, place + key).items()}
    return {}


def _unlike(where: str, now: str, before: str, place: str) -> InputError:
    return InputError(f"{where} must be built as the first batch is, but it has {now} in place of {before}"
                      f"{f' at {place}' if place else ''}: give all batches one structure")


def require_one_shape(batch: Any, where: str) -> None:
    """InputError where what may be an input is a list of arrays, one a sample, of several shapes."""
    first = batch[0] if isinstance(batch, tuple | list) and batch else batch
    beside = parts(first) if isinstance(first, Mapping) else parts(batch) if isinstance(batch, tuple | list) else []
    lengths = {len(value) for _, value in beside if is_rows(value)}
    for place, value in [("", first), *(beside if isinstance(first, Mapping) else [])]:
        if not isinstance(value, list) or not value or not all(map(is_rows, value)):
            continue
        shapes = sorted({str(tuple(each.shape)) for each in value})
        are_inputs = lengths and {len(each) for each in value} == lengths  # each with a row for each sample
        if len(shapes) > 1 and not are_inputs and (not lengths or len(value) in lengths):
            raise InputError(f"{where} must hold samples of one shape, but {place.lstrip('.') or 'the input'} has "
                             f"{' and '.join(shapes[:2])}: {ONE_SHAPE}")


def is_rows(value: Any) -> bool:
    """Whether a value is a tensor or array whose first axis may be the samples."""
    return isinstance(value, Tensor | np.ndarray) and value.ndim > 0


def _kind(value: Any, samples: int, place: str, first: Structure | None) -> Kind:
    if isinstance(value, Tensor | np.ndarray):
        return "tensor" if value.ndim and len(value) == samples else "same" if not value.ndim else "whole"
    if isinstance(value, Mapping) or hasattr(value, "_fields") or (
            dataclasses.is_dataclass(value) and not isinstance(value, type)):
        return "parts"
    if isinstance(value, tuple | list):
        return _kind_of_list(value, samples, place, None if first is None else first.kinds.get(place))
    return "same" if isinstance(value, _PLAIN) else "whole"


def _kind_of_list(value: Sequence[Any], samples: int, place: str, told: Kind | None) -> Kind:
    if not place or told == "parts":
        return "parts"
    if told == "list" or (told is None and len(value) == samples):
        return "list" if len(value) == samples else "whole"
    if all(is_rows(part) and len(part) == samples for part in value):
        return "parts"
    return "same" if all(isinstance(part, _PLAIN) for part in value) else "whole"


def _words(value: Any, kind: Kind) -> str:
    if isinstance(value, Tensor | np.ndarray):
        what = "a tensor" if isinstance(value, Tensor) else "an array"
        return f"{what} of {str(value.dtype).removeprefix('torch.')} with {value.ndim} axes"
    if kind == "parts":
        return f"{type(value).__name__} of {len(parts(value))}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__}{' of one entry a sample' if kind == 'list' else ''}"
    return "a value" if kind == "same" else type(value).__name__


def _stacked(pieces: Sequence[Any], place: str) -> Any:
    if len({piece.shape[1:] for piece in pieces}) > 1:
        sizes = " and ".join(sorted({str(tuple(piece.shape[1:])) for piece in pieces})[:2])
        raise InputError(f"samples of different batches must have one shape to be mixed, but at {place or 'the batch'} "
                         f"they have {sizes}: pad all to the same size")
    return torch.cat([*pieces]) if isinstance(pieces[0], Tensor) else np.concatenate([*pieces])
