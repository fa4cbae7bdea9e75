"""The source `csv:`, a table of separated values: rows of numbers, time series or texts, a sample a record.

Numbers are kept as float32; a text is read from the file, and tokenised, when its sample is asked for.
"""

from __future__ import annotations

import logging
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autocompress.errors import InputError
from autocompress.tasks.labels import class_numbers
from autocompress.tasks.sources.base import (
    INPUT,
    TARGET,
    Sample,
    SampleDataset,
    Source,
    SourceContext,
    in_three_splits,
    spelled_split,
)
from autocompress.tasks.sources.csv_categories import category_rows
from autocompress.tasks.sources.csv_windows import Run, Window, window_of, windows
from autocompress.tasks.sources.records import Records, is_number
from autocompress.tasks.sources.specs import SourceSpec
from autocompress.tasks.sources.text import Tokens, tokens_for
from autocompress.tasks.splits import SPLITS

log = logging.getLogger(__name__)

# Names that a column of targets has where no option says its name.
_TARGETS = ("target", "targets", "label", "labels", "y", "class")


@dataclass(frozen=True, eq=False)
class NumberRows:
    """Rows of numbers `(N, …)` float32, and their targets `(N, …)`."""

    values: Tensor
    targets: Tensor | None

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Sample:
        return _with_target({INPUT: self.values[index]}, self.targets, index)


@dataclass(frozen=True, eq=False)
class TextRows:
    """Texts in a column of a file, as tokens, and their targets `(N, …)`. `places` `(N,)` is where records begin."""

    records: Records
    column: int
    places: Tensor
    tokens: Tokens
    targets: Tensor | None

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Sample:
        return _with_target(self.tokens(self.text(index)), self.targets, index)

    def text(self, index: int) -> str:
        """One text, as it stands in the file."""
        return self.records.at(int(self.places[index]))[self.column]


def _with_target(sample: Sample, targets: Tensor | None, index: int) -> Sample:
    return sample if targets is None else {**sample, TARGET: targets[index]}


@dataclass(frozen=True)
class _Columns:
    """Numbers of the columns that are read: of inputs, or of one text; of categories; of targets; of the split; and of
    what tells one time series from another."""

    inputs: tuple[int, ...]
    text: int | None
    categories: tuple[int, ...]
    targets: tuple[int, ...]
    split: int | None
    series: int | None


@dataclass(frozen=True)
class _Read:
    """What one pass over a file keeps: where records begin, inputs `(N, columns)`, categories and targets by column,
    which records each split has, and runs of records of one series and split."""

    places: Tensor
    values: Tensor
    categories: tuple[list[str], ...]
    targets: tuple[list[str], ...]
    splits: dict[str, list[int]]
    runs: list[Run]


def open_csv(spec: SourceSpec, context: SourceContext) -> Source:
    """The records of a table.

    Options: `target`, a column or several, empty where there are no labels; `inputs`, columns of numbers, by default
    all others that have a name; `text`, the column of a text; `split`, the column that says train, validation or test;
    `shape` of an input such as `1,140`, out of as many columns; `length` of a text in tokens; `window`, `horizon`,
    `stride` and `series` of a time series, see `csv_windows`; `categories`, columns of them, and `names` of the inputs
    of categories and numbers.

    Raises:
        InputError: where the file, a column or a cell is not as it must be.
    """
    (path,) = spec.paths
    records = Records(path)
    window = window_of(spec, context.classes)
    columns = _columns(spec, records, context, window)
    read = _read(records, columns)
    targets, class_names = _targets(read.targets, context.classes, path)
    length = spec.number("length", int, "a number of tokens")
    samples: SampleDataset
    tokens: Tokens | None = None
    inputs: tuple[str, ...] = (INPUT,)
    splits: dict[str, SampleDataset] | None = None
    if window is not None:
        samples, splits = windows(window, read.runs, read.values, targets, path.name)
    elif columns.categories:
        cells = {records.columns[column]: read.categories[i] for i, column in enumerate(columns.categories)}
        samples = category_rows(cells, read.values, targets, spec.listed("names"), context.arguments)
        inputs = tuple(samples.inputs)
    elif columns.text is None:
        samples = NumberRows(_shaped(read.values, spec.options.get("shape"), path), targets)
    else:
        where = f"column {records.columns[columns.text]!r} of {path}"
        texts = (records.at(int(place))[columns.text] for place in read.places)
        tokens = tokens_for(context, texts, None if length is None else int(length), where)
        samples, inputs = TextRows(records, columns.text, read.places, tokens, targets), tokens.names
    strata = targets if context.classes else None
    splits = splits or in_three_splits(samples, read.splits, context.seed, path.name, strata)
    mean, std = context.normalisation
    classes = len(class_names) or (None if strata is None else int(strata.max()) + 1)
    return Source(path.stem, splits, inputs, targets is not None, classes, class_names, mean, std,
                  _described(records, columns), tokens.files if tokens else {}, tokens.shipped if tokens else {})


