"""The ladder: calibration only for every trial, then distillation for those that earn it.

Rankings flip after training, so promotion keeps variety: a share of the places goes to the uniform baselines
(the recipe that a careful engineer would try), the rest to the most accurate and to smaller front members.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from autocompress.core.budget import Budget
from autocompress.core.evaluation import Candidate
from autocompress.core.front import minimised, non_dominated
from autocompress.search.solving import SolverSampler

CALIBRATED, SHORT, LONG, AVERAGED = 0, 1, 2, 3
RUNG_NAMES = {CALIBRATED: "calibrated", SHORT: "distilled briefly", LONG: "distilled",
              AVERAGED: "averaged"}

SOLVER = SolverSampler.__name__
UNIFORM_SHARE = 0.8
"""Share of the promotions that uniform baselines get, if there are that many: blind draws rarely train better."""
SOLVED_SHARE = 0.2
"""The same where a solver proposed the others."""


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """How much of each rung: candidates promoted, and when a time limit is set, the shares of the time after set-up
    at which calibration and short distillation end."""

    short: int = 5
    long: int = 1
    calibration_share: float = 0.1
    short_share: float = 0.3


def promotable(candidates: Sequence[Candidate], budget: Budget) -> list[Candidate]:
    """Complete or accuracy-starved candidates whose resources are inside the budget: training mends accuracy."""
    resources = msgspec.structs.replace(budget, max_drop=None)
    return [c for c in candidates if c.status in ("complete", "infeasible") and c.metrics
            and c.duplicate_of is None and resources.allows(c.metrics)]


def promote(candidates: Sequence[Candidate], budget: Budget, rung: int, count: int) -> list[Candidate]:
    """Who goes on to `rung`: those already there count; the best next first."""
    pool = [c for c in promotable(candidates, budget) if c.rung == rung - 1]
    places = count - sum(1 for c in candidates if c.rung is not None and c.rung >= rung)
    if places <= 0 or not pool:
        return []
    ranked = sorted(pool, key=lambda c: (-c.metrics["accuracy"], c.metrics["size_bytes"], c.trial))
    uniform = [c for c in ranked if c.origin == "uniform"]
    chosen: list[Candidate] = []
    if rung == SHORT:
        solved = any(c.origin == SOLVER for c in pool)
        chosen += uniform[:round(count * (SOLVED_SHARE if solved else UNIFORM_SHARE))]
        chosen += [c for c in ranked if c not in chosen][:max(1, (count - len(chosen)) // 2)]
        on_front = [pool[i] for i in non_dominated([minimised(c.metrics) for c in pool])]
        chosen += [c for c in ranked if c in on_front and c not in chosen]
    chosen += [c for c in ranked if c not in chosen]
    return chosen[:places]
