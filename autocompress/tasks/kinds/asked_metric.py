"""The metric that a user asks for, in the place of that of a kind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from autocompress.tasks.classification.measures import OF_ONE_SCORE
from autocompress.tasks.kinds.base import KindFacts
from autocompress.tasks.metrics.measure import Measure, OfSamples
from autocompress.tasks.metrics.table import metric


def with_metric(facts: KindFacts, objective_metric: Any) -> list[Measure]:
    """The measures of a kind with another objective, which is of the output that the kind is about.

    Args:
        facts: of the kind.
        objective_metric: a name, or what else `autocompress.metric` takes; None for the kind's own.

    Raises:
        InputError: where it is no metric.
    """
    measures = [*facts.measures]
    if objective_metric is None:
        return measures
    measure = metric(objective_metric)
    names = [each.metric.name for each in measures]
    like = next((each for each in measures if isinstance(each, OfSamples)), None)
    objective: Measure = measure
    if measure.metric.name in names:
        objective = measures[names.index(measure.metric.name)]
    elif isinstance(objective_metric, str) and isinstance(measure, OfSamples) and like is not None:
        targets = measure.targets or (None if like.needs_original else like.targets)
        takes_one_score = measure.rows in OF_ONE_SCORE or facts.predictions is None
        objective = replace(like, metric=measure.metric, rows=measure.rows, value=measure.value, settle=measure.settle,
                            targets=targets, predictions=like.predictions if takes_one_score else facts.predictions)
    elif isinstance(objective_metric, str):
        objective = metric(objective_metric, predictions=facts.predictions)
    return [objective, *(each for each in measures if each.metric.name != objective.metric.name)]
