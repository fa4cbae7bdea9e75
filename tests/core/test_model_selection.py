"""Which model is the best, as far as validation samples can say."""

from __future__ import annotations

import msgspec

from autocompress.core.budget import Budget
from autocompress.core.evaluation import Candidate, Evaluation
from autocompress.core.front import best, front
from autocompress.core.metric import Reference
from autocompress.core.model_selection import best_of
from autocompress.search.trial_status import judge
from autocompress.tasks.classification.metric import ACCURACY

REFERENCE = Reference(ACCURACY, 0.9)


def _metrics(accuracy: float, cross_entropy: float | None = None, error: float = 0.01) -> dict[str, float]:
    return {"accuracy": accuracy, "accuracy_error": error} | (
        {} if cross_entropy is None else {"cross_entropy": cross_entropy})


def test_cross_entropy_decides_between_accuracies_within_their_error_and_no_others() -> None:
    assert best_of([_metrics(0.90, 0.30), _metrics(0.895, 0.25)], ACCURACY) == 1
    assert best_of([_metrics(0.90, 0.30), _metrics(0.889, 0.25)], ACCURACY) == 0
    assert best_of([_metrics(0.90, 0.30), _metrics(0.889, 0.1), _metrics(0.891, 0.29), _metrics(0.90, 0.31)],
                   ACCURACY) == 2


def test_of_equals_the_first_and_without_cross_entropy_the_most_accurate() -> None:
    assert best_of([_metrics(0.90, 0.30), _metrics(0.90, 0.30)], ACCURACY) == 0
    assert best_of([_metrics(0.895, 0.25), _metrics(0.90)], ACCURACY) == 1
    assert best_of([{"accuracy": 0.89}, {"accuracy": 0.9}, {"accuracy": 0.9}], ACCURACY) == 1
    assert best_of([{}], ACCURACY) == 0


def _candidate(trial: int, size: float, *rungs: dict[str, float]) -> Candidate:
    evaluations = tuple(Evaluation(rung=rung, metrics=metrics | {"size_bytes": size, "latency_ms": size}, sources={})
                        for rung, metrics in enumerate(rungs))
    return Candidate(trial=trial, status="complete", evaluations=evaluations, reference=REFERENCE)


def test_a_rung_counts_that_is_the_better_one_beyond_chance_and_of_equals_the_higher() -> None:
    assert _candidate(0, 1, _metrics(0.9, 0.3), _metrics(0.895, 0.25)).rung == 1
    assert _candidate(0, 1, _metrics(0.9, 0.3), _metrics(0.88, 0.25)).rung == 0
    assert _candidate(0, 1, _metrics(0.9, 0.3), _metrics(0.9, 0.3)).rung == 1


def test_a_rung_that_loses_more_than_the_budget_allows_counts_only_where_all_do() -> None:
    candidate = _candidate(0, 1, _metrics(0.9, 0.3), _metrics(0.895, 0.25))
    assert judge(candidate, Budget(max_drop=0.05), Reference(ACCURACY, 0.902)).rung == 1
    strict = judge(candidate, Budget(max_drop=0.002), Reference(ACCURACY, 0.902))
    assert (strict.rung, strict.status) == (0, "complete")
    nothing = judge(candidate, Budget(max_drop=0.0), Reference(ACCURACY, 0.95))
    assert (nothing.rung, nothing.status) == (1, "infeasible")


def test_the_best_candidate_may_be_dominated_by_chance_and_is_on_the_front_all_the_same() -> None:
    everyone = [_candidate(0, 2, _metrics(0.895, 0.25)), _candidate(1, 1, _metrics(0.9, 0.3)),
                _candidate(2, 3, _metrics(0.88, 0.2))]
    winner = best(everyone, Budget(), REFERENCE)
    assert winner is not None and winner.trial == 0
    assert [c.trial for c in front(everyone, Budget(), REFERENCE)] == [1, 0]
    outside = [msgspec.structs.replace(everyone[0], status="infeasible"), *everyone[1:]]
    winner = best(outside, Budget(), REFERENCE)
    assert winner is not None and winner.trial == 1
