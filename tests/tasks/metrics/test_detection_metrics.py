"""Average precision against cases worked out by hand, and against pycocotools where it is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autocompress.errors import InputError
from autocompress.tasks.metrics.detection import average_precision, average_precision_50, box_iou, matched
from autocompress.tasks.metrics.table import metric

BOX, FAR = [0.0, 0, 10, 10], [50.0, 50, 60, 60]


def boxed(*boxes: Any, scores: Any = (), labels: Any = None) -> dict[str, Any]:
    return {"boxes": np.array(boxes).reshape(-1, 4), "scores": np.array(scores, float),
            **({} if labels is None else {"labels": np.array(labels)})}


def true(*boxes: Any, labels: Any = None) -> dict[str, Any]:
    return {key: value for key, value in boxed(*boxes, labels=labels).items() if key != "scores"}


def test_overlap() -> None:
    assert box_iou(np.array([BOX]), np.array([BOX, [5, 0, 15, 10], FAR])) == pytest.approx(np.array([[1, 1 / 3, 0]]))


@pytest.mark.parametrize(("predictions", "targets", "map50", "map_"), [
    ([boxed(BOX, scores=[0.9])], [true(BOX)], 1, 1),
    ([boxed(FAR, scores=[0.9])], [true(BOX)], 0, 0),
    ([boxed(FAR, BOX, scores=[0.9, 0.8])], [true(BOX)], 0.5, 0.5),
    ([boxed(BOX, FAR, scores=[0.9, 0.8])], [true(BOX)], 1, 1),
    ([boxed(BOX, BOX, scores=[0.9, 0.8])], [true(BOX)], 1, 1),  # the second finds nothing left
    ([boxed(BOX, scores=[0.9])], [true(BOX, FAR)], 51 / 101, 51 / 101),
    ([boxed([0, 0, 10, 7.6], scores=[0.9])], [true(BOX)], 1, 0.6),  # an overlap of 0.76
    ([boxed(scores=[])], [true(BOX)], 0, 0),
    ([boxed(BOX, scores=[0.5]), boxed(FAR, scores=[0.9])], [true(BOX), true()], 0.5, 0.5),
    ([boxed(BOX, FAR, scores=[0.9, 0.8], labels=[0, 1])], [true(BOX, FAR, labels=[1, 1])], 0.5 * 51 / 101, None),
    ([boxed(BOX, BOX, scores=[0.9, 0.8], labels=[0, 1])], [true(BOX, labels=[1])], 1, 1),  # class 0 is not there
])
def test_average_precision_by_hand(predictions: Any, targets: Any, map50: float, map_: float | None) -> None:
    rows = matched(predictions, targets)
    if map_ is None:  # one of two boxes of class 1 is found, behind a box of class 0, which is not there
        assert average_precision_50(rows) == pytest.approx(51 / 101)
        return
    assert average_precision_50(rows) == pytest.approx(map50)
    assert average_precision(rows) == pytest.approx(map_)


def test_padded_arrays_and_lists_are_the_same() -> None:
    outputs = {"boxes": np.array([[BOX, FAR], [BOX, BOX]]), "scores": np.array([[0.9, 0.0], [0.5, 0.4]]),
               "labels": np.array([[0, -1], [0, 1]])}
    targets = [true(BOX, labels=[0]), true(FAR, labels=[1])]
    lists = [boxed(BOX, scores=[0.9], labels=[0]), boxed(BOX, BOX, scores=[0.5, 0.4], labels=[0, 1])]
    measure = metric("map")
    one = measure.of_batch(outputs, (None, targets), {})
    value, error = measure.over_split([one, one], [])
    assert value == pytest.approx(average_precision(matched(lists, targets))) and error > 0


@pytest.mark.parametrize(("predictions", "targets", "message"), [
    ([boxed(BOX, scores=[0.9, 0.8])], [true(BOX)], "as many labels and scores"),
    ([true(BOX)], [true(BOX)], "must have scores"),
    ([boxed(BOX, scores=[0.9])], [true(BOX), true(BOX)], "same pictures"),
    (np.zeros((2, 4)), [true(BOX)], "list with the boxes, scores and labels of each picture, but are ndarray"),
    ([np.zeros((2, 4))], [true(BOX)], "as a mapping or a tuple, but of a picture are ndarray"),
    ([boxed(BOX, scores=[0.9])], [true([10, 0, 0, 10])], r"with x0 ≤ x1 and y0 ≤ y1, but one is \(10, 0, 0, 10\)"),
    ([boxed(BOX, scores=[0.9])], [true([0, 0, np.nan, 10])], r"but one is \(0, 0, nan, 10\)"),
    ({"maps": np.zeros((2, 4))}, [true(BOX)], "function that makes them"),
])
def test_boxes_that_are_none_are_refused(predictions: Any, targets: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        matched(predictions, targets)


def test_boxes_may_be_tuples() -> None:
    boxes, truth = boxed(BOX, FAR, scores=[0.9, 0.8], labels=[0, 1]), true(BOX, FAR, labels=[1, 1])
    rows = matched([(boxes["boxes"], boxes["scores"], boxes["labels"])], [(truth["boxes"], truth["labels"])])
    assert average_precision_50(rows) == average_precision_50(matched([boxes], [truth]))


def test_it_is_what_pycocotools_computes() -> None:
    coco, evaluation = (pytest.importorskip(f"pycocotools.{name}") for name in ("coco", "cocoeval"))
    rng = np.random.default_rng(0)
    targets, predictions, annotations, detections = [], [], [], []
    for picture in range(12):
        corners = rng.uniform(0, 60, (8, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(5, 40, (8, 2))], 1)
        labels, count = rng.integers(0, 3, 8), int(rng.integers(0, 8))
        targets.append(true(*boxes[:count], labels=labels[:count]))
        moved, scores = boxes + rng.normal(size=(8, 4)), rng.random(8)
        predictions.append(boxed(*moved, scores=scores, labels=labels))
        for place, (box, label) in enumerate(zip(boxes, labels, strict=True)):
            corner = [float(value) for value in (*box[:2], *(box[2:] - box[:2]))]
            common = {"image_id": picture, "category_id": int(label) + 1}
            if place < count:
                annotations.append({**common, "bbox": corner, "area": corner[2] * corner[3], "iscrowd": 0,
                                    "id": len(annotations) + 1})
            corner = [float(value) for value in (*moved[place, :2], *(moved[place, 2:] - moved[place, :2]))]
            detections.append({**common, "bbox": corner, "score": float(scores[place])})
    whole = coco.COCO()
    whole.dataset = {"images": [{"id": i} for i in range(12)], "annotations": annotations,
                     "categories": [{"id": i + 1} for i in range(3)]}
    whole.createIndex()
    judged = evaluation.COCOeval(whole, whole.loadRes(detections), "bbox")
    judged.evaluate()
    judged.accumulate()
    judged.summarize()
    rows = matched(predictions, targets)
    assert average_precision(rows) == pytest.approx(judged.stats[0], abs=1e-6)
    assert average_precision_50(rows) == pytest.approx(judged.stats[1], abs=1e-6)
