"""Metrics of numbers: predictions `(N, …)` against targets of the same shape."""

from __future__ import annotations

import numpy as np

from autocompress.errors import InputError


def alike(predictions: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 of one shape `(N, …)`; axes of length 1 may differ.

    Raises:
        InputError: where they cannot be compared.
    """
    if predictions.shape != targets.shape:
        if np.squeeze(predictions).shape != np.squeeze(targets).shape or len(predictions) != len(targets):
            raise InputError(f"predictions and targets must have the same shape, but are {predictions.shape} and "
                             f"{targets.shape}: give autocompress.metric(…, predictions=…, targets=…)")
        targets = targets.reshape(predictions.shape)
    return predictions.astype(np.float64), targets.astype(np.float64)


def _compared(predictions: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `alike`. InputError where targets are not finite too."""
    predictions, targets = alike(predictions, targets)
    missing = int((~np.isfinite(targets)).sum())
    if missing:
        raise InputError(f"targets must be finite, but {missing} of {targets.size} are NaN or infinite: leave these "
                         "samples out, or give a function of outputs and batch that leaves them out")
    return predictions, targets


def absolute_errors(predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Mean absolute error of each sample `(N,)`."""
    predictions, targets = _compared(predictions, targets)
    return np.abs(predictions - targets).reshape(len(targets), -1).mean(1)  # type: ignore[no-any-return]


def squared_errors(predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Mean squared error of each sample `(N,)`."""
    predictions, targets = _compared(predictions, targets)
    return np.square(predictions - targets).reshape(len(targets), -1).mean(1)  # type: ignore[no-any-return]


def root_of_mean(rows: np.ndarray) -> float:
    """The root of the mean."""
    return float(np.sqrt(rows.mean()))


def sums_by_channel(predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """For each sample and channel: sum of squared errors, of targets, of their squares, and their number,
    `(N, channels, 4)`. Channels are axis 1, and positions behind it are summed over."""
    predictions, targets = _compared(predictions, targets)
    shape = (len(targets), targets.shape[1] if targets.ndim > 1 else 1, -1)
    errors, values = np.square(predictions - targets).reshape(shape), targets.reshape(shape)
    count = np.full(values.shape[:2], values.shape[2], np.float64)
    return np.stack([errors.sum(2), values.sum(2), np.square(values).sum(2), count], 2)


def explained(rows: np.ndarray) -> float:
    """The coefficient of determination, the mean over channels whose targets vary; NaN where none does."""
    errors, sums, squares, count = rows.sum(0).T
    spread = squares - sums**2 / count
    varies = spread > 1e-12 * np.maximum(squares, 1e-300)
    return float((1 - errors[varies] / spread[varies]).mean()) if varies.any() else np.nan


def pairs(predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Prediction and target of each sample, `(N, 2)`."""
    predictions, targets = _compared(predictions, targets)
    if predictions.size != len(predictions):
        raise InputError(f"spearman needs one number for each sample, but predictions are {predictions.shape}: give "
                         "autocompress.metric('spearman', predictions=…), such as the similarity of two outputs")
    return np.stack([predictions.reshape(-1), targets.reshape(-1)], 1)


def rank_correlation(rows: np.ndarray) -> float:
    """Spearman's rank correlation; NaN where all predictions or all targets are equal."""
    if (rows == rows[0]).all(0).any():
        return np.nan
    from scipy.stats import spearmanr  # half a second, which starting a search need not take

    return float(spearmanr(rows[:, 0], rows[:, 1]).statistic)


def cosines(predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Cosine of the angle between prediction and target of each sample `(N,)`; 0 for a vector of zeros. Where targets
    are NaN, nothing is compared."""
    predictions, targets = (each.reshape(len(each), -1) for each in alike(predictions, targets))
    predictions, targets = (np.where(np.isnan(targets), 0, each) for each in (predictions, targets))
    lengths = np.linalg.norm(predictions, axis=1) * np.linalg.norm(targets, axis=1)
    return (predictions * targets).sum(1) / np.maximum(lengths, 1e-12)  # type: ignore[no-any-return]
