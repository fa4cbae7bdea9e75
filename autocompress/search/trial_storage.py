"""Optuna's storage over a database, with few transactions for each trial.

Optuna writes each parameter and attribute of a trial in a transaction of its own and reads the trial again in between:
most of the time that a driver spends on a trial, and more where the database is on another host.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Container, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import _CachedStorage
from optuna.storages._cached_storage import _StudyInfo
from optuna.trial import FrozenTrial, TrialState

UNFINISHED = (TrialState.RUNNING, TrialState.WAITING)


@dataclass
class News:
    """What is to be written of a trial: parameters by name, in Optuna's internal representation, and attributes as
    JSON."""

    parameters: dict[str, tuple[float, BaseDistribution]] = field(default_factory=dict)
    user: dict[str, str] = field(default_factory=dict)
    system: dict[str, str] = field(default_factory=dict)


@dataclass
class _Batch:
    """What one thread has yet to write, by trial, and the trials that it has read since the batch began."""

    news: dict[int, News] = field(default_factory=dict)
    trials: dict[int, FrozenTrial] = field(default_factory=dict)


class Database(optuna.storages.RDBStorage):
    """Optuna's storage of a database, which also writes all that is new of a trial in one transaction."""

    def write_trial(self, trial: int, state: TrialState | None, values: Sequence[float] | None, news: News) -> None:
        """Write what is new of a trial. What a lost connection may have written already is replaced.

        Args:
            trial: Optuna's id.
            state: in which it is finished; None where it goes on.
            values: of its objectives, if it has them.
            news: parameters and attributes.

        Raises:
            UpdateFinishedTrialError: where the trial is finished already.
        """
        from optuna.storages._rdb import models
        from sqlalchemy import bindparam, delete, insert, select, update

        trials: Any = models.TrialModel.__table__
        kinds = models.TrialValueModel
        rows: list[tuple[Any, str, list[dict[str, Any]]]] = [
            (models.TrialParamModel, "param_name", [
                {"param_name": name, "param_value": value, "distribution_json": distribution_to_json(distribution)}
                for name, (value, distribution) in news.parameters.items()]),
            (models.TrialUserAttributeModel, "key", _attributes(news.user)),
            (models.TrialSystemAttributeModel, "key", _attributes(news.system)),
            (kinds, "objective", [
                {"objective": number, "value": stored, "value_type": kind}
                for number, (stored, kind) in enumerate(map(kinds.value_to_stored_repr, values or ()))])]
        with self.engine.begin() as connection:
            before = connection.execute(select(trials.c.state).where(trials.c.trial_id == trial).with_for_update())
            self.check_trial_is_updatable(trial, before.scalar_one())
            for model, key, written in rows:
                if written:
                    table = model.__table__
                    former = delete(table).where(table.c.trial_id == trial, table.c[key] == bindparam("its_key"))
                    connection.execute(former, [{"its_key": row[key]} for row in written])
                    connection.execute(insert(table), [{"trial_id": trial, **row} for row in written])
            if state is not None:
                connection.execute(update(trials).where(trials.c.trial_id == trial), {
                    "state": state, "datetime_complete": datetime.now(UTC).replace(tzinfo=None)})


def _attributes(texts: dict[str, str]) -> list[dict[str, Any]]:
    return [{"key": key, "value_json": text} for key, text in texts.items()]


