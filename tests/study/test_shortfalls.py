"""What a search says of what it did not come to."""

from __future__ import annotations

from autocompress.core.evaluation import Candidate, Evaluation
from autocompress.study.shortfalls import shortfalls


def _at(trial: int, rung: int) -> Candidate:
    return Candidate(trial=trial, status="complete", evaluations=tuple(
        Evaluation(rung=r, metrics={"accuracy": 0.5}, sources={}) for r in range(rung + 1)))


def test_nothing_is_said_of_a_search_that_came_to_all() -> None:
    assert shortfalls([_at(0, 2), _at(1, 0)], {(1, 1): "nan"}, time_is_up=True) == []
    assert shortfalls([_at(0, 0)], {}, time_is_up=False) == []


def test_a_rung_that_nobody_reached_is_named_with_a_reason() -> None:
    (short,) = shortfalls([_at(0, 0), _at(1, 0)], {(1, 1): "oom", (0, 1): "nan: loss"}, time_is_up=True)
    assert short.startswith("none of 2 candidates could be distilled briefly") and short.endswith("with: nan: loss")
    (long,) = shortfalls([_at(0, 1)], {(0, 2): "oom"}, time_is_up=False)
    assert long.startswith("none of 1 candidates could be distilled, so that what they reached before stands")


def test_a_time_limit_that_ended_before_training_is_said() -> None:
    (text,) = shortfalls([_at(0, 0)], {}, time_is_up=True)
    assert "the best of 1 calibrated candidate stands" in text
