"""Metrics of the user's own, and of torchmetrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import autocompress
from autocompress.errors import InputError
from autocompress.tasks.metrics.measure import Measure, OfBatches, OfSplit
from autocompress.tasks.metrics.selection import FileOutputs
from autocompress.tasks.metrics.table import measures, metric
from autocompress.tasks.score import Score
from autocompress.tasks.vision import mend_torchvision

RNG = np.random.default_rng(0)
SCORES, LABELS = RNG.normal(size=(40, 7)).astype(np.float32), RNG.integers(0, 7, 40)
BATCHES = [(None, torch.tensor(LABELS[start:start + 10])) for start in range(0, 40, 10)]


def share(outputs: Mapping[str, np.ndarray], batch: Any) -> float:
    return float((outputs["output"].argmax(1) == batch[1].numpy()).mean())


def share_of_all(outputs: Sequence[Mapping[str, np.ndarray]], batches: Sequence[Any]) -> float:
    answered = np.concatenate([each["output"].argmax(1) for each in outputs])
    return float((answered == np.concatenate([batch[1].numpy() for batch in batches])).mean())


def measured(measure: Measure) -> tuple[float, float]:
    kept = [measure.of_batch({"output": SCORES[i * 10:(i + 1) * 10]}, batch, {}) for i, batch in enumerate(BATCHES)]
    return measure.over_split(kept, BATCHES)


def test_functions_of_a_batch_and_of_all_are_told_apart_by_the_second_parameter() -> None:
    expected = (SCORES.argmax(1) == LABELS).mean()
    for function, kind in ((share, OfBatches), (share_of_all, OfSplit)):
        measure = metric(function)
        value, error = measured(measure)
        assert isinstance(measure, kind) and measure.metric.name == function.__name__
        assert value == pytest.approx(expected) and 0 < error < 0.2
    said = metric(lambda one, other: share_of_all(one, other), over="split", name="said", unit="%",
                  higher_is_better=False)
    assert measured(said)[0] == pytest.approx(expected)
    assert (said.metric.name, said.metric.unit, said.metric.higher_is_better) == ("said", "%", False)


def test_a_direction_that_nobody_said_is_told_before_the_search() -> None:
    scores = torch.tensor(SCORES)

    def told(given: Any) -> list[str]:
        task = autocompress.Task(train=(scores, torch.tensor(LABELS)), metric=given)
        original = Score(dict.fromkeys((task.metric.name, task.metric.error), 0.5), [])
        return [doubt.message for doubt in task.doubts(original, None)]

    assert len(told(share)) == 1 and "of the metric share more is taken for better" in told(share)[0]
    assert "higher_is_better" in told(metric(share_of_all, unit="%"))[0]
    assert not told(metric(metric(share), higher_is_better=True)) and not told("accuracy")


def test_batches_of_other_sizes_count_by_their_samples() -> None:
    measure = metric(lambda outputs, batch: float(batch), name="value")
    kept = [measure.of_batch({"output": np.zeros((count, 1))}, value, {}) for count, value in ((30, 1.0), (10, 0.0))]
    assert measure.over_split(kept, [1.0, 0.0])[0] == pytest.approx(0.75)


@pytest.mark.parametrize(("value", "kind"), [(torch.tensor(0.5), "Tensor"), (None, "NoneType"), ("0.5", "str"),
                                             (np.zeros(2), "ndarray")])
def test_what_is_no_number_is_refused(value: Any, kind: str) -> None:
    for over in ("batch", "split"):
        with pytest.raises(InputError, match=f"must return a number, but returned {kind}"):
            measured(metric(lambda outputs, batch: value, name="value", over=over))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [np.float32(0.5), 1, True, np.array(0.25)])
def test_numbers_of_any_kind_are_taken(value: Any) -> None:
    assert measured(metric(lambda outputs, batch: value, name="value"))[0] == pytest.approx(float(value))


@pytest.mark.parametrize(("spec", "message"), [
    ("acuracy", "did you mean 'accuracy'"),
    (3, "must be a name"),
    (lambda outputs: 0.0, "two arguments"),
    (lambda outputs, batch, more: 0.0, "two arguments"),
    ([], "at least one"),
    (["mae", "mae"], "two are called mae"),
])
def test_what_is_no_metric_is_said(spec: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        measures(spec)


def test_names_and_directions_in_doubt_are_asked_for() -> None:
    def pixel_error(outputs: Any, batch: Any) -> float:
        return 0.0

    with pytest.raises(InputError, match="higher_is_better=False"):
        metric(pixel_error)
    assert not metric(pixel_error, higher_is_better=False).metric.higher_is_better
    for name in ("size_bytes", "two words", "if"):
        with pytest.raises(InputError, match="name of a metric"):
            metric(share, name=name)
    for options in ({"predictions": "a"}, {"targets": 1}):
        with pytest.raises(InputError, match="takes what it needs"):
            metric(share, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="over is for functions"):
        metric("mae", over="split")


def test_several_metrics_keep_their_order() -> None:
    assert [each.metric.name for each in measures(["mae", share, metric("r2", name="fit")])] == ["mae", "share", "fit"]


def test_torchmetrics_compute_what_they_compute() -> None:
    mend_torchvision()
    torchmetrics = pytest.importorskip("torchmetrics")
    module = torchmetrics.classification.MulticlassF1Score(num_classes=7, average="macro")
    expected = float(module(torch.tensor(SCORES), torch.tensor(LABELS)))
    measure = metric(module)
    assert measure.metric.name == "f1_score" and measure.metric.is_share and measure.metric.higher_is_better
    value, error = measured(measure)
    assert value == pytest.approx(expected) and error > 0
    assert not metric(torchmetrics.MeanAbsoluteError()).metric.higher_is_better
    with pytest.raises(InputError, match="must compute one number"):
        measured(metric(torchmetrics.classification.MulticlassF1Score(num_classes=7, average=None)))


class Counted:
    """A metric with the methods of torchmetrics, of nobody's library."""

    def reset(self) -> None:
        self.right, self.samples = 0, 0

    def update(self, scores: torch.Tensor, labels: torch.Tensor) -> None:
        self.right += int((scores.argmax(1) == labels).sum())
        self.samples += len(labels)

    def compute(self) -> float:
        return self.right / self.samples


