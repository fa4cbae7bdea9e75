"""Model selection by the rule of one standard error (Breiman et al., 1984)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autocompress.core.metric import Metric, Metrics


def best_of(measured: Sequence[Metrics], metric: Metric) -> int:
    """Return the index of the best of one or more models, by the rule of one standard error.

    Of the models that are no more than one standard error of `metric` worse than the one that is highest in it, the
    best has the least value of the finer metric (`Metric.finer`); of equals the first. A few thousand samples do not
    tell such values apart, but every sample contributes to the finer metric. Where a model lacks that, the best is
    the highest in `metric`.

    Source: Breiman et al., "Classification and Regression Trees" (1984).
    """
    if len(measured) == 1:
        return 0
    missing = 0.0 if metric.higher_is_better else -np.inf
    qualities = np.nan_to_num([metric.quality(metrics, missing) for metrics in measured], nan=missing).tolist()
    highest = max(range(len(measured)), key=qualities.__getitem__)
    least = qualities[highest] - measured[highest].get(metric.error, 0.0)
    near = [i for i, quality in enumerate(qualities) if quality >= least]
    if any(metric.finer not in measured[i] for i in near):
        return highest
    return min(near, key=lambda i: measured[i][metric.finer])
