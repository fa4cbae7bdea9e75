"""How a metric is measured over a split, batch by batch, with its standard error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from autocompress.core.metric import Metric
from autocompress.errors import InputError
from autocompress.tasks.batch_structure import Reference, Structure, gathered
from autocompress.tasks.metrics.selection import (
    ORIGINAL,
    FileOutputs,
    Predictions,
    Targets,
    as_array,
    predictions_of,
    targets_of,
)

Outputs = Mapping[str, np.ndarray]
# Resampled sets of samples that a standard error is told from, and samples in all of them together: of many samples
# fewer sets are drawn, but not fewer than the least.
MOST_DRAWS, LEAST_DRAWS, DRAWN_SAMPLES = 100, 20, 1_000_000
# Parts of which each is left out once, where a function of a whole split is asked for its standard error.
PARTS = 10


class Measure(Protocol):
    """One metric, and how it is measured: something is kept of each batch, and the value made of all that is kept."""

    @property
    def metric(self) -> Metric:
        """Name, unit and direction."""

    @property
    def needs_original(self) -> bool:
        """Whether the original's outputs are compared with."""

    def of_batch(self, outputs: Outputs, batch: Any, original: Outputs) -> Any:
        """What is kept of one batch.

        Args:
            outputs: what a file puts out, `(N, …)` by name.
            batch: the user's, as it came.
            original: what the original puts out, by name; empty where it is not needed.
        """

    def over_split(self, per_batch: Sequence[Any], batches: Sequence[Any]) -> tuple[float, float]:
        """The value of the metric, and its standard error.

        Args:
            per_batch: what was kept of all batches, in order.
            batches: the batches.
        """


@dataclass(frozen=True)
class OfSamples:
    """A metric that follows from a few numbers of each sample.

    Args:
        metric: name, unit and direction.
        rows: predictions `(N, …)` and targets `(N, …)` → what is kept of each sample, `(N, …)`.
        value: what is kept of any samples → the metric; None: their mean, whose standard error needs no resampling.
        predictions: which output, see `predictions_of`.
        targets: where they stand in a batch, see `targets_of`, or `ORIGINAL`.
        as_arrays: whether predictions and targets are made arrays before they are given to `rows`.
        settle: what is kept of all samples → one number each, where that takes all of them; without `value`.
        needs: what a split must hold for the value to be a number, for messages.
    """

    metric: Metric
    rows: Callable[[Any, Any], np.ndarray]
    value: Callable[[np.ndarray], float] | None = None
    predictions: Predictions = None
    targets: Targets = None
    as_arrays: bool = True
    settle: Callable[[np.ndarray], np.ndarray] | None = None
    needs: str = ""

    @property
    def needs_original(self) -> bool:
        """Whether targets are the original's outputs."""
        return self.targets == ORIGINAL

    def of_batch(self, outputs: Outputs, batch: Any, original: Outputs) -> np.ndarray:
        """The numbers of each sample."""
        predictions = predictions_of(outputs, self.predictions)
        targets = predictions_of(original, self.predictions) if self.needs_original else \
            targets_of(batch, self.targets)
        if self.as_arrays:
            predictions, targets = as_array(predictions, "predictions"), as_array(targets, "targets")
        return self.rows(predictions, targets)

    def over_split(self, per_batch: Sequence[Any], batches: Sequence[Any]) -> tuple[float, float]:
        """The value of all samples; its standard error by the spread of samples, or by bootstrap over samples (Efron,
        1979)."""
        rows = np.concatenate(list(per_batch))
        if self.value is None:
            return mean_with_error(rows if self.settle is None else self.settle(rows))
        return self.value(rows), bootstrap(self.value, rows)


@dataclass(frozen=True)
class OfBatches:
    """A user's function of one batch, whose mean over batches, weighted by their samples, is the metric.

    Args:
        metric: name, unit and direction.
        function: outputs `(N, …)` by name and the batch → a number.
        needs_original: whether the original's outputs are compared with.
        assumed: whether nobody said that more is better.
        is_alone: whether the batch is the only one of its split, so that its samples tell the standard error.
    """

    metric: Metric
    function: Callable[[Outputs, Any], float]
    needs_original: bool = False
    assumed: bool = False
    is_alone: bool = False

    def of_batch(self, outputs: Outputs, batch: Any, original: Outputs) -> np.ndarray:
        """The value, the number of samples, and where the batch `is_alone` the standard error."""
        samples = len(next(iter(outputs.values())))
        value = number(self.function(outputs, batch), self.metric.name)
        return np.array([[value, samples, error_by_samples(self.function, outputs, batch)
                          if self.is_alone and np.isfinite(value) else 0.0]])

    def over_split(self, per_batch: Sequence[Any], batches: Sequence[Any]) -> tuple[float, float]:
        """The weighted mean; its standard error by bootstrap over batches, or that of the only one."""
        rows = np.concatenate(list(per_batch))
        return _weighted_mean(rows), float(rows[0, 2]) if self.is_alone else bootstrap(_weighted_mean, rows)


