"""The metric where no labels are given: how near a file comes to the original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autocompress.core.metric import Metric
from autocompress.errors import InputError
from autocompress.tasks.classification.measures import same_class
from autocompress.tasks.metrics.measure import Measure, Outputs, mean_with_error

# In units of the variance of the original's outputs, so that 1 is what always putting out their mean costs.
DISTANCE = Metric("distance", unit="%", higher_is_better=False, title="Distance to the original")
AGREEMENT = Metric("agreement", unit="%", title="Agreement with the original")
NOTES = {DISTANCE.name: "no metric is given: the metric is the distance to the original, its squared error over the "
                        "variance of the original's outputs",
         AGREEMENT.name: "no metric is given: the metric is the agreement with the original, the share of its classes"}


@dataclass(frozen=True)
class Distance:
    """Mean squared error over the variance of the original's outputs, over all outputs alike.

    Args:
        variances: of the original's outputs, by name, of the shape of one sample or one that spreads to it.
    """

    variances: Mapping[str, np.ndarray]
    metric: Metric = DISTANCE
    needs_original: bool = True

    def of_batch(self, outputs: Outputs, batch: Any, original: Outputs) -> np.ndarray:
        """The distance of each sample `(N,)`; where the original is NaN, nothing is compared."""
        return _mean([_of_samples(outputs[name], original[name], variance)
                      for name, variance in self.variances.items()])

    def over_split(self, per_batch: Sequence[Any], batches: Sequence[Any]) -> tuple[float, float]:
        """The mean over samples, and its standard error."""
        return mean_with_error(np.concatenate(list(per_batch)))


@dataclass(frozen=True)
class Agreement:
    """The share of classes that are the original's, over all outputs that are scores.

    Args:
        axes: the axis of classes of each output, by name.
    """

    axes: Mapping[str, int]
    metric: Metric = AGREEMENT
    needs_original: bool = True

    def of_batch(self, outputs: Outputs, batch: Any, original: Outputs) -> np.ndarray:
        """The share of each sample `(N,)`."""
        return _mean([same_class(np.moveaxis(outputs[name], axis, 1), np.moveaxis(original[name], axis, 1))
                      for name, axis in self.axes.items()])

    def over_split(self, per_batch: Sequence[Any], batches: Sequence[Any]) -> tuple[float, float]:
        """The mean over samples, and its standard error."""
        return mean_with_error(np.concatenate(list(per_batch)))


def label_free_metric(meanings: Mapping[str, str]) -> Metric:
    """The metric where none is given: agreement where outputs are said to be classes, and none to be numbers."""
    return AGREEMENT if meanings and "numbers" not in meanings.values() else DISTANCE


def label_free(meanings: Mapping[str, str], variances: Mapping[str, np.ndarray]) -> Measure:
    """How that metric is measured.

    Args:
        meanings: what outputs are said to be, by name.
        variances: of the original's floating-point outputs, by name, see `Distance`.

    Raises:
        InputError: where there is nothing to compare.
    """
    missing = [name for name in meanings if name not in variances]
    if missing or not variances:
        raise InputError(f"outputs must name what the network puts out as floating-point numbers, "
                         f"{', '.join(variances) or 'none'}, but name {', '.join(missing) or 'none'}")
    if label_free_metric(meanings) == AGREEMENT:
        return Agreement({name: -1 if meaning == "classes last" else 1 for name, meaning in meanings.items()})
    return Distance(variances)


def _mean(values: Sequence[np.ndarray]) -> np.ndarray:
    mean: np.ndarray = np.stack([*values]).mean(0)
    return mean


def _of_samples(output: np.ndarray, original: np.ndarray, variance: np.ndarray) -> np.ndarray:
    errors = np.square(output.astype(np.float64) - original) / variance
    there = ~np.isnan(errors)
    sums, counts = (each.reshape(len(each), -1).sum(1) for each in (np.where(there, errors, 0), there))
    mean: np.ndarray = sums / np.maximum(1, counts)
    return mean
