"""The Pareto front: what no other point beats in every objective."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from autocompress.core.budget import Budget
from autocompress.core.evaluation import Candidate, further_latencies
from autocompress.core.model_selection import best_of

Direction = Literal["maximize", "minimize"]
OBJECTIVES: dict[str, Direction] = {
    "accuracy": "maximize", "size_bytes": "minimize", "latency_ms": "minimize",
}
"""Objectives and their directions, in the order in which they are told to the optimiser."""


def objectives(metrics: Iterable[str]) -> dict[str, Direction]:
    """`OBJECTIVES`, and behind them the latency on each further device that is among the metrics."""
    return OBJECTIVES | dict.fromkeys(further_latencies(metrics), "minimize")


def non_dominated(points: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the non-dominated rows, all columns minimised; of equal rows only the first stays.

    A row with a value that is not finite is never on the front, and beats nobody.
    """
    values = np.asarray(points, dtype=float)
    if values.size == 0:
        return []
    finite = np.isfinite(values).all(axis=1)
    kept = []
    for i, row in enumerate(values):
        if not finite[i]:
            continue
        better = finite & (values <= row).all(axis=1) & (values < row).any(axis=1)
        equal_before = (values[:i] == row).all(axis=1)
        if not better.any() and not equal_before.any():
            kept.append(i)
    return kept


def minimised(metrics: dict[str, float]) -> list[float]:
    """The objectives of one candidate with every sign turned to minimisation."""
    return [-metrics[n] if d == "maximize" else metrics[n] for n, d in objectives(metrics).items()]


def front(candidates: Sequence[Candidate], budget: Budget, baseline_accuracy: float) -> list[Candidate]:
    """Complete candidates inside the budget that no other such candidate dominates, and the best of them, by size."""
    inside = _inside(candidates, budget, baseline_accuracy)
    chosen = {inside[i].trial: inside[i] for i in non_dominated([minimised(c.metrics) for c in inside])}
    if inside:
        found = _best(inside)
        chosen[found.trial] = found
    return sorted(chosen.values(), key=lambda c: (c.metrics["size_bytes"], c.trial))


def best(candidates: Sequence[Candidate], budget: Budget, baseline_accuracy: float) -> Candidate | None:
    """The most accurate candidate inside the budget, as far as can be told (`choice.best_of`); ties go to the smaller,
    then the faster. It may be one that another dominates by chance."""
    inside = _inside(candidates, budget, baseline_accuracy)
    return _best(inside) if inside else None


def _inside(candidates: Sequence[Candidate], budget: Budget, baseline_accuracy: float) -> list[Candidate]:
    return [c for c in candidates if c.status == "complete" and budget.allows(c.metrics, baseline_accuracy)
            and np.isfinite(minimised(c.metrics)).all()]


def _best(inside: Sequence[Candidate]) -> Candidate:
    ranked = sorted(inside, key=lambda c: (*minimised(c.metrics), c.trial))
    return ranked[best_of([c.metrics for c in ranked])]
