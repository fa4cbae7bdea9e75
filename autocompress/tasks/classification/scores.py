"""How good a classifier is, by its answers to samples."""

from __future__ import annotations

import math

import numpy as np

# Temperatures between which the cross-entropy is sought.
SHARPEST, SOFTEST = 1 / 30, 30.0
# Of that interval, in its logarithm: what is left of it changes the cross-entropy by a millionth.
HALVINGS = 14


def scores(logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """`accuracy` of finite `logits` `(N, classes)` against the labels `targets` `(N,)`, 0 to 1, its standard error
    `accuracy_error` (Agresti & Coull, 1998: not zero where all is right), and `cross_entropy` in nats a sample.

    That is taken at the temperature at which it is least (Guo et al., "On Calibration of Modern Neural Networks", ICML
    2017): how sure a network is depends on the share of labels in its training, and changes none of its answers.
    """
    count = len(targets)
    right = int((logits.argmax(axis=1) == targets).sum())
    share = (right + 2) / (count + 4)
    return {"accuracy": right / count, "accuracy_error": math.sqrt(share * (1 - share) / (count + 4)),
            "cross_entropy": _least_cross_entropy(logits - logits.max(axis=1, keepdims=True), targets)}


def _least_cross_entropy(logits: np.ndarray, targets: np.ndarray) -> float:
    """By halving: it is convex in the inverse of the temperature. `logits` are 0 at most."""
    of_targets = logits[np.arange(len(targets)), targets]
    low, high = math.log(SHARPEST), math.log(SOFTEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        weights = np.exp(logits * np.float32(math.exp(-middle)))
        expected = (weights * logits).sum(axis=1) / weights.sum(axis=1)
        too_sharp = (expected - of_targets).mean(dtype=np.float64) > 0
        low, high = (middle, high) if too_sharp else (low, middle)
    sharpness = np.float32(math.exp(-(low + high) / 2))
    return float((np.log(np.exp(logits * sharpness).sum(axis=1)) - of_targets * sharpness).mean(dtype=np.float64))
