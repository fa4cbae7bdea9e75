"""Pictures with boxes: what annotations of any form come to, and the samples made of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autocompress.errors import InputError
from autocompress.tasks.sources.base import INPUT, TARGET, Sample, Source, SourceContext, in_three_splits
from autocompress.tasks.sources.fit import Fit, fit_for, normalisation, picture_size, read_picture
from autocompress.tasks.sources.specs import SourceSpec

log = logging.getLogger(__name__)

# Numbers of a box in a target: left, upper, right and lower edge, class, and 1 where it does not count (a crowd, or
# difficult). Rows of ABSENT fill a target up.
BOX_NUMBERS, ABSENT = 6, -1.0
# By how many pixels a box may reach beyond its picture: annotations round, and some count from 1.
TOLERANCE = 1.0


@dataclass(frozen=True)
class Annotated:
    """A picture, and the boxes on it `(M, BOX_NUMBERS)` in its pixels."""

    file: Path
    boxes: np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class BoxedPictures:
    """Pictures as bytes `(3, height, width)`, and their boxes `(most, BOX_NUMBERS)` float32 in the pixels of that."""

    pictures: tuple[Annotated, ...]
    fit: Fit
    most: int

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Sample:
        annotated = self.pictures[index]
        picture = read_picture(annotated.file)
        boxes = annotated.boxes.copy()
        boxes[:, :4] = self.fit.boxes(boxes[:, :4], *picture.size)
        boxes = boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]  # a crop may cut one off
        target = torch.full((self.most, BOX_NUMBERS), ABSENT)
        target[: len(boxes)] = torch.from_numpy(boxes)
        return {INPUT: torch.from_numpy(self.fit.picture(picture)), TARGET: target}


def boxed_source(parts: Mapping[str, Sequence[Annotated]], class_names: Sequence[str], spec: SourceSpec,
                 context: SourceContext, name: str) -> Source:
    """Samples of annotated pictures in the splits at hand.

    Raises:
        InputError: where a picture cannot be read, a box is outside its picture, there is none at all, or sizes differ
            and none is asked for.
    """
    everything = [annotated for part in parts.values() for annotated in part]
    sizes = [picture_size(annotated.file) for annotated in everything]
    checked = [_checked(annotated, size) for annotated, size in zip(everything, sizes, strict=True)]
    empty = sum(len(before.boxes) - len(after.boxes) for before, after in zip(everything, checked, strict=True))
    if empty:
        log.warning("%s: left out %d boxes without an area", name, empty)
    most = max((len(annotated.boxes) for annotated in checked), default=0)
    if not most:
        raise InputError(f"{name} must mark boxes on its pictures, but marks none on {len(everything)} pictures")
    fit = fit_for(spec, context.preparation, sizes, name)
    mean, std = normalisation(context.preparation)
    log.info("%s: %d pictures, %s; mean %s, std %s; classes %s", name, len(everything), fit.described, mean, std,
             ", ".join(f"{number} = {label}" for number, label in enumerate(class_names[:8])))
    ranges, begin = {}, 0
    for split, part in parts.items():
        ranges[split] = range(begin, begin + len(part))
        begin += len(part)
    splits = in_three_splits(BoxedPictures(tuple(checked), fit, most), ranges, context.seed, name)
    return Source(Path(name).stem, splits, classes=len(class_names), class_names=tuple(class_names), mean=mean, std=std,
                  prepared=fit.described, files=fit.files)


def _checked(annotated: Annotated, size: tuple[int, int]) -> Annotated:
    """The boxes that have an area. InputError for one that is outside its picture."""
    width, height = size
    boxes = annotated.boxes
    edges = boxes[:, :4]
    wrong = (~np.isfinite(edges)).any(1) | (edges[:, :2] < -TOLERANCE).any(1) | (
        edges[:, 2:] > np.array([width, height]) + TOLERANCE).any(1) | (edges[:, 2:] < edges[:, :2]).any(1)
    if wrong.any():
        left, upper, right, lower = edges[int(wrong.argmax())].tolist()
        raise InputError(f"{annotated.file}: boxes must lie inside the picture of {width}×{height} pixels, but one is "
                         f"from ({left:g}, {upper:g}) to ({right:g}, {lower:g})")
    return Annotated(annotated.file, boxes[(edges[:, 2] > edges[:, 0]) & (edges[:, 3] > edges[:, 1])])


def as_boxes(rows: Sequence[Sequence[float]]) -> np.ndarray[Any, Any]:
    """Rows of edges, class and whether one does not count, as `(M, BOX_NUMBERS)` float32."""
    return np.array(rows, np.float32).reshape(len(rows), BOX_NUMBERS)


def ordered_classes(names: Sequence[str], spec: SourceSpec, where: str) -> tuple[str, ...]:
    """The names of classes in the order of their numbers: as the option `classes` says, else as found. InputError where
    a class that was found is not said."""
    said = spec.listed("classes")
    if said is None:
        return tuple(names)
    unknown = next((name for name in names if name not in said), None)
    if unknown is not None:
        raise InputError(f"{where}: classes must name every class that is there, but {unknown!r} is not among "
                         f"{', '.join(said)}")
    return said
