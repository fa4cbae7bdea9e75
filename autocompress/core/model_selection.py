"""Which of several measured models is the best, as far as the samples that they were measured on can say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def best_of(measured: Sequence[Mapping[str, float]]) -> int:
    """Which of one or more models, each known by its metrics, is the best: of those that are no more than a standard
    error less accurate than the most accurate one, that of least cross-entropy; of equals the first.

    The rule of one standard error (Breiman et al., "Classification and Regression Trees", 1984): a few thousand samples
    do not tell such accuracies apart, but every one of them has its part in the cross-entropy. Where that is not known
    of all of those, the most accurate.
    """
    accuracies = [np.nan_to_num(metrics.get("accuracy", 0.0)) for metrics in measured]
    highest = max(range(len(measured)), key=accuracies.__getitem__)
    least = accuracies[highest] - measured[highest].get("accuracy_error", 0.0)
    near = [i for i, accuracy in enumerate(accuracies) if accuracy >= least]
    if any("cross_entropy" not in measured[i] for i in near):
        return highest
    return min(near, key=lambda i: measured[i]["cross_entropy"])
