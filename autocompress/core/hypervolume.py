"""Hypervolume contribution: the volume of objectives that a candidate adds to what a front dominates.

It is estimated by random points: exact volumes of many candidates would take seconds, and only their ranks are needed.

Source: Zitzler & Thiele, "Multiobjective Evolutionary Algorithms: A Comparative Case Study and the Strength Pareto
Approach" (IEEE TEC 3(4), 1999).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autocompress.core.evaluation import Candidate
from autocompress.core.front import objectives
from autocompress.core.metric import Metric

# The number of random points by which volumes are compared.
POINTS = 4096
# The share of an objective's range by which the box exceeds its worst value, so that the worst also contributes.
REFERENCE_MARGIN = 0.2


def hypervolume_contribution(
    front: np.ndarray, candidates: np.ndarray, rng: np.random.Generator, most_lost: float = np.inf
) -> np.ndarray:
    """Return the hypervolume contribution of each candidate to a front, as a share of the box, by Monte Carlo.

    The box reaches from the best value of each objective to a little beyond the worst.

    Args:
        front: Objectives of the front's members `(m, objectives)`, all minimised, the error first.
        candidates: Objectives of the candidates `(n, objectives)`.
        rng: The source of the random points.
        most_lost: The error above the least beyond which nothing counts.

    Returns:
        Shares `(n,)`.
    """
    both = np.concatenate([front, candidates])
    low, high = both.min(0), both.max(0)
    high = high + REFERENCE_MARGIN * (high - low)
    high[0] = min(high[0], low[0] + most_lost)
    points = low + (high - low) * rng.random((POINTS, both.shape[1]))
    corners = np.empty_like(front[:0])
    for point in front[np.argsort(front.sum(1))]:  # what another dominates comes behind it, and takes nothing more
        if not (corners <= point).all(1).any():
            corners = np.vstack([corners, point])
            points = points[(points < point).any(1)]
    won: np.ndarray = (points >= candidates[:, None]).all(2).sum(1)
    return won / POINTS


def volume_gains(front: Sequence[Candidate], proposals: Sequence[Candidate], metric: Metric,
                 most_lost: float = np.inf) -> np.ndarray:
    """The hypervolume contributions of candidates to a front, in the task's metric and the logarithms of the other
    objectives.

    Args:
        front: the front's members.
        proposals: the candidates.
        metric: the task's.
        most_lost: loss of the metric against the best beyond which nothing counts.
    """
    def rows(candidates: Sequence[Candidate]) -> np.ndarray:
        return np.array([[1 + metric.cost(c.metrics), *np.log([c.metrics[name] for name in others])]
                         for c in candidates if c.metrics]).reshape(-1, 1 + len(others))

    names = objectives(metric, next(c.metrics for c in proposals if c.metrics))
    others = [name for name in names if name != metric.name]
    return hypervolume_contribution(rows(front), rows(proposals), np.random.default_rng(0), most_lost)
