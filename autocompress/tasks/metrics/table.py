"""The metrics that have a name, and how any other becomes one: `autocompress.metric`."""

from __future__ import annotations

import difflib
import inspect
import keyword
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from autocompress.core.metric import Metric
from autocompress.errors import InputError
from autocompress.tasks.classification.measures import CLASS_MEASURES
from autocompress.tasks.metrics import detection, numbers, segmentation
from autocompress.tasks.metrics.measure import Measure, OfBatches, OfSamples, OfSplit
from autocompress.tasks.metrics.selection import ORIGINAL, Predictions, Targets
from autocompress.tasks.metrics.torchmetrics import is_torchmetrics, of_torchmetrics

Over = Literal["batch", "split"]

NAMED: dict[str, OfSamples] = {measure.metric.name: measure for measure in (
    *CLASS_MEASURES,
    OfSamples(Metric("mae", higher_is_better=False, title="Mean absolute error"), numbers.absolute_errors),
    OfSamples(Metric("rmse", higher_is_better=False, title="Root mean squared error"), numbers.squared_errors,
              numbers.root_of_mean),
    OfSamples(Metric("r2", unit="%", title="R²"), numbers.sums_by_channel, numbers.explained,
              needs="targets that differ"),
    OfSamples(Metric("spearman", unit="%", title="Spearman correlation"), numbers.pairs, numbers.rank_correlation,
              needs="targets and outputs that differ"),
    OfSamples(Metric("cosine", unit="%", title="Cosine similarity to the original"), numbers.cosines,
              targets=ORIGINAL),
    OfSamples(Metric("miou", unit="%", title="Mean IoU"), segmentation.overlaps, segmentation.mean_iou,
              needs="pixels with a class in a split"),
    OfSamples(Metric("map", unit="%", title="mAP"), detection.matched, detection.average_precision,
              predictions=detection.boxes_of, as_arrays=False, needs="pictures with boxes in a split"),
    OfSamples(Metric("map50", unit="%", title="mAP at IoU 0.5"), detection.matched, detection.average_precision_50,
              predictions=detection.boxes_of, as_arrays=False, needs="pictures with boxes in a split"),
)}
# What is kept of samples by metrics whose predictions are scores of classes.
CLASS_ROWS = frozenset((segmentation.overlaps, *(measure.rows for measure in CLASS_MEASURES)))
# Names that stand for other figures of a file.
RESERVED = frozenset(("size_bytes", "latency_ms", "latency_wall_ms", "latency_spread", "macs", "params",
                      "peak_memory_bytes", "divergence", "cross_entropy", "trial", "rung", "path"))
# Words in a function's name that say that less is better.
ERROR_WORDS = frozenset(("error", "loss", "mae", "mse", "rmse", "distance", "perplexity", "wer", "cer"))


def metric(measured: Any, *, name: str | None = None, unit: str | None = None, higher_is_better: bool | None = None,
           over: Over | None = None, predictions: Predictions = None, targets: Targets = None) -> Measure:
    """A metric for `autocompress.Task`, with what its name alone does not say.

    Args:
        measured: a name that docs/tasks.md lists, such as f1_macro, mae or miou, a `torchmetrics.Metric`, or a function
            that returns a number: `function(outputs, batch)`, whose values are averaged over batches, or
            `function(outputs, batches)`, which is given lists of all batches of a split. Outputs are arrays `(N, …)` by
            name, batches as they came.
        name: the key in tables, JSON and `--at-least`; left out, that of the function.
        unit: what stands behind values; values of unit `%` are shares, 0 to 1.
        higher_is_better: the direction; left out, yes for functions, which is said when the search starts.
        over: `batch` or `split`, where the name of the function's second parameter, `batch` or `batches`, does not say
            it.
        predictions: for names and torchmetrics: the output that is compared, or a function of all outputs by name.
        targets: for names and torchmetrics: the key or position of targets in a batch (`target.age` is inside an
            entry), a function of it, or "original" for the outputs of the original.

    Raises:
        InputError: for a name that there is not, or a function whose direction its name puts in doubt.
    """
    measure: OfSamples | OfBatches | OfSplit
    if isinstance(measured, str):
        named = _named(measured)
        measure = replace(named, predictions=named.predictions if predictions is None else predictions,
                          targets=named.targets if targets is None else targets)
    elif isinstance(measured, OfBatches | OfSplit):
        measure = replace(measured, assumed=measured.assumed and higher_is_better is None)
    elif isinstance(measured, OfSamples):
        measure = measured
    elif is_torchmetrics(measured):
        measure = of_torchmetrics(measured, predictions, targets, higher_is_better)
    elif callable(measured):
        if predictions is not None or targets is not None:
            raise InputError("predictions and targets are for metrics by name: a function takes what it needs from "
                             "outputs and batch itself")
        measure = _of_function(measured, over or _over(measured), name, higher_is_better)
    else:
        raise InputError(f"metric must be a name such as {', '.join([*NAMED][:3])}, a torchmetrics.Metric or a "
                         f"function of outputs and batch, but is {type(measured).__name__}")
    if over is not None and not isinstance(measure, OfBatches | OfSplit):
        raise InputError("over is for functions alone: a metric by name is of samples")
    facts = measure.metric
    facts = Metric(name or facts.name, facts.unit if unit is None else unit,
                   facts.higher_is_better if higher_is_better is None else higher_is_better, facts.title, facts.finer)
    return replace(measure, metric=_checked(facts))


