"""Bounds on further metrics of a task, such as `--at-least miou=70%`."""

from __future__ import annotations

from typing import Any

import pytest

from autocompress.core.budget import Budget, shown_excess
from autocompress.core.evaluation import Candidate, Evaluation
from autocompress.core.metric import Metric, Reference
from autocompress.errors import InputError
from autocompress.search.fidelity import promotable
from autocompress.search.trial_status import judge
from autocompress.study.settings import SearchSettings

MIOU, ERROR = Metric("miou", unit="%", title="Mean IoU"), Metric("error", unit="m", higher_is_better=False)
METRIC = Metric("accuracy", unit="%", further=(MIOU, ERROR))
REFERENCE = Reference(METRIC, 0.9)


def evaluation(rung: int, **metrics: float) -> Evaluation:
    return Evaluation(rung=rung, metrics={"size_bytes": 10.0, "macs": 1.0, **metrics}, sources={})


def test_a_bound_is_kept_in_the_direction_of_its_metric() -> None:
    budget = Budget(at_least={"miou": 0.7, "error": 2.0}).of_metric(METRIC)
    over = budget.excess({"accuracy": 0.5, "miou": 0.6, "error": 1.5}, REFERENCE)
    assert over == pytest.approx({"at least miou": 0.1, "at least error": -0.5})
    assert budget.allows({"accuracy": 0.5, "miou": 0.7, "error": 2.0}, REFERENCE)
    assert not budget.allows({"accuracy": 0.99, "miou": 0.8, "error": 2.1}, REFERENCE)
    assert budget.excess({"size_bytes": 3}, REFERENCE) == {}, "what was not measured cannot be judged"
    assert budget.describe(METRIC) == "miou ≥ 70.00%, error ≤ 2 m" and budget.describe() == \
        "miou at least 0.7, error at least 2"
    assert shown_excess("at least miou", 0.1, METRIC) == "10.00 points" and \
        shown_excess("at least error", 0.5, METRIC) == "0.5 m"


def test_a_bound_on_what_is_not_measured_is_refused() -> None:
    with pytest.raises(InputError, match="accuracy, miou, error, but bounds 'f1'"):
        Budget(at_least={"f1": 0.7}).of_metric(METRIC)


def test_candidates_are_judged_by_it_and_promoted_all_the_same() -> None:
    """An evaluation that keeps the bound counts before one that is better in the objective."""
    budget = Budget(size_bytes=20, at_least={"miou": 0.7})
    below = Candidate(trial=0, status="complete", evaluations=(evaluation(0, accuracy=0.95, miou=0.6),))
    judged = judge(below, budget, REFERENCE)
    assert judged.status == "infeasible" and judged.reason == "at least miou missed by 10.00 points"
    assert promotable([judged], budget) == [judged], "training may mend it"
    trained = Candidate(trial=0, status="complete",
                        evaluations=(*below.evaluations, evaluation(1, accuracy=0.9, miou=0.75)))
    judged = judge(trained, budget, REFERENCE)
    assert judged.status == "complete" and judged.best is not None and judged.best.rung == 1
    assert judged.unjudged == trained


@pytest.mark.parametrize("bound", [{"miou": 0.7, "error": 2}, ["miou=70%", "error=2"], ("miou=0.7", "error=2.0")])
def test_it_is_given_by_name(bound: Any) -> None:
    settings = SearchSettings.of(at_least=bound, budget=1000, model=object(), data="digits")
    assert settings.bounds(["host"]).at_least == pytest.approx({"miou": 0.7, "error": 2.0})
    assert SearchSettings.of(budget=1000).bounds(["host"]) == Budget(size_bytes=1000), "and leaves no trace"


@pytest.mark.parametrize(("bound", "message"), [
    ("0.7", "must name a metric"), (["miou=x"], "a number or a share"), (["miou=1", "miou=2"], "miou once"),
    ({"miou": True}, "must name a metric"), ("=3", "must name a metric"),
])
def test_what_is_no_bound_is_said(bound: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SearchSettings.of(at_least=bound, budget=1000)


def test_metrics_are_named_within_sentences() -> None:
    assert [metric.words for metric in (METRIC, MIOU, Metric("map", title="mAP"), Metric("auroc", title="AUROC"),
                                        Metric("r2", title="R²"))] == ["accuracy", "mean IoU", "mAP", "AUROC", "R²"]
