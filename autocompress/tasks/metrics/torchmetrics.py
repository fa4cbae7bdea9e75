"""Metrics of the package torchmetrics, or objects with the methods of its, which is never imported here."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autocompress.core.metric import Metric
from autocompress.errors import InputError
from autocompress.tasks.metrics.measure import OfSplit, Outputs
from autocompress.tasks.metrics.selection import Predictions, Targets, predictions_of, targets_of


def is_torchmetrics(value: Any) -> bool:
    """Whether an object is a `torchmetrics.Metric`, or one of another library with the same methods."""
    return not isinstance(value, type) and all(
        callable(getattr(value, name, None)) for name in ("update", "compute", "reset"))


def of_torchmetrics(module: Any, predictions: Predictions, targets: Targets, higher_is_better: bool | None) -> OfSplit:
    """The metric that an object computes of predictions and targets, both as tensors. It is copied.

    Raises:
        InputError: where it does not say which direction is better.
    """
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(module).__name__).lower()
    name = re.sub(r"^(binary|multiclass|multilabel)_", "", name)
    better = getattr(module, "higher_is_better", None) if higher_is_better is None else higher_is_better
    if better is None:
        raise InputError(f"{type(module).__name__} does not say whether more is better: give "
                         "autocompress.metric(…, higher_is_better=True), or False")
    bounds = getattr(module, "plot_lower_bound", None), getattr(module, "plot_upper_bound", None)
    facts = Metric(name, "%" if bounds == (0.0, 1.0) else "", bool(better))
    return OfSplit(facts, partial(_computed, copy.deepcopy(module)), partial(_compared, predictions, targets))


def _compared(predictions: Predictions, targets: Targets, outputs: Outputs, batch: Any) -> tuple[Any, Any]:
    return predictions_of(outputs, predictions), targets_of(batch, targets)


def _computed(module: Any, pairs: Sequence[Any], batches: Sequence[Any]) -> float:
    module.reset()
    for predicted, target in pairs:
        module.update(_tensor(predicted), _tensor(target))
    value = module.compute()
    module.reset()
    if isinstance(value, int | float | np.generic):
        return float(value)
    if not isinstance(value, Tensor) or value.numel() != 1:
        what = f"a tensor of {value.numel()} values" if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"{type(module).__name__} must compute one number, but computes {what}: give an average such "
                         "as 'macro', or a function of outputs and batches that picks one")
    return float(value)


def _tensor(value: Any) -> Any:
    """Arrays as tensors; lists of mappings, such as boxes, entry by entry."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, list | tuple):
        return [_tensor(each) for each in value]
    return {key: _tensor(each) for key, each in value.items()} if isinstance(value, dict) else value
