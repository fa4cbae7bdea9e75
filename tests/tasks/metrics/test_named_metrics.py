"""Metrics by name, against definitions and scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as sk

from autocompress.errors import InputError
from autocompress.tasks.metrics.class_outputs import class_outputs
from autocompress.tasks.metrics.table import NAMED, measures, metric

RNG = np.random.default_rng(0)
SCORES, LABELS = RNG.normal(size=(60, 7)).astype(np.float32), RNG.integers(0, 7, 60)
NUMBERS = RNG.normal(size=(60, 3)).astype(np.float32)
TRUE = NUMBERS + 0.5 * RNG.normal(size=(60, 3)).astype(np.float32)
SEVERAL = (SCORES + RNG.normal(size=SCORES.shape) > 0).astype(np.int64)
SHARES = 1 / (1 + np.exp(-SCORES))
MAPS, MASKS = RNG.normal(size=(5, 3, 8, 8)).astype(np.float32), RNG.integers(0, 3, (5, 8, 8))


def measured(name: Any, outputs: np.ndarray, targets: Any, original: np.ndarray | None = None,
             pieces: int = 3, **options: Any) -> tuple[float, float]:
    """The value and error of a metric whose batches are `pieces`."""
    measure = metric(name, **options)
    kept = [measure.of_batch({"output": outputs[rows]}, (None, targets[rows]),
                             {} if original is None else {"output": original[rows]})
            for rows in (slice(r[0], r[-1] + 1) for r in np.array_split(np.arange(len(outputs)), pieces))]
    return measure.over_split(kept, [])


def one_vs_rest() -> float:
    shares = torch.tensor(SCORES).softmax(1).double().numpy()
    return float(sk.roc_auc_score(LABELS, shares / shares.sum(1, keepdims=True), multi_class="ovr"))


@pytest.mark.parametrize(("name", "outputs", "targets", "expected"), [
    ("accuracy", SCORES, LABELS, lambda: sk.accuracy_score(LABELS, SCORES.argmax(1))),
    ("accuracy", SCORES, torch.tensor(LABELS)[:, None], lambda: sk.accuracy_score(LABELS, SCORES.argmax(1))),
    ("accuracy", SCORES, np.eye(SCORES.shape[1])[LABELS], lambda: sk.accuracy_score(LABELS, SCORES.argmax(1))),
    ("accuracy", MAPS, MASKS, lambda: (MAPS.argmax(1) == MASKS).mean()),
    ("top5", SCORES, LABELS, lambda: sk.top_k_accuracy_score(LABELS, SCORES, k=5)),
    ("f1_macro", SCORES, LABELS, lambda: sk.f1_score(LABELS, SCORES.argmax(1), average="macro")),
    ("auroc", SCORES, LABELS, one_vs_rest),
    ("auroc", SCORES[:, 0], LABELS > 3, lambda: sk.roc_auc_score(LABELS > 3, SCORES[:, 0])),
    ("auroc", SCORES[:, :2], LABELS > 3, lambda: sk.roc_auc_score(LABELS > 3, SCORES[:, 1] - SCORES[:, 0])),
    ("auroc", SCORES, SEVERAL, lambda: sk.roc_auc_score(SEVERAL, SCORES, average="macro")),
    ("f1_macro", SCORES, SEVERAL, lambda: sk.f1_score(SEVERAL, SCORES > 0, average="macro")),
    ("f1_macro", SHARES, SEVERAL.astype(np.float32), lambda: sk.f1_score(SEVERAL, SHARES > 0.5, average="macro")),
    ("f1_macro", SCORES[:, 0], SEVERAL[:, 0], lambda: sk.f1_score(SEVERAL[:, 0], SCORES[:, 0] > 0, average="macro")),
    ("accuracy", SCORES[:, :1], SEVERAL[:, 0], lambda: sk.accuracy_score(SEVERAL[:, 0], SCORES[:, 0] > 0)),
    ("accuracy", SHARES[:, 0], torch.tensor(SEVERAL[:, :1]).float(),
     lambda: sk.accuracy_score(SEVERAL[:, 0], SHARES[:, 0] > 0.5)),
    ("perplexity", SCORES, LABELS,
     lambda: np.exp(sk.log_loss(LABELS, torch.tensor(SCORES).double().softmax(1).numpy()))),
    ("mae", NUMBERS, TRUE, lambda: sk.mean_absolute_error(TRUE, NUMBERS)),
    ("rmse", NUMBERS, TRUE, lambda: np.sqrt(np.square(TRUE - NUMBERS).mean())),
    ("r2", NUMBERS, TRUE, lambda: sk.r2_score(TRUE, NUMBERS)),
    ("r2", NUMBERS[:, 0], TRUE[:, :1], lambda: sk.r2_score(TRUE[:, 0], NUMBERS[:, 0])),
    ("spearman", NUMBERS[:, 0], TRUE[:, 0], lambda: stats.spearmanr(TRUE[:, 0], NUMBERS[:, 0]).statistic),
    ("miou", MAPS[:, :1], (MASKS > 1)[:, None].astype(np.float32),
     lambda: sk.jaccard_score(MASKS.ravel() > 1, MAPS[:, 0].ravel() > 0, average="macro")),
    ("miou", 1 / (1 + np.exp(-MAPS[:, 0])), MASKS > 1,
     lambda: sk.jaccard_score(MASKS.ravel() > 1, MAPS[:, 0].ravel() > 0, average="macro")),
    ("miou", MAPS, MASKS, lambda: sk.jaccard_score(MASKS.ravel(), MAPS.argmax(1).ravel(), average="macro")),
])
def test_a_metric_is_what_its_name_says(name: str, outputs: np.ndarray, targets: Any, expected: Any) -> None:
    """The same value in one batch and in several, with a standard error of the size that data of 60 samples have."""
    value, error = measured(name, outputs, targets)
    assert value == pytest.approx(float(expected()), rel=1e-5)
    assert value == pytest.approx(measured(name, outputs, targets, pieces=1)[0], rel=1e-9)
    assert 0 < error < abs(value)


def test_one_score_is_told_from_a_probability_by_the_whole_split() -> None:
    """A last batch of one sample with a logit of 0.3 does not make it a probability."""
    scores, labels = np.float32([-2, 3, 1.5, -0.1, 0.3]), np.array([0, 1, 1, 0, 1])
    assert measured("accuracy", scores, labels, pieces=5)[0] == 1
    assert measured("f1_macro", scores, labels, pieces=5)[0] == 1


@pytest.mark.parametrize("name", ["accuracy", "f1_macro", "auroc"])
def test_labels_of_one_score_are_0_and_1_or_minus_1_and_1(name: str) -> None:
    labels = SEVERAL[:, 0]
    assert measured(name, SCORES[:, :1], 2 * labels - 1)[0] == measured(name, SCORES[:, :1], labels)[0]
    with pytest.raises(InputError, match="some are -1 and others 0: leave out samples without a label"):
        measured(name, SCORES[:, :1], labels - (np.arange(60) == np.flatnonzero(labels == 0)[0]))


def test_what_several_labels_a_sample_are_not_measured_by_is_said() -> None:
    with pytest.raises(InputError, match=r"one label for each sample, but there are 7, .* use f1_macro or auroc"):
        measured("accuracy", SCORES, SEVERAL)
    with pytest.raises(InputError, match="perplexity needs a score for each class"):
        measured("perplexity", SCORES, SEVERAL)
    with pytest.raises(InputError, match="-1 or 1, but one is 2: where a sample is of one class, give its number"):
        measured("auroc", SCORES, 2 * SEVERAL)


def test_classes_in_one_hot_rows_are_one_output_of_classes_or_several_labels_with_a_word(
        caplog: pytest.LogCaptureFixture) -> None:
    outputs, batch = {"output": torch.tensor(SCORES)}, (torch.zeros(len(SCORES)), np.eye(SCORES.shape[1])[LABELS])
    assert class_outputs(measures("accuracy"), outputs, batch) == {"output": "classes"}
    assert not caplog.text
    assert class_outputs(measures("f1_macro"), outputs, batch) == {}
    assert "f1_macro: labels have a score each" in caplog.text and "give class numbers" in caplog.text


def test_positions_without_a_class_are_not_counted() -> None:
    sequence = RNG.normal(size=(4, 9, 11)).astype(np.float32)
    labels = RNG.integers(0, 11, (4, 9))
    labels[:, 5:] = -100
    assert measured("accuracy", sequence, labels, pieces=1)[0] == pytest.approx(
        (sequence[:, :5].argmax(2) == labels[:, :5]).mean())
    nats = -np.take_along_axis(torch.tensor(sequence).log_softmax(2).numpy()[:, :5], labels[:, :5, None], 2).mean()
    assert measured("perplexity", sequence, labels, pieces=2)[0] == pytest.approx(np.exp(nats), rel=1e-5)
    masks = MASKS.copy()
    masks[:, :4] = 255
    kept = sk.jaccard_score(MASKS[:, 4:].ravel(), MAPS.argmax(1)[:, 4:].ravel(), average="macro")
    assert measured("miou", MAPS, masks)[0] == pytest.approx(kept)


def test_agreement_and_cosine_are_with_the_original() -> None:
    other = SCORES.copy()
    other[:6] = -other[:6]
    assert measured("agreement", SCORES, LABELS, SCORES)[0] == 1
    assert measured("agreement", other, LABELS, SCORES)[0] == pytest.approx(0.9)
    assert measured("cosine", 3 * SCORES, LABELS, SCORES)[0] == pytest.approx(1)
    assert measured("cosine", other, LABELS, SCORES)[0] == pytest.approx(0.8)
    assert metric("cosine").needs_original and not metric("cosine", targets=1).needs_original


@pytest.mark.parametrize(("name", "outputs", "targets", "message"), [
    ("accuracy", SCORES, TRUE[:, 0], "whole numbers"),
    ("accuracy", SCORES, LABELS + 1, "from 0 to 6"),
    ("accuracy", SCORES[:, :3, None], LABELS, "without the axis of classes"),
    ("top5", SCORES[:, :5], LABELS % 5, "more than 5 classes"),
    ("mae", NUMBERS, TRUE[:, :2], "same shape"),
    ("spearman", NUMBERS, TRUE, "one number for each sample"),
    ("rmse", NUMBERS, np.where(TRUE > 1, np.nan, TRUE), "targets must be finite, but .* leave these samples out"),
    ("miou", MAPS, MASKS + 1, "from 0 to 2"),
    ("auroc", MAPS, MASKS, r"scores \(N, classes\)"),
    ("map", NUMBERS, TRUE, "predictions=a function"),
])
def test_what_cannot_be_compared_is_said(name: str, outputs: np.ndarray, targets: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        measured(name, outputs, targets)


def test_which_output_and_which_targets_can_be_said() -> None:
    outputs, batch = {"a": SCORES, "b": SCORES[:, ::-1]}, {"image": None, "kind": LABELS}
    with pytest.raises(InputError, match="which of the outputs a, b"):
        metric("accuracy").of_batch(outputs, batch, {})
    with pytest.raises(InputError, match="needs targets"):
        metric("accuracy", predictions="a").of_batch(outputs, batch, {})
    named = metric("accuracy", predictions="b", targets="kind").of_batch(outputs, batch, {})
    by_function = metric("accuracy", predictions=lambda outputs_of: outputs_of["a"][:, ::-1].argmax(1),
                         targets=lambda batch_of: batch_of["kind"]).of_batch(outputs, batch, {})
    nested = metric("accuracy", predictions="b", targets="targets.kind").of_batch(
        outputs, {"targets": {"kind": LABELS}}, {})
    assert (named == by_function).all() and (named == nested).all() and 0 < named.mean() < 1


def test_every_name_has_a_heading_and_a_finite_error_of_one_sample() -> None:
    assert {"accuracy", "top5", "f1_macro", "auroc", "mae", "rmse", "r2", "spearman", "miou", "map", "map50", "cosine",
            "agreement", "perplexity"} == NAMED.keys()
    assert measured("rmse", NUMBERS[:1], TRUE[:1], pieces=1)[1] == 0
    assert 0 < measured("accuracy", SCORES[:1], LABELS[:1], pieces=1)[1] < 1


def test_the_standard_error_is_that_of_repeated_draws() -> None:
    """Of correlated pairs drawn afresh 200 times, within a third."""
    def draw(seed: int) -> tuple[float, float]:
        true = np.random.default_rng(seed).normal(size=(80, 2)) @ [[1, 0.8], [0, 0.6]]
        return measured("spearman", true[:, 0], true[:, 1], pieces=1)

    values, errors = zip(*(draw(seed) for seed in range(60)), strict=True)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.33)
