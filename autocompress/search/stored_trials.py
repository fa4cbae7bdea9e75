"""Number, state and two attributes of every trial of a study, without its parameters.

Optuna builds each parameter of each trial, nearly all of the time that reading thousands of them takes.
From a database that speaks SQL these columns are read by themselves; any other storage, or schema, is asked for trials.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import optuna
from optuna.trial import TrialState

QUERY = """
SELECT t.number, t.state, a.key, a.value_json FROM trials t
LEFT JOIN trial_user_attributes a ON a.trial_id = t.trial_id AND a.key IN (:first, :second)
WHERE t.study_id = :study ORDER BY t.number
"""
COUNT = "SELECT state, COUNT(*) FROM trials WHERE study_id = :study GROUP BY state"


class StoredTrial(NamedTuple):
    """A trial as it is stored, with the attributes that were asked for."""

    number: int
    state: TrialState
    user_attrs: dict[str, Any]


def stored_trials(study: optuna.Study, first: str, second: str) -> list[StoredTrial]:
    """All of them, by number, with the attributes `first` and `second` where they have them."""
    trials = _selected(study, first, second)
    if trials is None:
        trials = [StoredTrial(trial.number, trial.state, {key: value for key, value in trial.user_attrs.items()
                                                          if key in (first, second)})
                  for trial in study.get_trials(deepcopy=False)]
    return trials


def trial_counts(study: optuna.Study) -> Counter[TrialState]:
    """Number of stored trials by state; where the storage speaks SQL, without reading them."""
    rows = _rows(study, COUNT, {})
    if rows is None:
        return Counter(trial.state for trial in study.get_trials(deepcopy=False))
    return Counter({TrialState[str(state)]: count for state, count in rows})


def _selected(study: optuna.Study, first: str, second: str) -> list[StoredTrial] | None:
    rows = _rows(study, QUERY, {"first": first, "second": second})
    if rows is None:
        return None
    trials: dict[int, StoredTrial] = {}
    for number, state, key, value in rows:
        trial = trials.setdefault(number, StoredTrial(number, TrialState[str(state)], {}))
        if key is not None:
            trial.user_attrs[key] = json.loads(value)
    return list(trials.values())


def _rows(study: optuna.Study, query: str, values: dict[str, str]) -> Sequence[Any] | None:
    """What a database answers about a study; None where the storage speaks no SQL, or not that."""
    storage = getattr(study._storage, "_backend", study._storage)
    if not hasattr(storage, "engine"):
        return None
    from sqlalchemy import text
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with storage.engine.connect() as connection:
            rows: Sequence[Any] = connection.execute(text(query), {**values, "study": study._study_id}).all()
            return rows
    except SQLAlchemyError:  # Optuna says better what is wrong with a database, or knows its other schema
        return None
