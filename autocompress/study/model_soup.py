"""The last step of a search: the best candidate averaged with trained relatives, where validation gains by it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec

from autocompress.backend.network.checkpoint import put_weights
from autocompress.backend.training.averaging import soup
from autocompress.core.budget import Budget
from autocompress.core.evaluation import AVERAGED, Candidate, Evaluation
from autocompress.core.metric import Metric, Reference
from autocompress.core.model_selection import best_of
from autocompress.core.plan import Plan, Scalar
from autocompress.errors import TrialError
from autocompress.study.warm_start import rescaled
from autocompress.study.workbench import Workbench
from autocompress.techniques.apply import before_training

RELATIVES = 5
"""How many relatives are tried, the best in the task's metric first."""


def blend(bench: Workbench, everyone: Sequence[Candidate], chosen: Candidate, budget: Budget,
          reference: Reference, seconds: float, should_stop: Callable[[], bool]) -> Evaluation | None:
    """A greedy soup (Wortsman et al., 2022) that starts from `chosen`; its weights are kept as those of rung
    `AVERAGED` of that plan.

    Relatives are other trainings of the same plan, and of plans that differ from it in widths alone. Each is taken in
    only when the file of the average is inside the budget and, on the validation split, the better one
    (`model_selection.best_of`). None when `chosen` was not trained, was averaged before, has no relatives, or none of
    them helps. Nothing is begun that would take longer than the `seconds` there are.
    """
    start = chosen.best
    if chosen.plan is None or start is None or start.rung == 0 or \
            any(e.rung == AVERAGED for e in chosen.evaluations):
        return None
    others = _relatives(bench, everyone, chosen, reference.metric)
    if not others:
        return None
    pot = [bench.trainer.rebuild(chosen.plan, start.rung, start.weights)]
    kept: Evaluation | None = None
    end, each = time.perf_counter() + seconds, sum(v for phase, v in start.timings.items() if phase != "distill")
    for plan, evaluation in others:
        if should_stop() or time.perf_counter() + each > end:
            break
        try:
            other = bench.trainer.rebuild(plan, evaluation.rung, evaluation.weights)
            made = soup([*pot, other], bench.network.calibration)
            measured = bench.evaluator.measured(made, AVERAGED, {})
        except TrialError:
            continue  # as an average it is no network; the members stay what they are
        if best_of([(kept or start).metrics, measured.metrics], reference.metric) \
                and budget.allows(measured.metrics, reference):
            weights = put_weights(bench.store, AVERAGED, made)
            pot, kept = [*pot, other], msgspec.structs.replace(measured, weights=weights)
    return kept


def _relatives(bench: Workbench, everyone: Sequence[Candidate], chosen: Candidate,
               metric: Metric) -> list[tuple[Plan, Evaluation]]:
    assert chosen.plan is not None and chosen.best is not None
    found = {(c.plan.fingerprint, e.rung): (metric.cost(e.metrics), c.plan, e)
             for c in everyone if c.plan is not None and _structure(c.plan) == _structure(chosen.plan)
             for e in c.evaluations if 0 < e.rung < AVERAGED and bench.trainer.is_trained(c.plan, e.rung)}
    found.pop((chosen.plan.fingerprint, chosen.best.rung), None)
    ranked = sorted(found.values(), key=lambda one: (one[0], one[1].fingerprint, one[2].rung))
    return [(plan, evaluation) for _, plan, evaluation in ranked[:RELATIVES]]


def _structure(plan: Plan) -> tuple[Plan, dict[str, Scalar]]:
    """What must be the same in plans whose weights are averaged: other than that they may differ in widths."""
    return before_training(plan), rescaled(plan)
