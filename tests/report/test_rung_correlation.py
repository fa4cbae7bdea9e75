"""Rank correlations between levels of scoring."""

from __future__ import annotations

import msgspec
import pytest

from autocompress.core.evaluation import Candidate, Evaluation
from autocompress.report.html import page
from autocompress.report.rung_correlation import Agreement, Correlation, agreement, agreement_heads, agreement_rows
from autocompress.report.view import StudyView


def _climbed(trial: int, *accuracies: float, duplicate_of: int | None = None) -> Candidate:
    return Candidate(trial=trial, status="complete", duplicate_of=duplicate_of, evaluations=tuple(
        Evaluation(rung=rung, metrics={"accuracy": accuracy}, sources={}) for rung, accuracy in enumerate(accuracies)))


def _of(view: StudyView, candidates: list[Candidate], sensitivities: dict[int, float] | None = None) -> Agreement:
    return agreement(msgspec.structs.replace(view, candidates=tuple(candidates), sensitivities=sensitivities or {}))


def test_levels_that_agree_and_that_do_not(view: StudyView) -> None:
    rising = [_climbed(i, i / 10, i / 20, 1 - i / 20) for i in range(4)]
    ranks = _of(view, rising, {i: 1.0 - i / 10 for i in range(4)})
    assert list(ranks.candidates.items()) == [
        ("predicted", 4), ("calibrated", 4), ("distilled briefly", 4), ("distilled", 4)]
    by_pair = {(c.lower, c.upper): c.spearman for c in ranks.correlations}
    assert len(by_pair) == 6
    assert by_pair["predicted", "calibrated"] == pytest.approx(1.0), "least sensitivity is most accurate"
    assert by_pair["calibrated", "distilled briefly"] == pytest.approx(1.0)
    assert by_pair["calibrated", "distilled"] == pytest.approx(-1.0)


def test_ties_have_their_mean_rank(view: StudyView) -> None:
    low, high = (0.1, 0.2, 0.2, 0.4), (0.5, 0.7, 0.6, 0.6)
    ranks = _of(view, [_climbed(i, a, b) for i, (a, b) in enumerate(zip(low, high, strict=True))])
    # ranks 1, 2.5, 2.5, 4 and 1, 4, 2.5, 2.5: 2.25 over sqrt(4.5 · 4.5)
    assert ranks.correlations[0].spearman == pytest.approx(0.5)


def test_too_few_and_constant_levels_are_said_to_be_so(view: StudyView) -> None:
    candidates = [_climbed(0, 0.5, 0.7), _climbed(1, 0.5, 0.8), _climbed(2, 0.5)]
    ranks = _of(view, candidates, {0: 0.1, 1: 0.2, 2: 0.3})
    assert ranks.correlations == (
        Correlation(lower="predicted", upper="calibrated", pairs=3, note="constant"),
        Correlation(lower="predicted", upper="distilled briefly", pairs=2, note="too few"),
        Correlation(lower="calibrated", upper="distilled briefly", pairs=2, note="too few"))
    assert agreement_heads(ranks) == ("level", "candidates", "calibrated", "distilled briefly")
    assert agreement_rows(ranks) == [("predicted", "3", "constant (3)", "too few (2)"),
                                     ("calibrated", "3", "", "too few (2)"), ("distilled briefly", "2", "", "")]


def test_repeated_plans_and_what_is_not_finite_do_not_count(view: StudyView) -> None:
    rising = [_climbed(i, i / 10, i / 20) for i in range(3)]
    ranks = _of(view, [*rising, _climbed(3, 0.2, duplicate_of=2), _climbed(4, float("nan"), 0.5)], {3: 0.1})
    assert ranks.candidates == {"calibrated": 3, "distilled briefly": 4}
    assert ranks.correlations[0].pairs == 3
    assert _of(view, []) == Agreement(candidates={}, correlations=())


def test_the_page_shows_it(view: StudyView) -> None:
    section = page(view).split("<h2>Do the rungs agree?</h2>")[1].split("</section>")[0]
    ranks = agreement(view)
    for row in agreement_rows(ranks):
        assert all(cell in section for cell in row)
    assert "No candidate was scored" in page(msgspec.structs.replace(view, candidates=(), front=(), best=None))
