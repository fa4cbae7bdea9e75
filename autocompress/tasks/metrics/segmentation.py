"""The metric of maps of classes: mean intersection over union."""

from __future__ import annotations

import numpy as np

from autocompress.errors import InputError
from autocompress.tasks.classification.measures import answers, border_of, checked_labels, class_axis


def overlaps(predictions: np.ndarray, labels: np.ndarray, border: float | None = None) -> np.ndarray:
    """Pixels in intersection and in union of each sample and class, `(N, classes, 2)`.

    Args:
        predictions: scores `(N, classes, …)`; of two classes also one logit or probability `(N, 1, …)` or `(N, …)`.
        labels: classes `(N, …)`; negative ones, and 255 beside fewer classes, are not counted.
        border: see `border_of`.

    Raises:
        InputError: for a label that is no class.
    """
    if labels.ndim == predictions.ndim and labels.shape[1] == 1:
        labels = labels[:, 0]
    labels = checked_labels(labels)
    predictions = _of_two_classes(predictions, labels, border)
    axis = class_axis(predictions, labels)
    classes, counted = predictions.shape[axis], labels >= 0
    unknown = counted & (labels >= classes)
    if (unknown & (labels != 255)).any():
        raise InputError(f"labels must be from 0 to {classes - 1}, for {classes} scores, but one is "
                         f"{int(labels[unknown & (labels != 255)][0])}")
    counted &= ~unknown
    counts = np.zeros((len(labels), classes, 2))
    for row, answered in enumerate(answers(predictions, labels)):
        true, predicted = labels[row][counted[row]], answered[counted[row]]
        common = np.bincount(true[true == predicted], minlength=classes)
        union = np.bincount(true, minlength=classes) + np.bincount(predicted, minlength=classes) - common
        counts[row] = np.stack([common, union], 1)
    return counts


def _of_two_classes(predictions: np.ndarray, labels: np.ndarray, border: float | None) -> np.ndarray:
    """Scores of two classes `(N, 2, …)` where there is one for each label, the second's; that of the first is the
    border. Any other predictions as they are."""
    single = predictions[:, None] if predictions.shape == labels.shape else predictions
    if single.dtype.kind != "f" or single.shape != (len(labels), 1, *labels.shape[1:]):
        return predictions
    return np.concatenate([np.full_like(single, border_of(single) if border is None else border), single], 1)


def mean_iou(rows: np.ndarray) -> float:
    """The mean, over the classes that are there, of intersection over union over all samples; NaN where nothing is
    there."""
    common, union = rows.sum(0).T
    there = union > 0
    return float((common[there] / union[there]).mean()) if there.any() else np.nan
