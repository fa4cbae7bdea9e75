"""Outputs are taken for what they are, and scores follow from them."""

from __future__ import annotations

import numpy as np
import pytest

from autocompress.tasks.classification.outputs import Meaning, as_scores, explanation, recognise

RAW = np.random.default_rng(0).normal(0, 3, (64, 5)).astype(np.float32)
SHARE = np.exp(RAW) / np.exp(RAW).sum(1, keepdims=True)
SIGMOID = 1 / (1 + np.exp(-RAW))


@pytest.mark.parametrize(("outputs", "sigmoid", "meaning"), [
    (RAW, False, "scores"), (SHARE, False, "probabilities"), (np.log(SHARE), False, "log-probabilities"),
    (SIGMOID, True, "independent probabilities"), (SIGMOID, False, "scores"), (np.maximum(RAW, 0), False, "scores"),
    (np.eye(5, dtype=np.float32), False, "probabilities"), (np.zeros((4, 5), np.float32), False, "scores"),
    (np.full((4, 5), np.nan, np.float32), False, "scores"), (np.ones((4, 1), np.float32), False, "scores"),
    (-np.abs(RAW), False, "scores"), (np.zeros((0, 5), np.float32), False, "scores"),
])
def test_the_meaning_is_recognised(outputs: np.ndarray, sigmoid: bool, meaning: Meaning) -> None:
    assert recognise(outputs, sigmoid) == meaning


@pytest.mark.parametrize(("outputs", "meaning"), [
    (RAW, "scores"), (SHARE, "probabilities"), (np.log(SHARE), "log-probabilities")])
def test_the_softmax_of_scores_is_the_distribution(outputs: np.ndarray, meaning: Meaning) -> None:
    scores = as_scores(outputs, meaning)
    assert scores.dtype == outputs.dtype
    share = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    np.testing.assert_allclose(share, SHARE, rtol=1e-4, atol=1e-6)
    assert bool(explanation(meaning)) == (meaning != "scores")


def test_scores_of_independent_probabilities_are_what_the_sigmoid_read() -> None:
    np.testing.assert_allclose(as_scores(SIGMOID, "independent probabilities"), RAW, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("meaning", ["probabilities", "independent probabilities"])
def test_scores_of_sure_answers_are_finite(meaning: Meaning) -> None:
    assert np.isfinite(as_scores(np.eye(5, dtype=np.float32), meaning)).all()