def test_objects_with_the_methods_of_torchmetrics_compute_too() -> None:
    measure = metric(Counted(), higher_is_better=True)
    assert measured(measure)[0] == pytest.approx((SCORES.argmax(1) == LABELS).mean())
    with pytest.raises(InputError, match=r"Counted does not say whether more is better: give autocompress.metric"):
        metric(Counted())


def test_one_batch_tells_a_standard_error_by_its_samples() -> None:
    def right(outputs: Any, batches: Any) -> float:
        return float(np.mean([(each["output"].argmax(1) == batch[1]).mean()
                              for each, batch in zip(outputs, batches, strict=True)]))

    outputs, batch = FileOutputs({"output": SCORES}), ("texts", LABELS)
    share = (SCORES.argmax(1) == LABELS).mean()
    expected = np.sqrt(share * (1 - share) / len(LABELS))
    for measure in (metric(right), metric(Counted(), higher_is_better=True)):
        value, error = measure.over_split([measure.of_batch(outputs, batch, {})], [batch])
        assert value == pytest.approx(share) and expected / 2 < error < 2 * expected

    def of_a_batch(outputs: Any, batch: Any) -> float:
        return right([outputs], [batch])

    measure = replace(metric(of_a_batch), is_alone=True)  # type: ignore[type-var]
    value, error = measure.over_split([measure.of_batch(outputs, batch, {})], [batch])
    assert value == pytest.approx(share) and expected / 2 < error < 2 * expected
    whole = metric(lambda outputs, batches: float(len(outputs[0]["output"]) == len(LABELS) or 1 / 0))
    assert whole.over_split([outputs], [batch]) == (1, 0), "a function that takes no fewer"
