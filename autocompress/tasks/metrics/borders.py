"""The border between two classes of which a network puts out one score, as the original's outputs settle it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from autocompress.tasks.classification.measures import border_of, f1_macro, settled
from autocompress.tasks.metrics.measure import Measure, OfSamples
from autocompress.tasks.metrics.segmentation import overlaps
from autocompress.tasks.metrics.selection import as_array, predictions_of

# What takes a border, among the functions that a measure is made of.
_FUNCTIONS: frozenset[Callable[..., Any]] = frozenset((overlaps, settled, f1_macro))


def with_borders(measures: Sequence[Measure], outputs: Iterable[Mapping[str, Tensor]]) -> tuple[Measure, ...]:
    """Measures that read one score of two classes in the same way in every batch and of every file: as a logit, unless
    all scores of the original are probabilities.

    Args:
        measures: of a task.
        outputs: what the original puts out for some training samples, tensors `(N, …)` by name, a few samples at once;
            no more is asked for than is needed.
    """
    undecided = {number for number, measure in enumerate(measures) if _takes_border(measure)}
    borders: dict[int, float | None] = dict.fromkeys(undecided, 0.5)
    for tensors in outputs if undecided else ():
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        for number in [*undecided]:
            border = _border(measures[number], arrays)
            if border != 0.5:
                undecided.discard(number)
                borders[number] = border
        if not undecided:
            break
    return tuple(_with_border(measure, borders.get(number)) for number, measure in enumerate(measures))


def _takes_border(measure: Measure) -> bool:
    return isinstance(measure, OfSamples) and bool({measure.rows, measure.value, measure.settle} & _FUNCTIONS)


def _border(measure: Measure, outputs: Mapping[str, np.ndarray]) -> float | None:
    """The border of some scores; None where they cannot be told, which is said where the metric is computed."""
    assert isinstance(measure, OfSamples)
    try:
        return border_of(as_array(predictions_of(outputs, measure.predictions), "predictions"))
    except Exception:  # the user's code: anything can come
        return None


def _with_border(measure: Measure, border: float | None) -> Measure:
    if border is None or not isinstance(measure, OfSamples):
        return measure

    def bound(function: Any) -> Any:
        return partial(function, border=border) if function in _FUNCTIONS else function

    return replace(measure, rows=bound(measure.rows), value=bound(measure.value), settle=bound(measure.settle))
