"""How far a classifier's probabilities are from the shares in which it is right."""

from __future__ import annotations

import numpy as np

from autocompress.tasks.classification.outputs import Meaning, as_scores

# Of equal width, as in the source.
BINS = 15


def confidences(outputs: np.ndarray, meaning: Meaning) -> np.ndarray:
    """The probability `(N,)` of the class that is answered, of outputs `(N, classes)` of that meaning."""
    if meaning == "independent probabilities":
        return np.asarray(outputs.max(axis=1))
    scores = as_scores(outputs, meaning).astype(np.float64)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(1 / weights.sum(axis=1))


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """The expected calibration error: the mean over samples of the difference between probability and share of right
    answers in bins of the probability (Naeini et al., AAAI 2015; Guo et al., ICML 2017).

    Args:
        confidence: probabilities `(N,)`, 0 to 1.
        right: whether each answer is right, bool `(N,)`.
    """
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    count = np.bincount(bins, minlength=BINS)
    difference = np.bincount(bins, confidence, BINS) - np.bincount(bins, right, BINS)
    return float(np.abs(difference).sum() / max(1, count.sum()))
