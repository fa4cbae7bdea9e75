"""Which output of a network is scores of classes, as its metric tells."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from autocompress.errors import InputError
from autocompress.tasks.classification.measures import (
    checked_labels,
    class_axis,
    is_multi_label,
    one_hot,
    right,
)
from autocompress.tasks.metrics.measure import Measure, OfSamples
from autocompress.tasks.metrics.selection import SCORE_NAMES, as_array, targets_of
from autocompress.tasks.metrics.table import CLASS_ROWS

log = logging.getLogger(__name__)


def class_outputs(measures: Sequence[Measure], outputs: Mapping[str, Tensor],
                  batch: Any) -> dict[str, Literal["classes", "classes last"]]:
    """The outputs that metrics of classes compare, by name, and whether classes are their last axis.

    Args:
        measures: of a task; functions of the user's say nothing.
        outputs: of a network `(N, …)` by name.
        batch: one of the task's, for the shape of its targets.
    """
    axes: dict[str, Literal["classes", "classes last"]] = {}
    for measure in measures:
        if not isinstance(measure, OfSamples) or measure.rows not in CLASS_ROWS or callable(measure.predictions):
            continue
        names = [measure.predictions] if measure.predictions is not None else \
            [*outputs] if len(outputs) == 1 else [name for name in SCORE_NAMES if name in outputs][:1]
        for name in names:
            if name in outputs and outputs[name].dim() > 1 and outputs[name].shape[1] > 1 \
                    and not _are_labels_with_a_score_each(measure, outputs[name], batch):
                axes[name] = "classes last" if _is_last(measure, outputs[name], batch) else "classes"
    return axes


def _are_labels_with_a_score_each(measure: OfSamples, output: Tensor, batch: Any) -> bool:
    """Accuracy takes them for one-hot rows, and refuses others."""
    if measure.needs_original or measure.rows is right:
        return False
    try:
        labels = as_array(targets_of(batch, measure.targets), "targets")
        if not is_multi_label(output.shape, labels):
            return False
        if one_hot(labels):
            log.warning("%s: labels have a score each and are measured one by one, though every sample of the first "
                        "batch has exactly one: if they are classes in one-hot rows, give class numbers (argmax)",
                        measure.metric.name)
        return True
    except InputError:  # said where the metric is computed
        return False


def _is_last(measure: OfSamples, output: Tensor, batch: Any) -> bool:
    if output.dim() < 3 or measure.needs_original:
        return False
    try:
        labels = checked_labels(as_array(targets_of(batch, measure.targets), "targets"))
        scores = output[:1].expand(len(labels), *output.shape[1:])
        return class_axis(as_array(scores, "predictions"), labels) != 1
    except InputError:  # said where the metric is computed
        return False
