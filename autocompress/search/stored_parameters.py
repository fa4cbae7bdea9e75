"""Parameters of a new trial, stored together.

Optuna stores each by itself, in a transaction of several statements: most of the time that a driver spends on a trial,
and more where the database is on another host.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json

log = logging.getLogger(__name__)

INSERT = """
INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)
VALUES (:trial, :name, :value, :distribution)
"""


def ask(study: optuna.Study, distributions: Mapping[str, BaseDistribution]) -> optuna.Trial:
    """As `study.ask(distributions)`, in one transaction for all parameters where the storage speaks SQL. Another
    storage, schema or a database that does not answer is left to Optuna."""
    storage: Any = study._storage
    if not hasattr(getattr(storage, "_backend", None), "engine"):
        return study.ask(dict(distributions))
    drawn: list[tuple[int, str, float, BaseDistribution]] = []
    storage.set_trial_param = lambda *parameter: drawn.append(parameter)  # for Optuna's own method, while it asks
    try:
        trial = study.ask(dict(distributions))
    finally:
        del storage.set_trial_param
        _store(storage, drawn)
    return trial


def _store(storage: Any, drawn: list[tuple[int, str, float, BaseDistribution]]) -> None:
    from sqlalchemy import text
    from sqlalchemy.exc import SQLAlchemyError

    if not drawn:
        return
    rows = [{"trial": trial, "name": name, "value": value, "distribution": distribution_to_json(distribution)}
            for trial, name, value, distribution in drawn]
    try:
        with storage._backend.engine.begin() as connection:
            connection.execute(text(INSERT), rows)
    except SQLAlchemyError as error:  # perhaps they were stored, and the answer was lost
        log.debug("parameters are stored one by one: %s", error)
        there = storage._backend.get_trial(drawn[0][0]).params
        for trial, name, value, distribution in drawn:
            if name not in there:
                storage.set_trial_param(trial, name, value, distribution)