def _columns(spec: SourceSpec, records: Records, context: SourceContext, window: Window | None) -> _Columns:
    names = spec.listed("target")
    if names is None:
        there = [name for name in records.columns if name.lower() in _TARGETS]
        if len(there) != 1:
            raise InputError(f"{records.path}: say which column is the target, as csv:{records.path}?target=NAME "
                             f"(empty for none), out of {', '.join(records.columns[:12])}"
                             f"{', …' if len(records.columns) > 12 else ''}")
        names = tuple(there)
    targets = tuple(records.number(name, "target") for name in names)
    split = records.number(spec.options["split"], "split") if "split" in spec.options else None
    series = records.number(spec.options["series"], "series") if "series" in spec.options else None
    categories = tuple(records.number(name, "categories") for name in spec.listed("categories") or ())
    foretells = window is not None and window.horizon > 0  # what comes next is foretold of what was before
    apart = (split, series, *categories, *(() if foretells else targets))
    rest = [number for number, name in enumerate(records.columns) if number not in apart and name]
    inputs = spec.listed("inputs")
    text = records.number(spec.options["text"], "text") if "text" in spec.options else None
    if text is not None and inputs is not None:
        raise InputError("data: inputs are a text or numbers, but both options, text and inputs, are given: leave out "
                         "one")
    if text is None and inputs is None and context.tokenizer is not None:
        text = _one_text(records, rest)
    if inputs is None and text is None and "" in records.columns:
        log.warning("%s: column %d has no name, as the row numbers that pandas writes, and is left out of the inputs",
                    records.path, records.columns.index("") + 1)
    numeric = rest if inputs is None else [records.number(name, "inputs") for name in inputs]
    if (categories or window is not None) and (text is not None or (categories and window is not None)):
        raise InputError("data: samples are windows, rows with categories, or texts, but options of more than one of "
                         "them are given: leave out window, categories or text")
    both = next((records.columns[number] for number in (*numeric, *categories, text) if number in targets), None)
    if both is not None and not foretells and (inputs is not None or text in targets):
        raise InputError(f"{records.path}: a column must be an input or a target, but {both!r} is named as both")
    if text is None and not numeric and not categories:
        raise InputError(f"{records.path} must have a column beside its targets for the network to read, but has none")
    return _Columns(() if text is not None else tuple(numeric), text, categories, targets, split, series)


def _one_text(records: Records, columns: Sequence[int]) -> int:
    """The one column of text among `columns`, by the first record."""
    first = next((cells for _, cells in records), [])
    texts = [number for number in columns if first and not is_number(first[number])]
    if len(texts) != 1:
        raise InputError(f"{records.path}: say which column is the text, as csv:{records.path}?text=NAME, out of "
                         f"{', '.join(records.columns[number] for number in columns)}")
    return texts[0]


