"""Who goes up the ladder."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.core.budget import Budget
from autocompress.core.evaluation import LONG, SHORT, Candidate, Evaluation
from autocompress.core.metric import Reference
from autocompress.search.fidelity import promotable, promote
from autocompress.tasks.classification.metric import ACCURACY

REFERENCE = Reference(ACCURACY, 0.95)


def _candidate(trial: int, accuracy: float, size: int, rung: int = 0, status: str = "complete",
               origin: str = "TPESampler", duplicate_of: int | None = None) -> Candidate:
    metrics = {"accuracy": accuracy, "size_bytes": float(size), "latency_ms": 1.0}
    evaluations = tuple(Evaluation(rung=r, metrics=metrics, sources={}) for r in range(rung + 1))
    return Candidate(trial=trial, status=status, evaluations=evaluations, origin=origin,  # type: ignore[arg-type]
                     duplicate_of=duplicate_of)


ROWS = st.lists(st.tuples(
    st.floats(0, 1), st.integers(1, 10), st.integers(0, 2),
    st.sampled_from(["complete", "complete", "infeasible", "failed", "duplicate"]),
    st.sampled_from(["uniform", "TPESampler"])), max_size=16)


@given(ROWS, st.sampled_from([SHORT, LONG]), st.integers(0, 6))
def test_promotion_is_from_the_rung_below_within_the_places_and_inside_the_budget(
    rows: list[tuple[float, int, int, str, str]], rung: int, count: int,
) -> None:
    everyone = [_candidate(i, a, s, r, status, origin, 0 if status == "duplicate" else None)
                for i, (a, s, r, status, origin) in enumerate(rows)]
    promoted = promote(everyone, Budget(size_bytes=8, max_drop=0.1), REFERENCE, rung, count)
    already = sum((c.rung or 0) >= rung for c in everyone)
    assert len(promoted) <= max(0, count - already)
    assert len({c.trial for c in promoted}) == len(promoted)
    for candidate in promoted:
        assert candidate.rung == rung - 1
        assert candidate.status in ("complete", "infeasible")
        assert candidate.metrics["size_bytes"] <= 8
    pool = [c for c in promotable(everyone, Budget(size_bytes=8)) if c.rung == rung - 1]
    assert len(promoted) == min(len(pool), max(0, count - already))
    if promoted and rung == LONG:
        assert promoted[0].metrics["accuracy"] == max(c.metrics["accuracy"] for c in pool)


def test_the_short_rung_keeps_baselines_the_best_and_a_small_one() -> None:
    everyone = [_candidate(0, 0.5, 5, origin="uniform"), _candidate(1, 0.4, 5, origin="uniform"),
                _candidate(2, 0.9, 8), _candidate(3, 0.89, 8), _candidate(4, 0.8, 1)]
    assert [c.trial for c in promote(everyone, Budget(), REFERENCE, SHORT, 4)] == [0, 1, 2, 4]


@pytest.mark.parametrize("count", [2, 5, 10])
def test_one_at_a_time_the_same_are_promoted(count: int) -> None:
    everyone = [_candidate(i, 0.9 - 0.01 * i, 1 + (7 * i) % 10, origin="uniform" if i % 4 == 3 else "SolverSampler")
                for i in range(20)]
    started: list[int] = []
    while promoted := promote(everyone, Budget(), REFERENCE, SHORT, count, started):
        started.append(promoted[0].trial)
    assert sorted(started) == sorted(c.trial for c in promote(everyone, Budget(), REFERENCE, SHORT, count))
    assert len(started) == count


def test_under_a_clock_the_faster_of_equals_is_trained_on() -> None:
    def trained(trial: int, accuracy: float, macs: float) -> Candidate:
        metrics = {"accuracy": accuracy, "size_bytes": 1.0, "latency_ms": 1.0, "macs": macs}
        evaluations = tuple(Evaluation(rung=r, metrics=metrics, sources={}) for r in (0, SHORT))
        return Candidate(trial=trial, status="complete", evaluations=evaluations)

    everyone = [trained(0, 0.910, 9e6), trained(1, 0.907, 3e6), trained(2, 0.900, 1e6)]
    assert [c.trial for c in promote(everyone, Budget(), REFERENCE, LONG, 3)] == [0, 1, 2]
    assert [c.trial for c in promote(everyone, Budget(), REFERENCE, LONG, 3, timed=True)] == [1, 0, 2]
