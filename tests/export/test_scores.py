"""Accuracy, its error and cross-entropy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from autocompress.tasks.classification.scores import scores


def test_cross_entropy_is_that_of_the_best_temperature() -> None:
    random = np.random.default_rng(0)
    targets = random.integers(0, 5, 400)
    logits = (random.normal(size=(400, 5)) + 2 * np.eye(5)[targets]).astype(np.float32)
    result = scores(logits, targets)
    by_grid = min(float(F.cross_entropy(torch.from_numpy(logits) / t, torch.from_numpy(targets)))
                  for t in np.exp(np.linspace(-1.5, 1.5, 601)))
    assert result["cross_entropy"] == pytest.approx(by_grid, abs=1e-5)
    for sharper in (0.2, 7.0):  # says the same, only louder
        assert scores(sharper * logits, targets) == pytest.approx(result, abs=1e-4)


def test_accuracy_and_its_standard_error() -> None:
    logits = np.eye(4, dtype=np.float32)[np.zeros(1000, int)]
    targets = np.repeat([0, 1], [900, 100])
    result = scores(logits, targets)
    assert result["accuracy"] == 0.9
    assert result["accuracy_error"] == pytest.approx(np.sqrt(0.9 * 0.1 / 1000), rel=0.02)
    assert 0 < scores(logits, np.zeros(1000, int))["accuracy_error"] < 0.003  # all right, and yet not sure


def test_scores_of_answers_that_are_never_in_doubt_are_finite() -> None:
    logits = 1e4 * np.eye(3, dtype=np.float32)
    assert all(np.isfinite(value) for value in scores(logits, np.arange(3)).values())
    assert all(np.isfinite(value) for value in scores(logits, np.array([1, 2, 0])).values())
