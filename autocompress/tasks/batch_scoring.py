"""Scoring a file on a split batch by batch: its outputs and the user's batches are what metrics are given."""

from __future__ import annotations

import math
import pickle
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from autocompress.core.metric import Metrics
from autocompress.errors import AutocompressError, InputError
from autocompress.tasks.batch_split import BatchSplit
from autocompress.tasks.metrics.measure import Measure, OfBatches
from autocompress.tasks.metrics.selection import FileOutputs
from autocompress.tasks.row_writer import HELD_BYTES, RowWriter
from autocompress.tasks.samples import Samples
from autocompress.tasks.score import Answers, Outputs, Score

Original = Mapping[str, Samples]


def scored(answers: Answers, batches: BatchSplit, measures: Sequence[Measure], original: Original, name: str) -> Score:
    """The metrics of a file by all measures, with their standard errors; of what is kept, which outputs were the same
    for all samples.

    Args:
        answers: what the file puts out, in order, for all batches or some.
        batches: of the split.
        measures: of the task.
        original: what the original puts out for the split, by name, where a measure needs that.
        name: of the split, for messages.

    Raises:
        InputError: where a metric raises, is no number, or is not finite.
    """
    if len(batches) == 1:
        measures = [replace(each, is_alone=True) if isinstance(each, OfBatches) else each for each in measures]
    per_measure = [Kept() for _ in measures]
    constant: dict[str, np.ndarray] = {}
    varied: set[str] = set()
    numbers: list[int] = []
    for number, outputs in by_batch(answers, batches):
        numbers.append(number)
        rows = slice(batches.starts[number], batches.starts[number + 1])
        for key, values in outputs.items():
            first = constant.setdefault(key, values[:1].copy())
            if key not in varied and (values.shape[1:] != first.shape[1:] or (values != first).any()):
                varied.add(key)
        for measure, of in zip(measures, per_measure, strict=True):
            # Each has arrays of its own: a user's function may write into what it is given.
            copies = FileOutputs({key: values.copy() for key, values in outputs.items()})
            compared = FileOutputs({key: samples[rows].numpy() for key, samples in original.items()}
                                   if measure.needs_original else {})
            of.append(_reported(measure, lambda m=measure, c=copies, o=compared, n=number: m.of_batch(c, batches[n], o),
                                f"for batch {number + 1} of the {name} split"))
    metrics: Metrics = {}
    every = batches if len(numbers) == len(batches) else _Some(batches, numbers)
    for measure, of in zip(measures, per_measure, strict=True):
        value, error = _reported(measure, lambda m=measure, k=of: m.over_split(k, every), f"on the {name} split")
        if not math.isfinite(value):
            needs = getattr(measure, "needs", "") or "that it is defined for these outputs and targets"
            raise InputError(f"the metric {measure.metric.name} must be a finite number, but is {value} on the {name} "
                             f"split: it needs {needs}")
        metrics |= {measure.metric.name: value, measure.metric.error: error}
    return Score(metrics, sorted(set(constant) - varied))


def by_batch(answers: Answers, batches: BatchSplit) -> Iterator[tuple[int, Outputs]]:
    """Numbers and outputs of whole batches, out of ranges of any length in order; no more than a batch and a range are
    held. Batches may be missing, but each that is there is whole."""
    held: list[Outputs] = []
    numbers: list[int] = []  # of the rows that are held
    for rows, outputs in answers:
        held.append(outputs)
        numbers += range(rows.start, rows.stop) if isinstance(rows, slice) else rows.tolist()
        while numbers:
            batch = bisect_right(batches.starts, numbers[0]) - 1
            size = batches.starts[batch + 1] - batches.starts[batch]
            if len(numbers) < size:
                break
            joined = held[0] if len(held) == 1 else \
                {key: np.concatenate([each[key] for each in held]) for key in held[0]}
            yield batch, {key: values[:size] for key, values in joined.items()}
            numbers = numbers[size:]
            held = [{key: values[size:] for key, values in joined.items()}] if numbers else []


class _Some(Sequence[Any]):
    """Some of the batches of a split, each read when it is asked for."""

    def __init__(self, batches: BatchSplit, numbers: Sequence[int]) -> None:
        self._batches, self._numbers = batches, numbers

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._numbers)

    def __getitem__(self, number: Any) -> Any:
        """One batch, or a list of several."""
        if isinstance(number, slice):
            return [self._batches[each] for each in self._numbers[number]]
        return self._batches[self._numbers[number]]


class Kept(Sequence[Any]):
    """What a measure keeps of each batch: in memory while it is small, else in a file, from which it is read when it is
    asked for."""

    def __init__(self) -> None:
        self._held: list[Any] = []
        self._bytes, self._ends = 0, [0]
        self._writer: RowWriter | None = None
        self._stored: Samples | None = None

    def append(self, value: Any) -> None:
        """Keep what belongs to the next batch."""
        self._bytes += _bytes_of(value)
        if self._writer is None and self._bytes > HELD_BYTES:
            self._writer = RowWriter()
            held, self._held = self._held, []
            for each in held:
                self._write(each)
        if self._writer is None:
            self._held.append(value)
        else:
            self._write(value)

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._held) if self._writer is None else len(self._ends) - 1

    def __getitem__(self, number: Any) -> Any:
        """What was kept of a batch."""
        if self._writer is None:
            return self._held[number]
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        number = range(len(self))[number]
        if self._stored is None:
            self._stored = self._writer.finish()
        return pickle.loads(self._stored[self._ends[number]:self._ends[number + 1]].numpy().tobytes())

    def _write(self, value: Any) -> None:
        assert self._writer is not None
        data = pickle.dumps(value, protocol=5)
        self._writer.append(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        self._ends.append(self._ends[-1] + len(data))


def _bytes_of(value: Any) -> int:
    """About the bytes of arrays in what is kept."""
    if isinstance(value, np.ndarray | torch.Tensor):
        return int(value.nbytes)
    if isinstance(value, Mapping):
        return sum(_bytes_of(value[key]) for key in value)
    return sum(map(_bytes_of, value)) if isinstance(value, tuple | list) else 0


def _reported(measure: Measure, call: Any, where: str) -> Any:
    """What a metric returns; what it raises as an InputError that names it."""
    try:
        return call()
    except InputError as error:
        raise InputError(f"metric {measure.metric.name} {where}: {error}") from error
    except AutocompressError:
        raise
    except Exception as error:  # the user's code: anything can come
        first = next(iter(str(error).splitlines()), "no message")
        hint = ". Outputs are numpy arrays by name; torch.from_numpy makes tensors of them" \
            if isinstance(error, TypeError | AttributeError) else ""
        raise InputError(f"metric {measure.metric.name} {where} must return a number, but raised "
                         f"{type(error).__name__}: {first}{hint}") from error
