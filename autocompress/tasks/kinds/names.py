"""Names of the kinds of tasks, and what is of a kind where it is not named; without torch."""

from __future__ import annotations

from typing import Any

from autocompress.tasks.sources.specs import parsed, source_kind

CLASSIFICATION, REGRESSION, EMBEDDING = "classification", "regression", "embedding"
SEGMENTATION, DETECTION, TEXT = "segmentation", "detection", "text"
KINDS = (CLASSIFICATION, REGRESSION, EMBEDDING, SEGMENTATION, DETECTION, TEXT)


def is_kind(task: Any) -> bool:
    """Whether a task is named by its kind."""
    return isinstance(task, str) and task in KINDS


def default_kind(data: Any) -> str:
    """The kind of task where none is named: by the source, where it can be of one alone."""
    return {"masks": SEGMENTATION, "coco": DETECTION, "voc": DETECTION}.get(source_kind(data) or "", CLASSIFICATION)


def is_of_kind(kind: str, model: Any, data: Any, metric: Any) -> bool:
    """Whether a task is made by its kind: not where it is classification of data of labelled classes, by a network of
    one input, which has its own task."""
    if kind != CLASSIFICATION or metric is not None or (isinstance(model, str) and model.startswith("hf:")):
        return True
    source = source_kind(data)
    if source == "npz":
        from autocompress.tasks.npz import holds_pairs  # loads torch

        return not holds_pairs(parsed(data).paths[0])
    return source is not None
