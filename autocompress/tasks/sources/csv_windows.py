"""Windows of the records of a table, a time series: what a network reads, and what it foretells or names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Subset

from autocompress.errors import InputError
from autocompress.tasks.sources.base import INPUT, TARGET, Sample, SampleDataset
from autocompress.tasks.sources.specs import SourceSpec
from autocompress.tasks.splits import SPLITS

# Where the records of the validation and of the test split begin where no column says it, as shares of a series.
VALIDATION_FROM, TEST_FROM = 0.8, 0.9


@dataclass(frozen=True)
class Window:
    """How windows are cut: of `length` records, one for each `stride` of them. `horizon` is how many records behind the
    window are foretold; 0: its last record is named."""

    length: int
    horizon: int
    stride: int


@dataclass(frozen=True)
class Run:
    """Records `begin` to `end`, exclusive, that follow one another in one series, of a `split`, or None."""

    begin: int
    end: int
    split: str | None


@dataclass(frozen=True, eq=False)
class WindowRows:
    """Windows `(length, columns)` of rows, and their targets: of the last record, of the one behind, or of the
    `horizon` behind, `(horizon, …)`."""

    values: Tensor
    targets: Tensor | None
    starts: Tensor
    window: Window

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Sample:
        start = int(self.starts[index])
        end, horizon = start + self.window.length, self.window.horizon
        sample = {INPUT: self.values[start:end]}
        if self.targets is None:
            return sample
        return {**sample, TARGET: self.targets[end:end + horizon] if horizon > 1 else
                self.targets[end - 1 if not horizon else end]}


def window_of(spec: SourceSpec, classes: bool) -> Window | None:
    """What the options `window`, `horizon` (0 or more; default: 1 of numbers, 0 of classes) and `stride` say; None
    without `window`. InputError where they are no numbers of records."""
    length = spec.number("window", int, "a number of records")
    if length is None:
        alone = next((name for name in ("horizon", "stride", "series") if name in spec.options), None)
        if alone is not None:
            raise InputError(f"data: {alone} is of windows of a time series: say window, a number of records, too")
        return None
    horizon: float | None = 0 if classes else 1
    if spec.options.get("horizon") == "0":
        horizon = 0
    elif "horizon" in spec.options:
        horizon = spec.number("horizon", int, "a number of records, or 0")
    return Window(int(length), int(horizon or 0), int(spec.number("stride", int, "a number of records") or 1))


def windows(window: Window, runs: Sequence[Run], values: Tensor, targets: Tensor | None,
            name: str) -> tuple[WindowRows, dict[str, SampleDataset]]:
    """All windows, none of two series or splits, and those of each split. Where no column says the splits, the last
    tenth of each series is for the test and the tenth before for the validation, and a window that lies in two is left
    out.

    Args:
        window: how they are cut.
        runs: of the records.
        values: `(records, columns)`.
        targets: `(records, …)`.
        name: of the data, for messages.

    Raises:
        InputError: where a split has no window.
    """
    starts: dict[str, list[int]] = {split: [] for split in SPLITS}
    needed = window.length + window.horizon
    for part in (part for run in runs for part in _parts(run)):
        starts[part.split or "train"] += range(part.begin, part.end - needed + 1, window.stride)
    if any(run.split for run in runs):
        starts = _completed(starts)
    short = next((split for split in SPLITS if not starts[split]), None)
    if short is not None:
        raise InputError(f"{name}: every split must hold windows of {window.length} records and {window.horizon} "
                         f"behind, but {short} holds none: bring more records, or shorter windows")
    every = [start for split in SPLITS for start in starts[split]]
    rows = WindowRows(values, targets, torch.tensor(every), window)
    ends = torch.tensor([len(starts[split]) for split in SPLITS]).cumsum(0).tolist()
    return rows, {split: Subset(rows, range(end - len(starts[split]), end))  # type: ignore[arg-type, misc]
                  for split, end in zip(SPLITS, ends, strict=True)}


def _parts(run: Run) -> Iterator[Run]:
    """The run, or where it is of no split, the parts in time for each."""
    if run.split is not None:
        yield run
        return
    bounds = [run.begin + int(share * (run.end - run.begin)) for share in (0, VALIDATION_FROM, TEST_FROM, 1)]
    for split, begin, end in zip(SPLITS, bounds[:-1], bounds[1:], strict=True):
        yield Run(begin, end, split)


def _completed(starts: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """Where a column names two splits or one, the latest windows of the training split for what is missing."""
    completed = {split: [*numbers] for split, numbers in starts.items()}
    for split in reversed(SPLITS[1:]):
        if not completed[split]:
            held = max(1, len(completed["train"]) // 10)
            completed["train"], completed[split] = completed["train"][:-held], completed["train"][-held:]
    return completed