@dataclass(frozen=True)
class OfSplit:
    """A function of a whole split: of what is kept of all its batches, and the batches.

    Args:
        metric: name, unit and direction.
        function: a list of what was kept, and a list of the batches → a number.
        keep: what is kept of a batch; left out, its outputs.
        needs_original: whether the original's outputs are compared with.
        assumed: whether nobody said that more is better.
    """

    metric: Metric
    function: Callable[[Sequence[Any], Sequence[Any]], float]
    keep: Callable[[Outputs, Any], Any] | None = None
    needs_original: bool = False
    assumed: bool = False

    def of_batch(self, outputs: Outputs, batch: Any, original: Outputs) -> Any:
        """The outputs, or what `keep` makes of them."""
        return outputs if self.keep is None else self.keep(outputs, batch)

    def over_split(self, per_batch: Sequence[Any], batches: Sequence[Any]) -> tuple[float, float]:
        """The value; its standard error by leaving out each of `PARTS` parts of the batches once (the jackknife). A
        bootstrap would give samples twice, which a measure of neighbours takes for a find."""
        name, count = self.metric.name, len(per_batch)

        def of(numbers: Sequence[int]) -> float:
            return number(self.function([per_batch[i] for i in numbers], Picked(batches, numbers)), name)

        if count == 1:
            return of([0]), error_by_samples(lambda one, batch: self.function([one], [batch]), per_batch[0], batches[0])
        parts = min(PARTS, count)
        return of(range(count)), _jackknifed([of([i for i in range(count) if i % parts != part])
                                              for part in range(parts)])


class Picked(Sequence[Any]):
    """Some batches, each read when it is asked for.

    Args:
        batches: all of a split.
        numbers: of those that are picked.
    """

    def __init__(self, batches: Sequence[Any], numbers: Sequence[int]) -> None:
        self._batches, self._numbers = batches, numbers

    def __len__(self) -> int:
        """How many."""
        return len(self._numbers)

    def __getitem__(self, which: Any) -> Any:
        """One batch, or a list of them for a slice."""
        if isinstance(which, slice):
            return [self._batches[number] for number in self._numbers[which]]
        return self._batches[self._numbers[which]]


def number(value: Any, name: str) -> float:
    """What a user's function returned, as a float; NaN is checked for where the value is known whole.

    Args:
        value: that was returned.
        name: of the metric, for a message.

    Raises:
        InputError: where it is no plain number.
    """
    if isinstance(value, np.ndarray | np.generic) and not np.ndim(value):
        value = value.item()
    if not isinstance(value, int | float):
        raise InputError(f"the metric {name} must return a number, but returned {type(value).__name__}: give back "
                         "float(value)")
    return float(value)


def mean_with_error(values: np.ndarray) -> tuple[float, float]:
    """The mean of `values` `(N, …)`, one a sample, and its standard error.

    Of shares, 0 or 1, the error is that of Agresti & Coull (1998), which is not zero where all are right.
    """
    by_sample = np.asarray(values, np.float64).reshape(len(values), -1).mean(1)
    mean, count = float(by_sample.mean()), len(by_sample)
    if np.isin(by_sample, (0, 1)).all():
        share = (by_sample.sum() + 2) / (count + 4)
        return mean, float(np.sqrt(share * (1 - share) / (count + 4)))
    return mean, float(by_sample.std(ddof=min(1, count - 1)) / np.sqrt(count))


def bootstrap(value: Callable[[np.ndarray], float], rows: np.ndarray) -> float:
    """The standard error of `value` of `rows` `(N, …)`: its spread over sets of rows drawn with repetition, the same
    ones whenever there are as many rows. Sets of which it is not finite, such as those without a class, are left out.
    """
    count = len(rows)
    draws = int(np.clip(DRAWN_SAMPLES // max(1, count), LEAST_DRAWS, MOST_DRAWS))
    generator = np.random.default_rng(0)
    values = np.array([value(rows[generator.integers(0, count, count)]) for _ in range(draws)] if count > 1 else [])
    values = values[np.isfinite(values)]
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def error_by_samples(function: Callable[[Any, Any], Any], value: Any, batch: Any) -> float:
    """The standard error of a function of one batch, by leaving out each tenth of its samples once (the jackknife); 0
    where none can be taken out of it, or the function takes no fewer.

    Args:
        function: of what is kept of a batch, and the batch.
        value: what is kept of it, such as outputs by name.
        batch: as it came.
    """
    without = []
    try:
        samples = len(next(iter(value.values())) if isinstance(value, Mapping) else value[0])
        parts = min(PARTS, samples)
        for part in range(parts):
            rows = [row for row in range(samples) if row % parts != part]
            without.append(float(function(samples_of(value, rows, samples), samples_of(batch, rows, samples))))
    except Exception:  # the user's code: anything can come
        return 0.0
    return _jackknifed(without)


def samples_of(value: Any, rows: Sequence[int], samples: int) -> Any:
    """Some samples of a batch, or of the outputs for it.

    Args:
        value: the batch, or the outputs.
        rows: which samples, by their place.
        samples: how many it holds.

    Returns:
        The same of those samples alone.

    Raises:
        InputError: where none can be taken out of it.
    """
    if isinstance(value, FileOutputs):
        return FileOutputs({key: array[rows] for key, array in value.items()})
    return gathered([value], [rows], Structure.of(value, samples), _no_reference)


def _no_reference(reference: Reference, batch: int, whole: bool) -> Any:
    raise AssertionError("a batch that is not stored")


def _jackknifed(without: Sequence[float]) -> float:
    """The standard error of a value that was computed without each of as many parts (Tukey, 1958)."""
    if len(without) < 2:
        return 0.0
    error = float(np.sqrt((len(without) - 1) / len(without) * np.square(np.array(without) - np.mean(without)).sum()))
    return error if np.isfinite(error) else 0.0


def _weighted_mean(rows: np.ndarray) -> float:
    return float((rows[:, 0] * rows[:, 1]).sum() / rows[:, 1].sum())