def measures(metrics: Any) -> tuple[Measure, ...]:
    """The metrics of a task: one, or several of which the first is the objective. InputError where two have one name.
    """
    every = [metric(each) for each in (metrics if isinstance(metrics, Sequence) and not isinstance(metrics, str)
                                       else [metrics])]
    names = [each.metric.name for each in every]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None or not every:
        raise InputError(f"metrics must have different names, but two are called {twice}: give autocompress.metric(…, "
                         "name=…)" if twice else "metric must name at least one, but is empty")
    return tuple(every)


def _named(name: str) -> OfSamples:
    if name not in NAMED:
        close = difflib.get_close_matches(name, NAMED, 1)
        raise InputError(f"metric must be one of {', '.join(NAMED)}, or a function, but is {name!r}"
                         + (f": did you mean {close[0]!r}?" if close else ""))
    return NAMED[name]


def _over(function: Callable[..., Any]) -> Over:
    """Of a split where the second parameter is called `batches`."""
    try:
        parameters = [*inspect.signature(function).parameters.values()]
    except (TypeError, ValueError):
        return "batch"
    needed = [each for each in parameters if each.default is each.empty and each.kind <= each.POSITIONAL_OR_KEYWORD]
    if len(needed) > 2 or (len(parameters) < 2 and not any(each.kind is each.VAR_POSITIONAL for each in parameters)):
        raise InputError(f"a metric must take two arguments, outputs and batch (or batches), but {_name_of(function)} "
                         f"takes {', '.join(each.name for each in parameters) or 'none'}")
    return "split" if len(parameters) > 1 and parameters[1].name == "batches" else "batch"


def _of_function(function: Callable[..., Any], over: Over, name: str | None,
                 higher_is_better: bool | None) -> OfBatches | OfSplit:
    if over not in ("batch", "split"):
        raise InputError(f"over must be 'batch' or 'split', but is {over!r}")
    name = name or _name_of(function)
    words = set(name.lower().split("_"))
    if higher_is_better is None and words & ERROR_WORDS:
        raise InputError(f"the metric {name} sounds as if less were better: say so by autocompress.metric({name}, "
                         "higher_is_better=False), or True")
    facts, assumed = Metric(name), higher_is_better is None
    return OfBatches(facts, function, assumed=assumed) if over == "batch" else OfSplit(facts, function, assumed=assumed)


def _name_of(function: Any) -> str:
    name = getattr(function, "__name__", None) or type(function).__name__
    return "metric" if name == "<lambda>" else re.sub(r"\W", "_", name).strip("_") or "metric"


def _checked(facts: Metric) -> Metric:
    if not facts.name.isidentifier() or keyword.iskeyword(facts.name) or facts.name in RESERVED:
        why = "stands for another figure" if facts.name in RESERVED else "is none"
        raise InputError(f"the name of a metric must be a word such as word_error_rate, but {facts.name!r} {why}")
    return facts