def _read(records: Records, columns: _Columns) -> _Read:
    places, values = array("q"), array("f")
    texts: tuple[list[str], ...] = tuple([] for _ in (*columns.categories, *columns.targets))
    splits: dict[str, list[int]] = {}
    begins: list[tuple[int, str | None, str]] = []
    for number, (place, cells) in enumerate(records):
        places.append(place)
        for column in columns.inputs:
            values.append(_number(cells[column], records, column, number))
        for cells_of_column, column in zip(texts, (*columns.categories, *columns.targets), strict=True):
            cells_of_column.append(sys.intern(cells[column].strip()))
        split = "train" if columns.split is None else spelled_split(cells[columns.split])
        if split is None:
            raise InputError(f"{_cell(records, columns.split or 0, number)} must say train, validation or test, but is "
                             f"{cells[columns.split or 0]!r}")
        splits.setdefault(split, []).append(number)
        run = (None if columns.split is None else split, "" if columns.series is None else cells[columns.series])
        if not begins or begins[-1][1:] != run:
            begins.append((number, *run))
    if not places:
        raise InputError(f"{records.path} must hold records below the names of its columns, but holds none")
    table = torch.from_numpy(np.array(values, np.float32)).reshape(len(places), len(columns.inputs))
    ends = [begin for begin, *_ in begins[1:]] + [len(places)]
    runs = [Run(begin, end, split) for (begin, split, _), end in zip(begins, ends, strict=True)]
    categories = len(columns.categories)
    return _Read(torch.from_numpy(np.array(places, np.int64)), table, texts[:categories], texts[categories:],
                 {split: splits[split] for split in SPLITS if split in splits}, runs)


def _number(cell: str, records: Records, column: int, number: int) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = float("nan")
    if isfinite(value):
        return value
    name = records.columns[column]
    if cell.strip() and not is_number(cell):
        raise InputError(f"{_cell(records, column, number)} must be a number, but is {cell[:40]!r}: choose columns of "
                         f"numbers with ?inputs=…, without {name!r}, or say ?text={name} where the network reads text")
    raise InputError(f"{_cell(records, column, number)} must be a finite number, but is {cell!r}: fill in what is "
                     "missing")


def _cell(records: Records, column: int, number: int) -> str:
    return f"{records.path}, record {number + 1}, column {records.columns[column]!r}"


def _targets(columns: Sequence[Sequence[str]], classes: bool, path: Path) -> tuple[Tensor | None, tuple[str, ...]]:
    """Targets out of the cells of each column, and the names of classes: class numbers `(N,)` int64, or numbers
    float32, `(N,)` of one column and `(N, columns)` of several."""
    if not columns:
        return None, ()
    if classes:
        if len(columns) > 1:
            raise InputError(f"{path}: a class must be in one column, but {len(columns)} are named as the target")
        empty = next((row for row, cell in enumerate(columns[0]) if not cell), None)
        if empty is not None:
            raise InputError(f"{path}, record {empty + 1}: the target must name a class, but is empty")
        labels = np.array(columns[0], float if all(map(is_number, columns[0])) else str)
        if labels.dtype == float and bool(np.isfinite(labels).all()) and bool((labels == labels.round()).all()):
            labels = labels.astype(np.int64)
        numbers, names = class_numbers({"train": labels}, str(path))
        return numbers["train"], names
    for column in columns:
        wrong = next((row for row, cell in enumerate(column) if not (is_number(cell) and isfinite(float(cell)))), None)
        if wrong is not None:
            raise InputError(f"{path}, record {wrong + 1}: the target must be a finite number, but is "
                             f"{column[wrong]!r}")
    values = torch.tensor([[float(cell) for cell in column] for column in columns]).T.contiguous()
    return values[:, 0] if len(columns) == 1 else values, ()


def _shaped(values: Tensor, shape: str | None, path: Path) -> Tensor:
    """Rows `(N, columns)` in the shape of one sample that is asked for, such as `1,140`."""
    if shape is None:
        return values
    sizes = [int(size) if size.isdecimal() else 0 for size in shape.split(",")]
    if prod(sizes) != values.shape[1]:
        raise InputError(f"{path}: shape must be the sizes of an input of {values.shape[1]} columns, such as "
                         f"1,{values.shape[1]}, but is {shape!r}")
    return values.reshape(-1, *sizes)


def _described(records: Records, columns: _Columns) -> str:
    if columns.text is not None:
        return f"tokens of the texts in column {records.columns[columns.text]!r}"
    names = [records.columns[column] for column in columns.inputs]
    return f"{len(names)} columns, {', '.join(names[:5])}{', …' if len(names) > 5 else ''}, as they are"
