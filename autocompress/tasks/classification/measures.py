"""Metrics of classes by name: scores `(N, classes, …)` or `(N, …, classes)` against labels `(N, …)`; of two classes
also one score `(N,)`, and of several labels a sample, 0 or 1 each, scores of the labels' shape."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import log_softmax, softmax

from autocompress.core.metric import Metric
from autocompress.errors import InputError
from autocompress.tasks.classification.metric import ACCURACY
from autocompress.tasks.metrics.measure import OfSamples
from autocompress.tasks.metrics.selection import ORIGINAL


def class_axis(scores: np.ndarray, labels: np.ndarray) -> int:
    """The axis of scores that labels `(N, …)` do not have: the second where that fits, else the last.

    Raises:
        InputError: where neither fits.
    """
    shape = scores.shape
    for axis in (1, scores.ndim - 1):
        if scores.ndim == labels.ndim + 1 and shape[:axis] + shape[axis + 1:] == labels.shape:
            return axis
    raise InputError(f"labels must have the shape of scores without the axis of classes, but are {labels.shape} for "
                     f"scores {shape}: give autocompress.metric(…, predictions=…, targets=…)")


def answers(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The classes answered: predictions that are whole numbers of the labels' shape, or where scores are largest."""
    if predictions.shape == labels.shape and predictions.dtype.kind in "biu":
        return predictions
    largest: np.ndarray = predictions.argmax(class_axis(predictions, labels))
    return largest


def checked_labels(labels: np.ndarray) -> np.ndarray:
    """Labels `(N, …)` as whole numbers. InputError unless they are; `(N, 1)` is taken for `(N,)`."""
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.dtype.kind == "f" and np.equal(labels, np.round(labels)).all():  # as binary cross-entropy takes them
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "biu":
        raise InputError(f"labels of classes must be whole numbers, but are {labels.dtype}")
    return labels


