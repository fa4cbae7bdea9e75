"""The metric that a user asks for, in the place of that of a kind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from autocompress.tasks.classification.measures import OF_ONE_SCORE
from autocompress.tasks.kinds.base import KindFacts
from autocompress.tasks.metrics.measure import Measure, OfSamples
from autocompress.tasks.metrics.table import metric


def with_metric(facts: KindFacts, asked: Any) -> list[Measure]:
    """The measures of a kind with another objective, which is of the output that the kind is about.

    Args:
        facts: of the kind.
        asked: a name, or what else `autocompress.metric` takes; None for the kind's own.

    Raises:
        InputError: where it is no metric.
    """
    measures = [*facts.measures]
    if asked is None:
        return measures
    wanted = metric(asked)
    names = [each.metric.name for each in measures]
    like = next((each for each in measures if isinstance(each, OfSamples)), None)
    objective: Measure = wanted
    if wanted.metric.name in names:
        objective = measures[names.index(wanted.metric.name)]
    elif isinstance(asked, str) and isinstance(wanted, OfSamples) and like is not None:
        targets = wanted.targets or (None if like.needs_original else like.targets)
        takes_one_score = wanted.rows in OF_ONE_SCORE or facts.predictions is None
        objective = replace(like, metric=wanted.metric, rows=wanted.rows, value=wanted.value, settle=wanted.settle,
                            targets=targets, predictions=like.predictions if takes_one_score else facts.predictions)
    elif isinstance(asked, str):
        objective = metric(asked, predictions=facts.predictions)
    return [objective, *(each for each in measures if each.metric.name != objective.metric.name)]
