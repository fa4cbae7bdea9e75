"""Metrics of detected boxes: average precision as COCO defines it (Lin et al., "Microsoft COCO", ECCV 2014).

Boxes are `(x0, y0, x1, y1)` in any unit. Of each class and picture the 100 boxes of highest score count; precision is
interpolated at 101 recalls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autocompress.errors import InputError
from autocompress.tasks.metrics.selection import FileOutputs, as_array

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MOST_BOXES = 100


@dataclass(frozen=True)
class Matches:
    """The detections of one picture, and which are right.

    `classes` and `scores` `(K,)`; `right` `(K, thresholds)`: 1, or 0, or -1 where a detection does not count;
    `true_boxes`: the number of true boxes by class.
    """

    classes: np.ndarray
    scores: np.ndarray
    right: np.ndarray
    true_boxes: dict[int, int]


def matched(predictions: Any, targets: Any) -> np.ndarray:
    """The matches of each picture, an array `(N,)` of `Matches`.

    Args:
        predictions: for each picture a mapping of `boxes` `(K, 4)`, `scores` `(K,)` and, of several classes, `labels`
            `(K,)`, or a tuple of these three; or one mapping of arrays `(N, K, …)`, in which labels below 0 or scores
            of 0 are padding.
        targets: the same without scores; beside them perhaps `ignored` `(K,)`: boxes that do not count, nor does a
            detection that lies in one and is not right, as COCO has it of crowds.

    Raises:
        InputError: for anything else.
    """
    predicted, true = pictures(predictions, "predictions", True), pictures(targets, "targets", False)
    if len(predicted) != len(true):
        raise InputError(f"predictions and targets must be of the same pictures, but are of {len(predicted)} and "
                         f"{len(true)}")
    rows = np.empty(len(true), object)
    rows[:] = [_match(*pair) for pair in zip(predicted, true, strict=True)]
    return rows


def pictures(value: Any, what: str, scored: bool) -> list[dict[str, np.ndarray]]:
    """Boxes `(K, 4)`, labels `(K,)` and, where `scored`, scores `(K,)` of each picture. InputError where they are not
    there."""
    keys = ("boxes", "scores") if scored else ("boxes",)
    if isinstance(value, Mapping):
        if not all(key in value for key in keys):
            raise InputError(f"{what} must be boxes, with {', '.join(keys)} and labels for each picture, but are "
                             f"{', '.join(map(str, value))}: give autocompress.metric('map', "
                             f"{what}=a function that makes them)")
        value = [{key: value[key][row] for key in (*keys, "labels") if key in value}
                 for row in range(len(value["boxes"]))]
    if not isinstance(value, Sequence):
        raise InputError(f"{what} must be a list with the {_listed(keys)} of each picture, but are "
                         f"{type(value).__name__}: give autocompress.metric('map', {what}=a function that makes them)")
    return [_picture(_by_name(each, what, keys), what, scored) for each in value]


def _by_name(image: Any, what: str, keys: tuple[str, ...]) -> Mapping[str, Any]:
    """What is given of one picture as a mapping: it may be a tuple of boxes, scores where there are any, and labels."""
    if isinstance(image, tuple | list) and len(image) in (len(keys), len(keys) + 1):
        image = dict(zip((*keys, "labels"), image, strict=False))
    if not isinstance(image, Mapping) or "boxes" not in image:
        told = f"a mapping of {', '.join(map(str, image))}" if isinstance(image, Mapping) else type(image).__name__
        raise InputError(f"{what} must be a list with the {_listed(keys)} of each picture, as a mapping or a tuple, "
                         f"but of a picture are {told}: give autocompress.metric('map', {what}=a function that makes "
                         "them)")
    return image


def _listed(keys: tuple[str, ...]) -> str:
    return f"{', '.join(keys)} and labels"


def _picture(image: Mapping[str, Any], what: str, scored: bool) -> dict[str, np.ndarray]:
    boxes = as_array(image["boxes"], f"{what}: boxes").astype(np.float64).reshape(-1, 4)
    labels = as_array(image["labels"], f"{what}: labels").astype(np.int64).reshape(-1) if "labels" in image else \
        np.zeros(len(boxes), np.int64)
    if not scored and not (boxes[:, :2] <= boxes[:, 2:]).all():  # not of a number either
        wrong = boxes[~(boxes[:, :2] <= boxes[:, 2:]).all(1)][0]
        raise InputError(f"{what} must be boxes (x0, y0, x1, y1) with x0 ≤ x1 and y0 ≤ y1, but one is "
                         f"({', '.join(f'{side:g}' for side in wrong)})")
    columns = {"boxes": boxes, "labels": labels, "ignored": np.zeros(len(boxes), bool)}
    if "ignored" in image:
        columns["ignored"] = as_array(image["ignored"], f"{what}: ignored").astype(bool).reshape(-1)
    used = labels >= 0
    if scored:
        if "scores" not in image:
            raise InputError(f"{what} must have scores for their boxes, but have {', '.join(map(str, image))}")
        columns["scores"] = as_array(image["scores"], f"{what}: scores").astype(np.float64).reshape(-1)
        used = used & (columns["scores"] > 0) if len(columns["scores"]) == len(used) else used
    if len({len(column) for column in columns.values()}) > 1:
        raise InputError(f"{what} must have as many labels and scores as boxes, but a picture has "
                         f"{', '.join(f'{len(column)} {name}' for name, column in columns.items())}")
    return {name: column[used] for name, column in columns.items()}


def _match(predicted: dict[str, np.ndarray], true: dict[str, np.ndarray]) -> Matches:
    """Each detection, the surest first, takes the true box of its class that it overlaps most and that is free."""
    classes, scores, right = [], [], []
    for label in np.unique(predicted["labels"]):
        mine = np.flatnonzero(predicted["labels"] == label)
        mine = mine[np.argsort(-predicted["scores"][mine], kind="stable")][:MOST_BOXES]
        counted, ignored = (true["boxes"][(true["labels"] == label) & (true["ignored"] == which)]
                            for which in (False, True))
        overlap = box_iou(predicted["boxes"][mine], counted)
        inside = covered(predicted["boxes"][mine], ignored)
        classes.append(np.full(len(mine), label))
        scores.append(predicted["scores"][mine])
        taken = np.stack([_taken(overlap, threshold) for threshold in THRESHOLDS], 1).astype(np.int8)
        right.append(np.where((taken == 0) & (inside[:, None] >= THRESHOLDS), -1, taken))
    labels, counts = np.unique(true["labels"][~true["ignored"]], return_counts=True)
    counts_by_class = dict(zip(labels.tolist(), counts.tolist(), strict=True))
    if not classes:
        return Matches(np.empty(0, np.int64), np.empty(0), np.empty((0, len(THRESHOLDS)), np.int8), counts_by_class)
    return Matches(np.concatenate(classes), np.concatenate(scores), np.concatenate(right), counts_by_class)


def box_iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes `(K, 4)` and `(M, 4)`: `(K, M)`."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(2)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(1) for boxes in (one, other)]
    return common / np.maximum(areas[0][:, None] + areas[1][None] - common, 1e-12)  # type: ignore[no-any-return]


def covered(boxes: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """The largest share of each box `(K, 4)` that lies in one of the areas `(M, 4)`, `(K,)`; 0 where there is none."""
    if not len(areas):
        return np.zeros(len(boxes))
    low, high = (better(boxes[:, None, part], areas[None, :, part]) for better, part in (
        (np.maximum, slice(0, 2)), (np.minimum, slice(2, 4))))
    common = np.clip(high - low, 0, None).prod(2)
    areas_of_boxes = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(1)
    return (common / np.maximum(areas_of_boxes, 1e-12)[:, None]).max(1)  # type: ignore[no-any-return]


def _taken(overlap: np.ndarray, threshold: float) -> np.ndarray:
    free, right = np.ones(overlap.shape[1], bool), np.zeros(len(overlap), bool)
    for row, overlaps in enumerate(overlap if overlap.shape[1] else ()):
        best = int(np.where(free, overlaps, -1).argmax())
        if free[best] and overlaps[best] >= threshold:
            free[best], right[row] = False, True
    return right


def average_precision(rows: np.ndarray) -> float:
    """The mean over classes and over overlaps from 0.5 to 0.95."""
    return float(_by_class(rows).mean())


def average_precision_50(rows: np.ndarray) -> float:
    """The mean over classes at an overlap of one half."""
    return float(_by_class(rows)[:, 0].mean())


def _by_class(rows: np.ndarray) -> np.ndarray:
    """Average precision `(classes, thresholds)` of the classes that have true boxes; one row of NaN where none has."""
    true_boxes: dict[int, int] = {}
    for matches in rows:
        for label, count in matches.true_boxes.items():
            true_boxes[label] = true_boxes.get(label, 0) + count
    if not true_boxes:
        return np.full((1, len(THRESHOLDS)), np.nan)
    classes, scores, right = (np.concatenate([getattr(matches, name) for matches in rows])
                              for name in ("classes", "scores", "right"))
    order = np.argsort(-scores, kind="stable")
    classes, right = classes[order], right[order]
    return np.stack([_interpolated(right[classes == label], count) for label, count in true_boxes.items()])


def _interpolated(right: np.ndarray, true_boxes: int) -> np.ndarray:
    """Mean precision at `RECALLS` of detections `(K, thresholds)`, the surest first; those below 0 do not count."""
    if not len(right):
        return np.zeros(len(THRESHOLDS))
    hits = np.cumsum(right > 0, 0)
    precision = hits / np.maximum(1, np.cumsum(right >= 0, 0))
    precision = np.maximum.accumulate(precision[::-1], 0)[::-1]
    recall = hits / true_boxes
    at = np.stack([np.searchsorted(recall[:, k], RECALLS, side="left") for k in range(right.shape[1])], 1)
    padded = np.concatenate([precision, np.zeros((1, right.shape[1]))])
    return np.take_along_axis(padded, at, 0).mean(0)  # type: ignore[no-any-return]


def boxes_of(outputs: Mapping[str, np.ndarray]) -> Any:
    """The outputs themselves, where the network puts out boxes.

    Raises:
        InputError: where it puts out something that has to be decoded.
    """
    if "boxes" not in outputs or "scores" not in outputs:
        raise InputError(f"map needs boxes, but the file puts out {', '.join(outputs)}: give "
                         "autocompress.metric('map', predictions=a function of the outputs that returns, for each "
                         "picture, its boxes (K, 4), scores (K,) and labels (K,))")
    return dict(FileOutputs(outputs))
