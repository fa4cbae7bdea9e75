"""Greedy model soup, the last step of a search: the best candidate averaged with trained relatives.

Source: Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy without
increasing inference time", ICML 2022.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from autocompress.backend.network.checkpoint import put_weights
from autocompress.backend.training.averaging import soup
from autocompress.core.budget import Budget
from autocompress.core.evaluation import AVERAGED, Candidate, Evaluation
from autocompress.core.metric import Metric, Reference
from autocompress.core.model_selection import best_of
from autocompress.core.plan import Plan, Scalar
from autocompress.errors import OutOfTime, TrialError
from autocompress.study.warm_start import rescaled
from autocompress.study.workbench import Workbench
from autocompress.techniques.apply import before_training

# The number of relatives that are tried, the best in the task's metric first.
RELATIVES = 5


class Soup(NamedTuple):
    """The evaluation of an average, if there is one, and whether there was no time for some relatives."""

    evaluation: Evaluation | None = None
    is_cut_short: bool = False


def greedy_soup(bench: Workbench, candidates: Sequence[Candidate], best: Candidate, budget: Budget,
                reference: Reference, seconds: float, should_stop: Callable[[], bool]) -> Soup:
    """Return the evaluation of a greedy soup that starts from `best`, its weights kept as rung `AVERAGED` of that plan.

    Relatives are other trainings of the same plan, and of plans that differ from it in widths alone. Each becomes a
    member only when the file of the average is inside the budget and, on the validation split, the better one
    (`model_selection.best_of`).

    Args:
        bench: rebuilds trained networks and measures averages.
        candidates: all candidates of the study.
        best: the candidate that the soup starts from.
        budget: the bounds that the average's file must keep.
        reference: the original's metric, which the budget's largest drop counts from.
        seconds: the time that is left; nothing is begun that would take longer.
        should_stop: asked before each relative.

    Returns:
        The evaluation, None when `best` was not trained, was averaged before, has no relatives, or none of them helps;
        and whether relatives were left out.
    """
    start = best.best
    if best.plan is None or start is None or start.rung == 0 or \
            any(e.rung == AVERAGED for e in best.evaluations):
        return Soup()
    relatives = _relatives(bench, candidates, best, reference.metric)
    if not relatives:
        return Soup()
    try:
        members = [bench.trainer.rebuild(best.plan, start.rung, start.weights)]
    except OutOfTime:
        return Soup(is_cut_short=True)
    averaged: Evaluation | None = None
    end, each = time.perf_counter() + seconds, sum(v for phase, v in start.timings.items() if phase != "distill")
    for plan, evaluation in relatives:
        if should_stop() or time.perf_counter() + each > end:
            return Soup(averaged, is_cut_short=True)
        try:
            relative = bench.trainer.rebuild(plan, evaluation.rung, evaluation.weights)
            average = soup([*members, relative], bench.network.calibration)
            measured = bench.evaluator.measured(average, AVERAGED, {})
        except OutOfTime:
            return Soup(averaged, is_cut_short=True)
        except TrialError:
            continue  # as an average it is no network; the members stay what they are
        if best_of([(averaged or start).metrics, measured.metrics], reference.metric) \
                and budget.allows(measured.metrics, reference):
            weights = put_weights(bench.store, AVERAGED, average)
            members, averaged = [*members, relative], msgspec.structs.replace(measured, weights=weights)
    return Soup(averaged)


def _relatives(bench: Workbench, candidates: Sequence[Candidate], best: Candidate,
               metric: Metric) -> list[tuple[Plan, Evaluation]]:
    """Return the trained evaluations whose weights can be averaged with those of `best`, the best in `metric` first."""
    assert best.plan is not None and best.best is not None
    trained = {(c.plan.fingerprint, e.rung): (metric.cost(e.metrics), c.plan, e)
               for c in candidates if c.plan is not None and _structure(c.plan) == _structure(best.plan)
               for e in c.evaluations if 0 < e.rung < AVERAGED and bench.trainer.is_trained(c.plan, e.rung)}
    trained.pop((best.plan.fingerprint, best.best.rung), None)
    ranked = sorted(trained.values(), key=lambda one: (one[0], one[1].fingerprint, one[2].rung))
    return [(plan, evaluation) for _, plan, evaluation in ranked[:RELATIVES]]


def _structure(plan: Plan) -> tuple[Plan, dict[str, Scalar]]:
    """Return what plans whose weights are averaged must share: other than that they may differ in widths."""
    return before_training(plan), rescaled(plan)
