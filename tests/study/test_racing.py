"""Few validation samples at first, more for those that compete: which, how many, and that values can be compared."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import autocompress
from autocompress.core.evaluation import AVERAGED, CALIBRATED, LONG, SHORT, Candidate, Evaluation
from autocompress.core.metric import Metric, Reference
from autocompress.core.plan import Plan
from autocompress.hardware.profile import load_profile
from autocompress.study import racing
from autocompress.study.racing import SAMPLES, Sizes, corrected, finalist, sizes
from autocompress.study.workbench import Workbench
from autocompress.tasks.classification.metric import ACCURACY
from autocompress.tasks.splits import Split, TaskData
from autocompress.tasks.stratified import random_part, stratified_part

REFERENCE = Reference(ACCURACY, 0.75)


def test_parts_hold_each_class_in_its_share_and_the_smaller_parts() -> None:
    targets = torch.repeat_interleave(torch.arange(20), torch.arange(20) * 10 + 10)
    before: set[int] = set()
    for samples in (100, 500, 1000, len(targets)):
        part = stratified_part(targets, samples)
        assert len(part) == samples and torch.equal(part, part.unique())
        counts, shares = torch.bincount(targets[part], minlength=20), torch.bincount(targets) * samples / len(targets)
        assert (counts - shares).abs().max() <= 2
        assert before <= set(part.tolist())
        before = set(part.tolist())
    assert torch.equal(stratified_part(targets, 100), stratified_part(targets, 100))
    assert set(random_part(50, 5).tolist()) <= set(random_part(50, 20).tolist())


@pytest.mark.parametrize(("error", "seconds", "limit", "expected"), [
    (0.0137, 1.0, None, (16_893, 50_000, 40_000)),  # 0.75 ± 0.0137 on 1,000: a third of a point on 16,893
    (0.001, 1.0, None, (1_000, 50_000, 40_000)),
    (float("nan"), 1.0, None, (50_000, 50_000, 40_000)),
    (0.0137, 5.0, 600.0, (1_200, 6_000, 6_000)),  # 200 a second: a hundredth and a twentieth of ten minutes
    (0.0137, 5.0, 6.0, (1_000, 1_000, 5_000)),
    (0.0137, 0.01, 600.0, (16_893, 50_000, 40_000)),
], ids=str)
def test_as_many_samples_as_the_error_asks_for_and_time_allows(
        error: float, seconds: float, limit: float | None, expected: tuple[int, int, int]) -> None:
    counts = sizes(REFERENCE, error, racing.LEAST, seconds, 50_000, 40_000, limit)
    assert (counts.first, counts.last, counts.test) == expected
    assert counts.by_rung[LONG] == counts.by_rung[AVERAGED] == counts.last
    assert counts.by_rung[CALIBRATED] == counts.first <= counts.by_rung[SHORT] <= counts.last


def test_the_error_of_other_metrics_is_in_units_of_the_original() -> None:
    metres = Reference(Metric("mae", unit="m", higher_is_better=False), 2.0)
    assert sizes(metres, 0.1, 1000, 1.0, 10**6, 10**6, None).first == 9_000  # a third of a percent of five times 2 m


def test_a_value_of_a_part_is_corrected_by_the_original() -> None:
    metrics = corrected({"accuracy": 0.70, "accuracy_error": 0.01, "size_bytes": 5, SAMPLES: 100, "loss": 1.0},
                        {"accuracy": 0.80, "accuracy_error": 0.02, SAMPLES: 100, "loss": 0.5},
                        {"accuracy": 0.78, "accuracy_error": 0.03, SAMPLES: 900, "loss": 0.6})
    assert metrics == pytest.approx({"accuracy": 0.68, "accuracy_error": 0.01, "size_bytes": 5, SAMPLES: 100,
                                     "loss": 1.1})


def _candidate(trial: int, accuracy: float, samples: int | None, status: str = "complete") -> Candidate:
    metrics = {"accuracy": accuracy, "accuracy_error": 0.01, **({} if samples is None else {SAMPLES: samples})}
    evaluation = Evaluation(rung=0, metrics=metrics, sources={})
    return Candidate(trial=trial, status=status, plan=Plan(), evaluations=(evaluation,))  # type: ignore[arg-type]


def test_finalists_are_those_that_the_error_does_not_tell_from_the_best() -> None:
    best, near, far = _candidate(3, 0.90, 100), _candidate(1, 0.893, 100), _candidate(2, 0.88, 100)
    wrong = _candidate(4, 0.95, 100, "infeasible")
    everyone = [near, far, best, wrong]
    assert finalist(everyone, best, ACCURACY, 900) is best
    confirmed = _candidate(3, 0.90, 900)
    assert finalist([near, far, confirmed, wrong], confirmed, ACCURACY, 900) is near
    assert finalist([far, confirmed, _candidate(5, 0.90, None)], confirmed, ACCURACY, 900) is None
    assert finalist(everyone, None, ACCURACY, 900) is None


def _data(validation: int) -> TaskData:
    """Four blobs that overlap, in the order of their classes."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(4, 8, generator=generator)

    def split(samples: int) -> Split:
        targets = (torch.arange(samples) * 4 // samples)
        return Split(centres[targets] + torch.randn(samples, 8, generator=generator), targets)

    return TaskData("blobs", split(512), split(validation), split(700), 4)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """A classifier of the blobs."""
    data = _data(200)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(data.train.inputs), data.train.targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


@pytest.fixture
def small_races(monkeypatch: pytest.MonkeyPatch) -> None:
    """Race on small splits."""
    from autocompress.study import evaluator

    for module, name, value in ((racing, "LEAST", 100), (evaluator, "LEAST", 100), (racing, "SCORED_WHOLE", 200),
                                (evaluator, "SCORED_WHOLE", 200), (racing, "ERROR", 0.02)):
        monkeypatch.setattr(module, name, value)


def _bench(net: nn.Module, data: TaskData) -> Workbench:
    return Workbench(net, data, load_profile("stm32h743"), seed=0, epochs=1)


def test_small_splits_are_scored_whole(net: nn.Module) -> None:
    bench = _bench(net, _data(200))
    bench.evaluator.settle_sizes(None)
    assert bench.evaluator.sizes is None
    assert SAMPLES not in bench.evaluator.baseline()
    assert SAMPLES not in bench.evaluator.evaluate(Plan(), CALIBRATED).metrics


@pytest.mark.usefixtures("small_races")
def test_what_is_scored_on_a_part_can_be_compared(net: nn.Module) -> None:
    """The original's own plan, scored on a part and corrected, is the original; a part's score is that of its rows."""
    data = _data(800)
    bench = _bench(net, data)
    evaluator = bench.evaluator
    evaluator.settle_sizes(None)
    baseline, counts = evaluator.baseline(), evaluator.sizes
    assert counts is not None and 100 < counts.first < counts.last == baseline[SAMPLES] == 800
    same = evaluator.evaluate(Plan(), CALIBRATED)
    assert same.metrics[SAMPLES] == counts.first
    assert same.metrics["accuracy"] == pytest.approx(baseline["accuracy"], abs=1e-9)
    rows = data.part("validation", counts.first)
    runtime = evaluator.open(evaluator.file_of(Plan(), same))
    with torch.no_grad():
        right = net(data.validation.inputs[rows]).argmax(1) == data.validation.targets[rows]
    assert evaluator.score(runtime, "validation", counts.first).metrics["accuracy"] == pytest.approx(
        float(right.double().mean()))
    whole = evaluator.rescored(Plan(), same)
    assert whole.metrics[SAMPLES] == 800 and whole.metrics["accuracy"] == pytest.approx(baseline["accuracy"])
    assert whole.metrics["size_bytes"] == same.metrics["size_bytes"]
    again = evaluator.validated(runtime, same.metrics, baseline)
    assert again["accuracy"] == pytest.approx(same.metrics["accuracy"])


@pytest.mark.usefixtures("small_races", "short_searches")
def test_a_search_ends_with_a_best_that_was_scored_on_all(
        net: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        result = autocompress.search(net, _data(800), "9kB", out=tmp_path / "study", trials=4, epochs=1,
                                     profile="stm32h743")
    assert "candidates are scored on" in caplog.text
    best = result.best
    assert best is not None and best.metrics[SAMPLES] == 800 == result.baseline[SAMPLES]
    samples = {e.rung: e.metrics[SAMPLES] for c in result.candidates for e in c.evaluations}
    assert samples[SHORT] <= samples[LONG] == 800
    first = [c.evaluations[0].metrics[SAMPLES] for c in result.candidates if c.evaluations]
    assert min(first) < 800
    assert result.artifact is not None and result.artifact["verified"]
    stored = autocompress.open_study(tmp_path / "study", model=net, data=_data(800))
    assert [c.metrics for c in stored.candidates] == [c.metrics for c in result.candidates]
    untrained = next(c for c in stored.candidates if c.reached == CALIBRATED and c.metrics[SAMPLES] < 800)
    assert stored.export(tmp_path / "other", untrained.trial).exists(), "what was promised on a part is verified on it"


@pytest.mark.usefixtures("small_races")
def test_a_task_that_needs_all_rows_is_not_raced(net: nn.Module) -> None:
    class Whole(TaskData):
        def part(self, split: str, samples: int) -> None:
            return None

    data = _data(800)
    bench = _bench(net, Whole(data.name, data.train, data.validation, data.test, 4))
    bench.evaluator.settle_sizes(None)
    assert bench.evaluator.sizes is None


def test_a_resumed_study_keeps_its_most_samples(net: nn.Module, small_races: None) -> None:
    bench = _bench(net, _data(800))
    bench.evaluator.settle_sizes(None, 300)
    assert bench.evaluator.sizes == Sizes(min(300, bench.evaluator.sizes.first), 300, 700)
    assert np.isfinite(bench.evaluator.baseline()["accuracy"])
    assert replace(bench.network.task).samples("validation") == 800
