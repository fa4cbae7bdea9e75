"""The Pareto front: the points that no other point dominates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from autocompress.core.budget import Budget
from autocompress.core.evaluation import LATENCY, Candidate, further_latencies
from autocompress.core.metric import Metric, Reference
from autocompress.core.model_selection import best_of

Direction = Literal["maximize", "minimize"]


def objectives(metric: Metric, metrics: Iterable[str] = ()) -> dict[str, Direction]:
    """Return the objectives and their directions, in the order in which the optimiser takes them.

    They are the task's `metric`, size, latency, and the latency on each further device among the names `metrics`.
    """
    return {metric.name: "maximize" if metric.higher_is_better else "minimize",
            **dict.fromkeys(("size_bytes", LATENCY, *further_latencies(metrics)), "minimize")}


def non_dominated(points: Sequence[Sequence[float]]) -> list[int]:
    """The indices of the non-dominated rows; of equal rows only the first stays.

    A row with a value that is not finite is never on the front and dominates no other row.

    Args:
        points: objectives `(n, objectives)`, all minimised.
    """
    values = np.asarray(points, dtype=float)
    if values.size == 0:
        return []
    front, members = values[:0], []
    # In this order a row comes behind all that dominate it, and behind equal ones that were first.
    for i in np.lexsort(values.T[::-1]):
        row = values[i]
        if np.isfinite(row).all() and not (front <= row).all(axis=1).any():
            front = np.vstack([front, row])
            members.append(int(i))
    return sorted(members)


def minimised(metrics: dict[str, float], metric: Metric) -> list[float]:
    """The objectives of one candidate, negated where they are maximised.

    Args:
        metrics: of the candidate, by name.
        metric: the task's.
    """
    sign = -1.0 if metric.higher_is_better else 1.0
    return [sign * metrics[metric.name], metrics["size_bytes"], metrics[LATENCY],
            *(metrics[name] for name in further_latencies(metrics))]


def front(candidates: Sequence[Candidate], budget: Budget, reference: Reference) -> list[Candidate]:
    """The Pareto front: the feasible candidates that no other one dominates, and the best of them, sorted by size.

    Args:
        candidates: all of a study.
        budget: the bounds.
        reference: the task's metric with the original's value.
    """
    inside = _inside(candidates, budget, reference)
    points = [minimised(c.metrics, reference.metric) for c in inside]
    members = {inside[i].trial: inside[i] for i in non_dominated(points)}
    if inside:
        winner = _best(inside, reference.metric)
        members[winner.trial] = winner
    return sorted(members.values(), key=lambda c: (c.metrics["size_bytes"], c.trial))


def best(candidates: Sequence[Candidate], budget: Budget, reference: Reference) -> Candidate | None:
    """The best feasible candidate by `model_selection.best_of`; None where none is feasible.

    Ties go to the smaller, then the faster. Another candidate may dominate it by chance.

    Args:
        candidates: all of a study.
        budget: the bounds.
        reference: the task's metric with the original's value.
    """
    inside = _inside(candidates, budget, reference)
    return _best(inside, reference.metric) if inside else None


def _inside(candidates: Sequence[Candidate], budget: Budget, reference: Reference) -> list[Candidate]:
    return [c for c in candidates if c.status == "complete" and budget.allows(c.metrics, reference)
            and all(map(math.isfinite, minimised(c.metrics, reference.metric)))]


def _best(inside: Sequence[Candidate], metric: Metric) -> Candidate:
    ranked = sorted(inside, key=lambda c: (*minimised(c.metrics, metric), c.trial))
    return ranked[best_of([c.metrics for c in ranked], metric)]
