"""Whole searches that do not go to plan: stopped again and again, without time, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import autocompress
from autocompress.core.evaluation import Evaluation
from autocompress.core.plan import Plan
from autocompress.errors import TrialError
from autocompress.formats.onnx import format as onnx_format
from autocompress.study import result as studies
from autocompress.study import trainer
from autocompress.study.attribution import NO_TIME
from autocompress.study.evaluator import Evaluator
from autocompress.study.result import SearchResult, open_study
from autocompress.testing.networks import NETWORKS, task_data

CHAIN = NETWORKS["chain"]
TRIALS = 4


def _search(folder: Path, **options: Any) -> SearchResult:
    return autocompress.search(model=CHAIN.make(), data=task_data(CHAIN.input_shape), budget="12kB", trials=TRIALS,
                               epochs=1, out=folder, **options)


class _Bomb:
    """Wraps a function; its call number `fuse` is where the process ends."""

    def __init__(self, real: Any, fuse: int) -> None:
        self.real, self.fuse, self.calls = real, fuse, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.calls == self.fuse:
            raise KeyboardInterrupt
        return self.real(*args, **kwargs)


@pytest.mark.slow
def test_interrupted_again_and_again_it_ends_with_the_same_trials_and_repeats_none(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated: list[tuple[str, int]] = []
    real = Evaluator.evaluate

    def evaluate(self: Evaluator, plan: Plan, rung: int, *args: Any, **kwargs: Any) -> Evaluation:
        evaluation = real(self, plan, rung, *args, **kwargs)
        evaluated.append((plan.fingerprint, rung))
        return evaluation

    monkeypatch.setattr(Evaluator, "evaluate", evaluate)
    kept: dict[int, Any] = {}
    moments = [("second trial", onnx_format, "build", 2), ("second training", trainer, "distill", 2),
               ("export", studies, "ship", 1), ("attribution", studies, "attribute", 1)]
    for moment, module, name, fuse in moments:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(module, name, _Bomb(getattr(module, name), fuse))
            _search(tmp_path / "study", resume=bool(kept))
        now = {c.trial: c for c in open_study(tmp_path / "study").candidates if c.evaluations}
        for trial, before in kept.items():
            assert now[trial].plan == before.plan, moment
            assert now[trial].evaluations[:len(before.evaluations)] == before.evaluations, moment
        kept = now
        assert kept, moment

    result = _search(tmp_path / "study", resume=True)
    assert {c.trial: c for c in result.candidates if c.evaluations} == kept, "nothing was left to do but explain"
    assert len(kept) == TRIALS and max(c.reached or 0 for c in kept.values()) >= 2
    assert len(evaluated) == len(set(evaluated)), "nothing was evaluated twice"
    assert result.is_exported and result.attribution is not None and result.attribution.finished
    assert (tmp_path / "study" / "report" / "pareto.html").is_file()


def test_a_time_limit_shorter_than_one_trial_gives_the_solvers_plan(
        tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    result = _search(tmp_path / "study", timeout="1s")
    (only,) = result.candidates
    assert (only.origin, only.rung, only.status) == ("SolverSampler", 0, "complete")
    assert "the time limit ended before anything could be trained: the best of 1 calibrated candidate" in caplog.text
    facts, attribution = result.artifact, result.attribution
    assert facts is not None and facts["verified"] and (facts["trial"], facts["rung"]) == (only.trial, 0)
    assert attribution is not None and not attribution.finished
    assert NO_TIME in {share.note for share in attribution.techniques}


def test_without_any_training_that_succeeds_the_calibrated_file_is_exported(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise TrialError("nan: the loss is not finite")

    monkeypatch.setattr(trainer, "distill", fail)
    result = _search(tmp_path / "study")
    assert {c.rung for c in result.candidates} == {0} and {c.status for c in result.candidates} <= {
        "complete", "duplicate"}
    assert "candidates could be distilled briefly, so that what they reached before stands" in caplog.text
    assert "nan: the loss is not finite" in caplog.text
    assert result.artifact is not None and result.artifact["verified"] and result.artifact["rung"] == 0
