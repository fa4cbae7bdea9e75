"""Successive halving of the candidates: every trial is calibrated, and those that earn it are distilled.

Sources: Jamieson & Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization" (AISTATS 2016);
Li et al., "A System for Massively Parallel Hyperparameter Tuning" (MLSys 2020), for not waiting until a rung is done.

Rankings flip after training, so promotion keeps variety: a share of the places goes to the uniform baselines
(the recipe that a careful engineer would try), the rest to the best in the task's metric and to smaller front members.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from autocompress.core.budget import Budget
from autocompress.core.evaluation import SHORT, Candidate
from autocompress.core.hypervolume import volume_gains
from autocompress.core.metric import Reference
from autocompress.search.samplers.thompson_sampler import SolverSampler

SOLVER = SolverSampler.__name__
# Share of the promotions that uniform baselines get, if there are that many: blind draws rarely train better.
UNIFORM_SHARE = 0.8
# The same where a solver proposed the others.
SOLVED_SHARE = 0.2
# Units of quality (`Reference.scale`) against the best: what has lost more is not trained for what it adds to the
# front.
MOST_LOST = 0.2
# Units of quality: values nearer than this are told apart by chance on a few thousand samples.
EQUAL = 0.005


def promotable(candidates: Sequence[Candidate], budget: Budget) -> list[Candidate]:
    """Candidates whose resources are inside a `budget`, whatever they lost in the task's metric: training makes up for
    that. The `candidates` are all of a study."""
    resources = budget.resources
    return [c for c in candidates if c.status in ("complete", "infeasible") and c.metrics
            and c.duplicate_of is None and resources.allows(c.metrics)]


def promote(candidates: Sequence[Candidate], budget: Budget, reference: Reference, rung: int, count: int,
            started: Collection[int] = (), timed: bool = False) -> list[Candidate]:
    """The candidates that are evaluated at a rung next, the first one first.

    A share of the short rung's places is the baselines', half of the others go to the best in the task's metric; the
    rest is for those that add most to the front of the promoted ones, so that it holds small and fast ones too. To the
    long rung go the best.

    Args:
        candidates: all of the study.
        budget: the bounds.
        reference: the task's metric with the original's value.
        rung: to which they go.
        count: places of the rung, with those that are taken.
        started: trials that go to the rung already.
        timed: whether a clock ends the long rung: of candidates that are as good as equal, the one with the fewest
            multiply-accumulates then goes first, for it will be trained for the most steps.
    """
    ahead = [c for c in candidates if (c.reached or 0) >= rung or c.trial in started]
    pool = [c for c in promotable(candidates, budget) if c.reached == rung - 1 and c.trial not in started]
    places = count - len(ahead)
    if places <= 0 or not pool:
        return []
    metric = reference.metric
    ranked = sorted(pool, key=lambda c: (metric.cost(c.metrics), c.metrics["size_bytes"], c.trial))
    if rung != SHORT:
        least = metric.quality(ranked[0].metrics) - EQUAL * reference.scale
        equal = [c for c in ranked if timed and metric.quality(c.metrics) >= least]
        return [*sorted(equal, key=lambda c: c.metrics["macs"]), *(c for c in ranked if c not in equal)][:places]
    solved = any(c.origin == SOLVER for c in promotable(candidates, budget))
    quota = round(count * (SOLVED_SHARE if solved else UNIFORM_SHARE))
    baselines = sum(c.origin == "uniform" for c in ahead)
    promoted = [c for c in ranked if c.origin == "uniform"][:max(0, quota - baselines)]
    highest = max(1, (count - quota) // 2) - (len(ahead) - baselines)
    promoted += [c for c in ranked if c not in promoted][:max(0, highest)]
    while len(promoted) < min(places, len(pool)):
        left = [c for c in ranked if c not in promoted]
        gains = volume_gains([*ahead, *promoted], left, metric, MOST_LOST * reference.scale)
        promoted.append(left[int(gains.argmax())])  # where nothing gains, the best in the task's metric
    return promoted[:places]
