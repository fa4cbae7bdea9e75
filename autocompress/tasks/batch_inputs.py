"""Which entries of a task's batches a network reads, and whether it can."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from autocompress.errors import InputError
from autocompress.tasks.batch_likelihood import MASKS
from autocompress.tasks.batch_split import BatchSplit, named_rows
from autocompress.tasks.batch_structure import ONE_SHAPE
from autocompress.tasks.batches import UNNAMED, GetInputs
from autocompress.tasks.input_forms import evaluating
from autocompress.tasks.metrics.selection import TARGET_NAMES
from autocompress.tasks.samples import pieces
from autocompress.tasks.shaped_samples import ShapedSamples, shape_groups, shapes_of

log = logging.getLogger(__name__)

# Training samples of one shape, where they have several.
LEAST_OF_ONE_SHAPE = 32


class Entries:
    """Takes entries of batches as inputs, by their names.

    Args:
        names: keys of mappings, or fields of dataclasses; one alone is the one tensor that a network reads.

    Raises:
        InputError: where one is named twice.
    """

    def __init__(self, names: Sequence[str]) -> None:
        twice = next((name for name in names if [*names].count(name) > 1), None)
        if twice is not None:
            raise InputError(f"inputs must name each input once, but name {twice!r} twice")
        self.names = [*names]

    def __call__(self, batch: Any) -> Any:
        """The entries of a batch. InputError where it has not all of them."""
        try:
            parts = {name: batch[name] if isinstance(batch, Mapping) or hasattr(batch, "keys") else getattr(batch, name)
                     for name in self.names}
        except (KeyError, AttributeError, TypeError) as error:
            raise InputError(f"inputs must be entries of each batch, but there is no {error} in one") from error
        return parts


def getter_of(inputs: GetInputs | str | Sequence[str] | None) -> GetInputs | None:
    """What makes inputs of a batch. InputError where it is neither a function nor names."""
    if inputs is None or callable(inputs):
        return inputs
    names = [inputs] if isinstance(inputs, str) else inputs
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"inputs must be a function of a batch, or keys of batches, but is {inputs!r}")
    return Entries(names)


def chosen_inputs(model: nn.Module, columns: Sequence[str], get_inputs: GetInputs | None) -> dict[str, str]:
    """The column of each argument of a network's `forward`; under the empty name that of the one tensor it reads.

    Args:
        model: the network.
        columns: names of the arrays that may be inputs; see `batches.inputs_in`.
        get_inputs: what the user says that they are.

    Raises:
        InputError: where `forward` cannot be called with them.
    """
    parameters = inspect.signature(model.forward).parameters.values()
    named = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    names = [each.name for each in named]
    anything = any(each.kind is each.VAR_KEYWORD for each in parameters)
    required = [each.name for each in named if each.default is each.empty]
    if [*columns] == [UNNAMED]:
        column_of = {UNNAMED: UNNAMED}
    elif get_inputs is not None:
        unknown = [name for name in columns if name not in names and not anything]
        is_the_only_one = isinstance(get_inputs, Entries) and len(columns) == 1 and len(required) < 2 and bool(names)
        if unknown and not is_the_only_one:
            raise InputError(f"inputs must be arguments of the network's forward, {', '.join(names)}, but "
                             f"{', '.join(unknown)} is none")
        column_of = {UNNAMED: columns[0]} if unknown else {name: name for name in columns}
    elif all(name.isdecimal() for name in columns):
        column_of = dict(zip(names, columns, strict=False))
    else:
        optional = [name for name in TARGET_NAMES if name not in required]
        column_of = {name: name for name in names if name in columns and name not in optional}
        if not column_of and len(required) == 1:
            column_of = {UNNAMED: columns[0]}
    missing = [name for name in required if name not in column_of]
    if missing and UNNAMED not in column_of:
        raise InputError(f"the network's forward needs {', '.join(missing)}, but batches have {', '.join(columns)}: "
                         "name them alike, or say inputs=a function of a batch that returns tensors by name")
    if UNNAMED in column_of and len(required) > 1:
        raise InputError(f"the network's forward needs {', '.join(required)}, but batches hold one input: say inputs=a "
                         "function of a batch that returns tensors by these names")
    return {UNNAMED: column_of[names[0]]} if [*column_of] == names[:1] and get_inputs is None else column_of


def trained_on(split: BatchSplit, names: Mapping[str, str], where: str) -> BatchSplit:
    """The training samples whose inputs have one shape, which training and calibration need: those of the shapes that
    most have. The log tells how many are left out.

    Args:
        split: all of them.
        names: the column of each input.
        where: name of the data, for messages.

    Raises:
        InputError: where few samples have one shape.
    """
    alike = split.of_one_shape({*names.values()})
    if alike is split:
        return split
    shapes = ", ".join(f"{name or column or 'the input'} {tuple(alike.column(column).shape[1:])}"
                       for name, column in names.items())
    name, several = next((name or column, shapes_of(split.column(column))) for name, column in names.items()
                         if len(shapes_of(split.column(column))) > 1)
    if alike.samples < LEAST_OF_ONE_SHAPE:
        raise InputError(f"all training samples of the input {name or 'of the network'} must have one shape, or "
                         f"{LEAST_OF_ONE_SHAPE} of them, but samples are {several[0]} and {several[1]}, and "
                         f"{alike.samples} have the most frequent one: {ONE_SHAPE}")
    log.info("%s: %d of %d training samples are trained on, those of one shape, %s: crop or pad the others to it to "
             "use them too", where, alike.samples, split.samples, shapes)
    return alike


def require_alike(split: BatchSplit, train: BatchSplit, names: Mapping[str, str], where: str,
                  model: nn.Module) -> None:
    """InputError where inputs of a split are whole numbers and those of the training split are not, or have shapes that
    the network does not take."""
    for name, column in names.items():
        if column not in split.columns:
            raise InputError(f"the {where} split must have the inputs of the train split, {', '.join(names)}, but has "
                             f"no {name or column}")
        one, other = (each.column(column) for each in (split, train))
        kinds = [samples.dtype.is_floating_point for samples in (one, other)]
        shape = next((each for each in shapes_of(one) if each != tuple(other.shape[1:])), None)
        if kinds[0] != kinds[1] or (shape is not None and not _takes(model, split, names)):
            told = [f"{str(each.dtype).removeprefix('torch.')} {each_shape}"
                    for each, each_shape in ((one, shape or tuple(one.shape[1:])), (other, tuple(other.shape[1:])))]
            raise InputError(f"the input {name or column or 'of the network'} must be the same in all splits, but "
                             f"samples of the {where} split are {told[0]}, and of the train split {told[1]}, and the "
                             f"network takes no other: {ONE_SHAPE}")


def _takes(model: nn.Module, split: BatchSplit, names: Mapping[str, str]) -> bool:
    """Whether the network reads a sample of each shape that a split has."""
    columns = [split.column(column) for column in names.values()]
    groups = shape_groups(columns)
    rows = [0] if groups is None else [int((groups == group).nonzero()[0]) for group in torch.unique(groups)]
    with torch.no_grad(), evaluating(model):
        try:
            for row in rows:
                sample = named_rows(split, names, slice(row, row + 1))
                model(sample) if isinstance(sample, torch.Tensor) else model(**dict(sample.items()))
        except Exception:  # the user's code: anything can come
            return False
    return True


def require_usable(split: BatchSplit, names: Mapping[str, str], where: str) -> None:
    """InputError where inputs are not finite, or a mask leaves nothing of a sample; of inputs that are many gigabytes a
    share is looked at."""
    for name, column in names.items():
        samples = split.column(column)
        is_mask = (name or column) in MASKS and samples.ndim == 2
        if not is_mask and not samples.dtype.is_floating_point:
            continue
        parts = samples.parts if isinstance(samples, ShapedSamples) else [samples]
        for piece in (piece for part in parts for piece in pieces(part)):
            bad = (piece == 0).all(1) if is_mask else ~torch.isfinite(piece).flatten(1).all(1)
            if bool(bad.any()):
                what = "is 0 everywhere" if is_mask else "is NaN or infinite"
                raise InputError(f"the input {name or column or 'of the network'} must be usable for every sample, but "
                                 f"for {int(bad.sum())} of the {where} split it {what}: leave these samples out")