class TrialStorage(_CachedStorage):
    """Optuna's storage over a `Database`. What is set of trials inside `together` is read from memory there, and
    written in one transaction for each trial.

    Args:
        backend: the database, or what stands for it.
        alone: whether no other process writes to its studies. Their trials are then read at most once.
    """

    def __init__(self, backend: Any, *, alone: bool = False) -> None:
        super().__init__(backend)
        self._backend: Any
        self._alone, self._local = alone, threading.local()
        self._trials: dict[int, FrozenTrial] = {}  # where this process is alone: those that it has read or begun
        self._read: dict[int, bool] = {}  # where it is alone, by study: whether all trials were read, or the unfinished

    @contextmanager
    def together(self) -> Iterator[None]:
        """What this thread sets of trials inside is written behind it. Where the body raises, it is left out."""
        if self._batch is not None:
            yield
            return
        self._local.batch = _Batch()
        try:
            yield
            self._write()
        finally:
            self._local.batch = None

    @property
    def _batch(self) -> _Batch | None:
        batch: _Batch | None = getattr(self._local, "batch", None)
        return batch

    def _write(self) -> None:
        while self._batch is not None and self._batch.news:
            trial, news = next(iter(self._batch.news.items()))
            self._backend.write_trial(trial, None, None, news)
            del self._batch.news[trial]

    # -- setting -----------------------------------------------------------------------------------------

    def set_trial_param(self, trial_id: int, param_name: str, param_value_internal: float,
                        distribution: BaseDistribution) -> None:
        """See Optuna."""
        with self.together():
            self._news(trial_id).parameters[param_name] = param_value_internal, distribution
            self._change(trial_id, "params", param_name, distribution.to_external_repr(param_value_internal))
            self._change(trial_id, "distributions", param_name, distribution)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See Optuna."""
        with self.together():
            self._news(trial_id).user[key] = text = json.dumps(value)
            self._change(trial_id, "user_attrs", key, json.loads(text))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See Optuna."""
        with self.together():
            self._news(trial_id).system[key] = text = json.dumps(value)
            self._change(trial_id, "system_attrs", key, json.loads(text))

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """See Optuna."""
        with self.together():
            if not state.is_finished():
                self._write()
                if not self._backend.set_trial_state_values(trial_id, state=state, values=values):
                    return False
            else:
                self._backend.write_trial(trial_id, state, values, self._news(trial_id))
                del self._current.news[trial_id]
            trial = self._memory.get(trial_id)
            if trial is not None:
                trial = copy.copy(trial)
                trial.state, trial.values = state, None if values is None else list(values)
                moment = datetime.now()
                if state is TrialState.RUNNING:
                    trial.datetime_start = moment
                trial.datetime_complete = moment if state.is_finished() else None
                self._keep(trial)
                if state.is_finished():
                    del self._memory[trial_id]
            return True

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """See Optuna."""
        trial_id = super().create_new_trial(study_id, template_trial)
        if self._alone or self._batch is not None:
            _, number = self._trial_id_to_study_id_and_number[trial_id]
            self._memory[trial_id] = self._studies[study_id].trials[number]
        return trial_id

    @property
    def _current(self) -> _Batch:
        assert self._batch is not None
        return self._batch

    @property
    def _memory(self) -> dict[int, FrozenTrial]:
        return self._trials if self._alone else self._current.trials

    def _news(self, trial: int) -> News:
        return self._current.news.setdefault(trial, News())

    def _change(self, trial: int, part: str, key: str, value: Any) -> None:
        """Set a key of one part of a trial that is in memory: of a copy, since others may hold the trial."""
        if trial in self._memory:
            changed = copy.copy(self._memory[trial])
            setattr(changed, part, {**getattr(changed, part), key: value})
            self._keep(changed)

    def _keep(self, trial: FrozenTrial) -> None:
        self._memory[trial._trial_id] = trial
        if self._alone and trial._trial_id in self._trial_id_to_study_id_and_number:
            study, number = self._trial_id_to_study_id_and_number[trial._trial_id]
            self._studies[study].trials[number] = trial

    # -- reading -----------------------------------------------------------------------------------------

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """See Optuna."""
        if not self._alone and self._batch is None:
            return super().get_trial(trial_id)
        if trial_id not in self._memory:
            self._write()
            trial = super().get_trial(trial_id)
            if trial.state.is_finished():
                return trial
            self._memory[trial_id] = trial
        return self._memory[trial_id]

    def get_all_trials(self, study_id: int, deepcopy: bool = True,
                       states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        """See Optuna. Where this process is alone, asking for unfinished trials builds no others."""
        if not self._alone or states is None or any(state in states for state in TrialState if state.is_finished()):
            return super().get_all_trials(study_id, deepcopy, states)
        study = self._studies.setdefault(study_id, _StudyInfo())
        if study_id not in self._read:
            self._write()
            self._add_trials_to_cache(study_id, self._backend._get_trials(study_id, UNFINISHED, set(), -1))
            self._read[study_id] = False
        trials = sorted((trial for trial in study.trials.values() if trial.state in states), key=lambda t: t.number)
        return copy.deepcopy(trials) if deepcopy else trials

    def _read_trials_from_remote_storage(self, study_id: int) -> None:
        if not (self._alone and self._read.get(study_id)):
            self._write()
            super()._read_trials_from_remote_storage(study_id)
            if self._alone:
                self._read[study_id] = True


def together(study: optuna.Study) -> AbstractContextManager[None]:
    """See `TrialStorage.together`; any other storage writes each value by itself."""
    storage = study._storage
    return storage.together() if isinstance(storage, TrialStorage) else nullcontext()
