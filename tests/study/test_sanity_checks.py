"""An original that is not used as it was trained, and a result that has lost too much, are called so."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from autocompress.core.warnings import Warned, collecting, warn
from autocompress.tasks.classification.sanity_checks import ClassAnswers, original_doubts, rarest, result_doubts

CLASSES = 10
TARGETS = np.arange(400) % CLASSES


def _answers(share: float, targets: np.ndarray = TARGETS, classes: int = CLASSES, order: np.ndarray | None = None,
             names: tuple[str, ...] = ()) -> ClassAnswers:
    """Right on about a `share` of the samples; the labels of the answers in another `order`, if given."""
    rng = np.random.default_rng(0)
    answers = np.where(rng.random(len(targets)) < share, targets, rng.integers(0, classes, len(targets)))
    return ClassAnswers(targets, answers if order is None else order[answers], classes, names)


def _codes(doubts: list[Warned]) -> list[str]:
    return [warned.code for warned in doubts]


SKEWED = np.r_[np.zeros(360, int), np.arange(1, 5).repeat(10)]


@pytest.mark.parametrize(("answers", "codes"), [
    (_answers(0.95), []),
    (_answers(0.4), []),
    (_answers(0.0), ["original-near-chance"]),
    (ClassAnswers(TARGETS, np.full(400, 3), CLASSES), ["original-one-answer"]),
    (_answers(0.95, order=np.roll(np.arange(CLASSES), 1)), ["original-near-chance", "label-order"]),
    (_answers(0.95, order=np.r_[np.arange(2, CLASSES), 0, 1]), ["original-near-chance", "label-order"]),
    (_answers(0.95, order=np.r_[1, 0, 3, 2, 5, 4, np.arange(6, CLASSES)]), ["label-order"]),
    (_answers(0.99, SKEWED, 5), []),
    (ClassAnswers(SKEWED, np.where(np.arange(400) % 40 == 0, 1, 0), 5), ["original-at-majority"]),
    (_answers(0.0, np.arange(40) % 2, 2), ["original-near-chance"]),
])
def test_doubts_about_the_original(answers: ClassAnswers, codes: list[str]) -> None:
    assert _codes(original_doubts(answers, None, "divided by 255")) == codes


def test_they_name_causes_and_classes() -> None:
    names = tuple("abcdefghij")
    near, order = original_doubts(_answers(0.95, order=np.roll(np.arange(CLASSES), 1), names=names), None, "mean 0.5")
    assert "(here: mean 0.5)" in near.message and "weights of another network" in near.message
    assert "a is output 9, b is output 0" in order.message


def test_weights_that_say_more_are_believed() -> None:
    answers = _answers(0.8)
    assert _codes(original_doubts(answers, ("metric", answers.accuracy + 0.02), "")) == []
    (doubt,) = original_doubts(answers, ("best_acc1", 0.97), "")
    assert doubt.code == "original-below-its-weights" and "97.00% (best_acc1)" in doubt.message


@pytest.mark.parametrize(("result", "codes"), [
    (_answers(0.93), []),
    (_answers(0.7), ["result-far-below-original"]),
    (_answers(0.0), ["result-near-chance", "result-far-below-original"]),
    (ClassAnswers(TARGETS, np.where(TARGETS > 7, 1, TARGETS), CLASSES), ["result-far-below-original", "classes-lost"]),
    (ClassAnswers(TARGETS, np.zeros(400, int), CLASSES),
     ["result-one-answer", "result-far-below-original", "classes-lost"]),
])
def test_doubts_about_the_result(result: ClassAnswers, codes: list[str]) -> None:
    assert _codes(result_doubts(_answers(0.95), result, [100] * CLASSES)) == codes


def test_a_few_samples_prove_nothing() -> None:
    targets = np.arange(30) % 3
    worse = np.r_[(targets[:2] + 1) % 3, targets[2:]]
    assert result_doubts(ClassAnswers(targets, targets, 3), ClassAnswers(targets, worse, 3), [100] * 3) == []


def test_what_became_of_the_rarest() -> None:
    targets = np.r_[np.zeros(100, int), np.ones(100, int), 2, 2, 3]
    original, trained = ClassAnswers(targets, targets, 4, ("a", "b", "c", "d")), [500, 400, 3, 1]
    result = ClassAnswers(targets, np.r_[targets[:200], 2, 0, 1], 4, ("a", "b", "c", "d"))
    rows = rarest(original, result, trained)
    assert [(row["class"], row["original_right"], row["right"], row["test_samples"]) for row in rows[:2]] == [
        ("d", 1, 0, 1), ("c", 2, 1, 2)]
    doubts = result_doubts(original, result, trained)
    assert _codes(doubts) == ["classes-lost", "rarest-classes-worse"]
    assert "never answers d," in doubts[0].message
    assert "d (1 training samples) 1 → 0 of 1, c (3 training samples) 2 → 1 of 2" in doubts[1].message
    assert rarest(original, result, [100, 100, 50, 40]) == []


def test_warnings_are_collected_once_with_their_codes() -> None:
    log = logging.getLogger("autocompress.tasks.some_place")
    with collecting() as collector:
        warn(log, Warned("label-order", "100% of them"))
        log.warning("left out %d", 3)
        log.warning("left out %d", 3)
        log.info("not this")
    log.warning("nor this")
    assert collector.warnings == [Warned("label-order", "100% of them"), Warned("some-place", "left out 3")]
