"""What a kind of task is made of, and what it says of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn

from autocompress.errors import InputError
from autocompress.tasks.metrics.measure import Measure, Outputs
from autocompress.tasks.metrics.selection import Predictions
from autocompress.tasks.metrics.table import metric
from autocompress.tasks.sources.base import Source

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class KindContext:
    """What a kind makes measures of.

    Args:
        source: the samples.
        model: the network, in eval mode, with its weights.
        returned: what its `forward` returns for two samples of training, as it is.
        outputs: the same as tensors `(2, …)` by name.
        batch: these samples as a batch, tensors `(2, …)` by name.
        decode: the user's function that makes boxes of what `forward` returns; None for that of the network.
    """

    source: Source
    model: nn.Module
    returned: Any
    outputs: Mapping[str, Tensor]
    batch: Mapping[str, Tensor]
    decode: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class KindFacts:
    """What a kind says of a network and a source.

    Args:
        measures: metrics, the objective first; none where that is how near files come to the original.
        classes: names of the outputs that are scores of classes `(N, classes, …)`; others are numbers.
        predictions: what other metrics are of; see `predictions_of`.
    """

    measures: Sequence[Measure]
    classes: tuple[str, ...] = ()
    predictions: Predictions = None


Kind = Callable[[KindContext], KindFacts]


def chosen_output(context: KindContext, suits: Callable[[Tensor], bool], names: Sequence[str], what: str) -> str:
    """The output that a kind is about: of those that suit, one that has one of `names`, else the first.

    Args:
        context: with the network's outputs.
        suits: of an output `(2, …)`, whether it can be meant.
        names: of outputs that libraries use for it.
        what: such an output in words, for messages.

    Raises:
        InputError: where none suits.
    """
    fitting = [name for name, tensor in context.outputs.items() if suits(tensor)]
    if not fitting:
        told = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in context.outputs.items())
        raise InputError(f"{context.source.name}: the network must put out {what}, but for two samples puts out {told}")
    output = next((name for name in names if name in fitting), fitting[0])
    if len(context.outputs) > 1:
        log.info("%s: of the outputs %s, %s is measured", context.source.name, ", ".join(context.outputs), output)
    return output


def named_measure(measured: str, output: str | Callable[[Outputs], Any], **more: Any) -> Measure:
    """The metric of that name, of an output."""
    measure: Measure = metric(measured, predictions=output, **more)
    return measure


def class_scores(output: str, outputs: Outputs) -> np.ndarray:
    """Scores `(N, classes, …)` of an output that has one number for two classes, `(N, …)` or `(N, 1, …)`: its logit
    above that of the other class, or one and its probability. Of any other output, the output."""
    scores = outputs[output]
    if scores.ndim > 1 and scores.shape[1] != 1:
        return scores
    second = scores if scores.ndim > 1 else scores[:, None]
    probability = bool((second >= 0).all() and (second <= 1).all())
    return np.concatenate([1 - second if probability else np.zeros_like(second), second], 1)


def scores_of(output: str) -> Callable[[Outputs], np.ndarray]:
    """`class_scores` of one output."""
    return partial(class_scores, output)


def of_classes(context: KindContext, output: str, measures: Sequence[Measure]) -> KindFacts:
    """Measures of scores `(N, classes, …)`. InputError where targets name more classes than there are scores."""
    shape = context.outputs[output].shape
    single = len(shape) == 1 or shape[1] == 1
    scores = 2 if single else int(shape[1])
    classes = context.source.classes
    if classes is not None and classes > scores:
        raise InputError(f"{context.source.name}: the network must have a score for each of the {classes} classes that "
                         f"targets name, but has {scores}")
    return KindFacts(measures if context.source.labelled else (), () if single else (output,), scores_of(output))
