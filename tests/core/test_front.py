"""The front: exactly what no other point beats."""

from __future__ import annotations

import math
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.core.budget import Budget
from autocompress.core.evaluation import Candidate, Evaluation
from autocompress.core.front import best, front, non_dominated, objectives
from autocompress.core.metric import Metric, Reference
from autocompress.core.plan import Receipt
from autocompress.errors import InputError
from autocompress.tasks.classification.metric import ACCURACY

VALUES = st.sampled_from([0.0, 1.0, 2.0, 3.0, math.nan, math.inf, -math.inf]) | st.floats(-5, 5)
POINTS = st.lists(st.tuples(VALUES, VALUES, VALUES), max_size=20)


def _dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b


@given(POINTS)
def test_members_are_finite_unbeaten_and_everybody_else_is_beaten(points: list[tuple[float, ...]]) -> None:
    finite = [p for p in points if all(map(math.isfinite, p))]
    members = [points[i] for i in non_dominated(points)]
    assert len(set(members)) == len(members)
    for point in members:
        assert all(map(math.isfinite, point))
        assert not any(_dominates(other, point) for other in finite)
    for point in finite:
        assert point in members or any(_dominates(other, point) for other in members)


@given(POINTS, st.randoms(use_true_random=False))
def test_the_order_does_not_matter(points: list[tuple[float, ...]], order: random.Random) -> None:
    shuffled = order.sample(points, len(points))
    assert {shuffled[i] for i in non_dominated(shuffled)} == {points[i] for i in non_dominated(points)}


def _candidate(trial: int, accuracy: float, size: float, latency: float, status: str = "complete") -> Candidate:
    metrics = {"accuracy": accuracy, "size_bytes": size, "latency_ms": latency}
    return Candidate(trial=trial, status=status,  # type: ignore[arg-type]
                     evaluations=(Evaluation(rung=0, metrics=metrics, sources={}),))


METRICS = st.tuples(st.sampled_from([0.5, 0.9, 0.95, math.nan]), st.integers(1, 6).map(float),
                    st.integers(1, 4).map(float), st.sampled_from(["complete", "complete", "failed", "infeasible"]))


@given(st.lists(METRICS, max_size=12))
def test_the_front_of_candidates_holds_complete_ones_inside_the_budget(rows: list[tuple[float, float, float, str]],
                                                                       ) -> None:
    everyone = [_candidate(i, *row) for i, row in enumerate(rows)]
    budget = Budget(size_bytes=4)
    members = front(everyone, budget, Reference(ACCURACY, 0.95))
    sizes = [c.metrics["size_bytes"] for c in members]
    assert sizes == sorted(sizes)
    assert all(c.status == "complete" and c.metrics["size_bytes"] <= 4 for c in members)
    legal = [c for c in everyone if c.status == "complete" and c.metrics["size_bytes"] <= 4
             and not math.isnan(c.metrics["accuracy"])]
    assert bool(members) == bool(legal)
    winner = best(everyone, budget, Reference(ACCURACY, 0.95))
    if legal:
        assert winner is not None
        assert winner.metrics["accuracy"] == max(c.metrics["accuracy"] for c in legal)
    else:
        assert winner is None


def test_a_drop_of_accuracy_bounds_the_front_and_ties_go_to_the_smaller() -> None:
    everyone = [_candidate(0, 0.80, 1, 1), _candidate(1, 0.90, 3, 1), _candidate(2, 0.90, 2, 2)]
    assert [c.trial for c in front(everyone, Budget(max_drop=0.05), Reference(ACCURACY, 0.9))] == [2, 1]
    winner = best(everyone, Budget(max_drop=0.05), Reference(ACCURACY, 0.9))
    assert winner is not None
    assert winner.trial == 2


def test_excess_is_relative_and_unjudged_bounds_are_left_out() -> None:
    budget = Budget(size_bytes=100, latency_ms=2.0, max_drop=0.01)
    assert budget.excess({"size_bytes": 150}) == {"size_bytes": 0.5}
    over = budget.excess({"size_bytes": 50, "latency_ms": 3.0, "accuracy": 0.9}, Reference(ACCURACY, 0.95))
    assert over == pytest.approx({"size_bytes": -0.5, "latency_ms": 0.5, "max_drop": 0.04})
    assert not budget.allows({"latency_ms": 2.1})
    assert budget.allows({})
    assert budget.describe(ACCURACY) == "size ≤ 100 B, latency ≤ 2 ms, accuracy drop ≤ 1.00%"
    assert Budget().describe() == "no constraint"