def of_two(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
    """Labels and scores `(N, 2, L)` where each of `L` labels has one score, which says whether it is there; else None.

    Args:
        predictions: scores `(N, L)`, or `(N,)`.
        labels: 0 or 1 `(N, L)`, or `(N,)`; or -1 or 1, which `_truth` tells apart.

    Raises:
        InputError: for another label.
    """
    scores, truth = (each[:, None] if each.ndim == 1 else each for each in (predictions, labels))
    if scores.dtype.kind != "f" or scores.shape != truth.shape or scores.ndim != 2:
        return None
    if not np.isin(truth, (-1, 0, 1)).all():
        raise InputError("labels that have one score each must be 0 or 1, or -1 or 1, but one is "
                         f"{truth[~np.isin(truth, (-1, 0, 1))][0]}: where a sample is of one class, give its number")
    return np.stack([truth.astype(np.float64), scores.astype(np.float64)], 1)


def is_multi_label(shape: Sequence[int], labels: np.ndarray) -> bool:
    """Whether labels `(N, L)` are several for each sample, with a score each in an output of that shape."""
    return len(shape) == 2 and shape[1] > 1 and labels.shape[1:] == tuple(shape[1:])


def one_hot(labels: np.ndarray) -> bool:
    """Whether labels `(N, L)`, 0 or 1, hold exactly one for each sample, as classes written in one-hot rows do."""
    return bool((labels.sum(1) == 1).all())


def border_of(scores: np.ndarray) -> float:
    """The score above which one score of two classes is of the second: 1/2 where all lie between 0 and 1, as
    probabilities do, else the 0 of logits."""
    return 0.5 if bool((scores >= 0).all() and (scores <= 1).all()) else 0.0


def settled(rows: np.ndarray, border: float | None = None) -> np.ndarray:
    """What `right` keeps of all samples as one number each; `border` of scores of two classes, see `border_of`."""
    return rows if rows.ndim < 3 else (_truth(rows) == _answered(rows, border)).mean(1)  # type: ignore[no-any-return]


def right(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """For each sample 1 where the class is right, of maps and sequences the share of positions; negative labels and
    255 beside fewer classes are not counted. Of one score for two classes, what `of_two` keeps. Classes may be one-hot
    rows."""
    if (pairs := of_two(predictions, labels)) is not None:
        if pairs.shape[2] > 1 and one_hot(_truth(pairs)):
            return (pairs[:, 1].argmax(1) == pairs[:, 0].argmax(1)).astype(np.float64)  # type: ignore[no-any-return]
        if pairs.shape[2] > 1:
            raise InputError(f"accuracy needs one label for each sample, but there are {pairs.shape[2]}, with a score "
                             "each: use f1_macro or auroc, or a function of outputs and batch")
        return pairs
    labels = checked_labels(labels)
    same = (answers(predictions, labels) == labels).astype(np.float64)
    return _mean_of_counted(same, _counted(predictions, labels))


def among_five(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """As `right`, where the label is among the five classes of the largest scores."""
    labels = checked_labels(labels)
    scores = np.moveaxis(predictions, class_axis(predictions, labels), -1)
    if scores.shape[-1] <= 5:
        raise InputError(f"top5 needs more than 5 classes, but there are {scores.shape[-1]}: use accuracy")
    best = np.argpartition(scores, -5, axis=-1)[..., -5:]
    return _mean_of_counted((best == labels[..., None]).any(-1).astype(np.float64), _counted(predictions, labels))


def same_class(predictions: np.ndarray, original: np.ndarray) -> np.ndarray:
    """For each sample the share of positions to which the original, `(N, classes, …)`, gives the same class; those
    where it is NaN are not counted."""
    if predictions.ndim < 2 or predictions.shape[1] < 2:
        raise InputError(f"agreement needs scores (N, classes, …), but the output is {predictions.shape}: for other "
                         "outputs use cosine, or leave the metric out")
    same = (predictions.argmax(1) == original.argmax(1)).astype(np.float64)
    return _mean_of_counted(same, ~np.isnan(original).any(1))


def labels_and_answers(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Label and answer of each sample, `(N, 2)`; of labels with one score each, what `of_two` keeps."""
    if (pairs := of_two(predictions, labels)) is not None:
        return pairs
    labels = checked_labels(labels)
    answered = answers(predictions, labels)
    if labels.ndim != 1:
        raise InputError(f"f1_macro needs one label for each sample, but labels are {labels.shape}: for maps use miou")
    return np.stack([labels, answered], 1)


def f1_macro(pairs: np.ndarray, border: float | None = None) -> float:
    """The mean over classes of F1, of pairs `(N, 2)` of labels and answers; over labels, of `(N, 2, L)`, where a sample
    has several. `border` of scores of two classes, see `border_of`."""
    from sklearn.metrics import f1_score  # importing it takes as long as a small search does to start

    if pairs.ndim == 3 and pairs.shape[2] > 1:
        return float(f1_score(_truth(pairs), _answered(pairs, border), average="macro", zero_division=0))
    if pairs.ndim == 3:
        pairs = np.stack([_truth(pairs)[:, 0], _answered(pairs, border)[:, 0]], 1)
    return float(f1_score(pairs[:, 0], pairs[:, 1], average="macro", zero_division=0))


def labels_and_shares(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Label and probability of each class, `(N, 1 + classes)`; of two classes that of the second; of labels with one
    score each, what `of_two` keeps."""
    if (pairs := of_two(predictions, labels)) is not None:
        return pairs
    labels = checked_labels(labels)
    if class_axis(predictions, labels) != 1 or predictions.ndim != 2:
        raise InputError(f"auroc needs scores (N, classes), but they are {predictions.shape}")
    shares = predictions if _are_shares(predictions) else softmax(predictions.astype(np.float64), axis=1)
    if shares.shape[1] == 2:
        shares = predictions[:, 1:] - predictions[:, :1]  # ranks as the probability does, and does not saturate
    return np.concatenate([labels[:, None], shares], 1)


def auroc(rows: np.ndarray) -> float:
    """The area under the curve of true against false positives; of several classes the mean of each against the rest,
    of those that are there; of several labels a sample the mean over labels. NaN where there is one class."""
    if rows.ndim == 3:
        return _mean_area(_truth(rows), rows[:, 1])
    labels, shares = rows[:, 0].astype(np.int64), rows[:, 1:]
    if shares.shape[1] == 1:
        return _area(labels == 1, shares[:, 0]) if 0 < (labels == 1).sum() < len(labels) else np.nan
    return _mean_area(labels[:, None] == np.arange(shares.shape[1]), shares)


def surprise(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Sum over positions of the negative log-probability of the label, and their number, `(N, 2)`; negative labels,
    such as -100, are not counted."""
    if of_two(predictions, labels) is not None:
        raise InputError("perplexity needs a score for each class, but there is one for each label: use auroc, or a "
                         "function of outputs and batch")
    labels = checked_labels(labels)
    scores = np.moveaxis(predictions, class_axis(predictions, labels), -1).astype(np.float64)
    counted = _counted(predictions, labels)
    nats = -np.take_along_axis(log_softmax(scores, axis=-1), np.where(counted, labels, 0)[..., None], -1)[..., 0]
    nats, counted = (nats * counted).reshape(len(labels), -1), counted.reshape(len(labels), -1)
    return np.stack([nats.sum(1), counted.sum(1)], 1)  # type: ignore[no-any-return]


def perplexity(rows: np.ndarray) -> float:
    """The exponential of the mean negative log-probability."""
    return float(np.exp(rows[:, 0].sum() / max(1, rows[:, 1].sum())))


def _mean_area(truth: np.ndarray, shares: np.ndarray) -> float:
    """The mean of the areas of columns `(N, L)` in which some rows are true and others are not."""
    areas = [_area(truth[:, place], shares[:, place]) for place in range(truth.shape[1])
             if 0 < truth[:, place].sum() < len(truth)]
    return float(np.mean(areas)) if areas else np.nan


def _area(truth: np.ndarray, scores: np.ndarray) -> float:
    """The area under the curve of true against false positives, of one column `(N,)`."""
    from sklearn.metrics import roc_auc_score  # as above

    return float(roc_auc_score(truth, scores))


def _truth(pairs: np.ndarray) -> np.ndarray:
    """Which labels `(N, L)` are there, of labels and scores `(N, 2, L)`. InputError where labels are -1, 0 and 1."""
    labels = pairs[:, 0]
    if (labels == -1).any() and (labels == 0).any():
        raise InputError("labels that have one score each must be 0 or 1, or -1 or 1, but some are -1 and others 0: "
                         "leave out samples without a label, and give the others 0 and 1")
    return labels == 1  # type: ignore[no-any-return]


def _answered(pairs: np.ndarray, border: float | None) -> np.ndarray:
    """Which labels `(N, L)` are said to be there, of labels and scores `(N, 2, L)`."""
    return pairs[:, 1] > (border_of(pairs[:, 1]) if border is None else border)  # type: ignore[no-any-return]


def _counted(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which labels `(N, …)` are counted. InputError for one that is no class, where samples have one label each."""
    if predictions.shape == labels.shape:
        return np.ones(labels.shape, bool)
    classes = predictions.shape[class_axis(predictions, labels)]
    counted: np.ndarray = (labels >= 0) & (labels < classes)
    unknown = ~counted if labels.ndim == 1 else (labels >= classes) & (labels != 255)
    if unknown.any():
        raise InputError(f"labels must be from 0 to {classes - 1}, for {classes} scores, but one is "
                         f"{int(labels[unknown][0])}")
    return counted


def _mean_of_counted(values: np.ndarray, counted: np.ndarray) -> np.ndarray:
    sums, counts = ((each.reshape(len(each), -1)).sum(1) for each in (values * counted, counted))
    mean: np.ndarray = sums / np.maximum(1, counts)
    return mean


def _are_shares(scores: np.ndarray) -> bool:
    return bool((scores >= 0).all() and (np.abs(scores.sum(1) - 1) < 1e-3).all())


# What is kept of samples by metrics that take one score of two classes as it is.
OF_ONE_SCORE = frozenset((right, labels_and_answers, labels_and_shares))

CLASS_MEASURES = (
    OfSamples(Metric(ACCURACY.name, unit="%"), right, settle=settled),
    OfSamples(Metric("top5", unit="%", title="Top-5 accuracy"), among_five),
    OfSamples(Metric("f1_macro", unit="%", title="Macro F1"), labels_and_answers, f1_macro),
    OfSamples(Metric("auroc", unit="%", title="AUROC"), labels_and_shares, auroc,
              needs="samples of several classes in a split"),
    OfSamples(Metric("perplexity", higher_is_better=False), surprise, perplexity),
    OfSamples(Metric("agreement", unit="%", title="Agreement with the original"), same_class, targets=ORIGINAL),
)
