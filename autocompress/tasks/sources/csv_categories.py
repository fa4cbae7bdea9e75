"""Columns of categories of a table: whole numbers that a network looks up in its embeddings, beside its numbers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autocompress.errors import InputError
from autocompress.tasks.sources.base import INPUT, TARGET, Sample

log = logging.getLogger(__name__)

# Names of the inputs where no option and no argument of `forward` says them: of categories and of numbers.
NAMES = ("categories", "numbers")
# Categories that are told by name, and no more.
TOLD = 8


@dataclass(frozen=True, eq=False)
class CategoryRows:
    """Rows of categories `(N, columns)` int64 and of numbers `(N, columns)` float32, by the names of the inputs, and
    their targets `(N, …)`."""

    inputs: Mapping[str, Tensor]
    targets: Tensor | None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def __getitem__(self, index: int) -> Sample:
        sample = {name: rows[index] for name, rows in self.inputs.items()}
        return sample if self.targets is None else {**sample, TARGET: self.targets[index]}


def category_rows(cells: Mapping[str, Sequence[str]], values: Tensor, targets: Tensor | None,
                  names: Sequence[str] | None, arguments: Mapping[str, bool]) -> CategoryRows:
    """Rows of a table with categories.

    Args:
        cells: of each column of categories, by its name.
        values: numbers `(N, columns)` of the other columns.
        targets: `(N, …)`.
        names: of the inputs, of categories and of numbers, as the user says.
        arguments: of the network's `forward`.

    Raises:
        InputError: where nothing says which argument takes categories, or a cell is empty.
    """
    categories = torch.stack([codes(column, name) for name, column in cells.items()], 1)
    if not values.shape[1]:
        return CategoryRows({(names or (INPUT,))[0]: categories}, targets)
    input_names = NAMES if names is None else tuple(names)
    if len(input_names) != 2 or (arguments and not {*input_names} <= {*arguments}):
        raise InputError("data: names must be the arguments of the network's forward that take categories and numbers, "
                         f"in this order, as names=ARGUMENT,ARGUMENT, out of {', '.join(arguments)}, but "
                         f"{'is' if names else 'left out it is'} {','.join(input_names)}")
    return CategoryRows(dict(zip(input_names, (categories, values), strict=True)), targets)


def codes(cells: Sequence[str], column: str) -> Tensor:
    """Categories `(N,)` int64: whole numbers as they are, names numbered in alphabetical order, which the log tells.
    InputError for an empty cell."""
    empty = next((row for row, cell in enumerate(cells) if not cell), None)
    if empty is not None:
        raise InputError(f"record {empty + 1}, column {column!r}: must name a category, but is empty: name what is "
                         "missing")
    if all(cell.isdecimal() for cell in cells):
        return torch.tensor([int(cell) for cell in cells])
    names, numbers = np.unique(np.array(cells), return_inverse=True)
    told = ", ".join(f"{name} = {number}" for number, name in enumerate(names[:TOLD]))
    log.info("column %s: categories are names, numbered in alphabetical order: %s%s", column, told,
             ", …" if len(names) > TOLD else "")
    return torch.from_numpy(numbers.astype(np.int64))