def test_a_drop_may_be_an_amount_of_the_metric_and_an_error_may_more_than_double() -> None:
    metric = Metric("rmse", unit="m", higher_is_better=False)
    for unit in ("m", "rmse"):
        budget = Budget(max_drop=0.5, max_drop_unit=unit).of_metric(metric)
        assert budget.excess({"rmse": 2.75}, Reference(metric, 2.0)) == pytest.approx({"max_drop": 0.25})
        assert budget.describe(metric) == "rmse drop ≤ 0.5 m"
    with pytest.raises(InputError, match=r"an amount of the task's metric such as 0.5m or 0.5rmse, but is 0.5dB"):
        Budget(max_drop=0.5, max_drop_unit="dB").of_metric(metric)
    doubled = Budget(max_drop=1.5).of_metric(metric)
    reference = Reference(metric, 2.0)
    assert doubled.allows({"rmse": 4.9}, reference) and not doubled.allows({"rmse": 5.1}, reference)
    with pytest.raises(InputError, match="at most 100% of accuracy"):
        Budget(max_drop=1.5).of_metric(ACCURACY)


def test_a_drop_of_a_metric_in_its_own_unit_is_a_share_of_the_originals_value() -> None:
    metric = Metric("mae", unit="m", higher_is_better=False)
    budget, reference = Budget(max_drop=0.1).of_metric(metric), Reference(metric, 2.0)
    assert budget.excess({"mae": 2.5}, reference) == pytest.approx({"max_drop": 0.3})
    assert budget.allows({"mae": 2.19}, reference) and budget.allows({"mae": 1.0}, reference)
    assert budget.describe(metric) == "mae drop ≤ 10.00% of the original's value"
    assert Budget(max_drop=0.1).of_metric(ACCURACY) == Budget(max_drop=0.1)
    everyone = [Candidate(trial=n, status="complete", evaluations=(Evaluation(
        rung=0, metrics={"mae": mae, "size_bytes": size, "latency_ms": 1.0}, sources={}),))
        for n, (mae, size) in enumerate([(2.0, 9.0), (1.0, 9.0), (2.1, 4.0), (3.0, 1.0)])]
    winner = best(everyone, budget, reference)
    assert winner is not None and winner.trial == 1
    assert [c.trial for c in front(everyone, budget, reference)] == [2, 1]


def _on_both(trial: int, accuracy: float, first: float, second: float) -> Candidate:
    metrics = {"latency_ms@board": second, "accuracy": accuracy, "size_bytes": 1.0, "latency_ms": first}
    return Candidate(trial=trial, status="complete", evaluations=(Evaluation(rung=0, metrics=metrics, sources={}),))


def test_the_latency_on_each_further_device_is_an_objective() -> None:
    assert list(objectives(ACCURACY, ["latency_ms@b", "macs", "latency_ms@a"]).items())[2:] == [
        ("latency_ms", "minimize"), ("latency_ms@a", "minimize"), ("latency_ms@b", "minimize")]
    assert objectives(ACCURACY, ["latency_ms", "macs"]) == objectives(ACCURACY)
    everyone = [_on_both(0, 0.9, 1.0, 4.0), _on_both(1, 0.9, 2.0, 3.0), _on_both(2, 0.9, 2.0, 5.0)]
    assert [c.trial for c in front(everyone, Budget(), Reference(ACCURACY, 0.9))] == [0, 1]
    tight = Budget(further_latency_ms={"board": 3.5})
    assert [c.trial for c in front(everyone, tight, Reference(ACCURACY, 0.9))] == [1]
    assert tight.excess(everyone[0].metrics) == {"latency_ms@board": pytest.approx(4 / 3.5 - 1)}


def test_what_counts_is_the_most_accurate_evaluation_not_the_last() -> None:
    scored = [Evaluation(rung=rung, metrics={"accuracy": accuracy}, sources={})
              for rung, accuracy in ((0, 0.5), (1, 0.9), (2, 0.8))]
    taught = [[Receipt("a", "prune", {}), Receipt("", "distill", {"steps": rung})] for rung in range(3)]
    scored = [msgspec.structs.replace(e, receipts=tuple(r)) for e, r in zip(scored, taught, strict=True)]
    candidate = Candidate(trial=0, status="complete", evaluations=tuple(scored), reference=Reference(ACCURACY, 0.9))
    assert candidate.receipts == (taught[0][1], *taught[1]), "its own, behind the trainings before"
    assert (candidate.rung, candidate.reached, candidate.metrics["accuracy"]) == (1, 2, 0.9)
    assert candidate.flat()["rung"] == 1
