"""Trials are stored in few transactions, and are what Optuna stores and reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event

from autocompress.search.databases import open_storage, sqlite_url
from autocompress.search.trial_storage import together


def _knobs(count: int) -> dict[str, BaseDistribution]:
    return {f"x{i}": CategoricalDistribution(["a", "b", "c"]) if i % 2 else FloatDistribution(0, 1)
            for i in range(count)}


def _study(path: Path, *, alone: bool = False, optunas: bool = False) -> optuna.Study:
    storage = sqlite_url(path) if optunas else open_storage(sqlite_url(path), alone=alone)
    return optuna.create_study(storage=storage, study_name="s", directions=["maximize", "minimize"],
                               sampler=optuna.samplers.RandomSampler(seed=3))


def _read(path: Path) -> list[FrozenTrial]:
    """What Optuna itself reads."""
    return optuna.load_study(study_name="s", storage=sqlite_url(path)).get_trials()


def _plain(trials: list[FrozenTrial]) -> list[Any]:
    return [(t.number, t.state, t.values, t.params, t.distributions, t.user_attrs, t.system_attrs) for t in trials]


def _search(study: optuna.Study) -> None:
    """Trials as the engine makes them: queued, proposed, failed, left running, queued again."""
    study.enqueue_trial({"x0": 0.5, "x1": "b"}, user_attrs={"origin": "first"})
    for number in range(4):
        with together(study):
            trial = study.ask(_knobs(5))
            trial.set_user_attr("squeeze", (0.25, number))
        assert study.get_trials(deepcopy=False)[number].params == trial.params
        with together(study):
            trial.set_user_attr("candidate", "{}")
            if number != 2:
                trial.set_constraint("size_bytes", -0.5)
                trial.set_user_attr("candidate", '{"twice": 1}')
            if number < 2:
                study.tell(trial, [float("inf") if number else 0.5, 2.0])
            elif number == 2:
                study.tell(trial, state=TrialState.FAIL)
    study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)


@pytest.mark.parametrize("alone", [True, False])
def test_what_is_stored_and_read_is_what_optuna_stores(tmp_path: Path, alone: bool) -> None:
    expected = _study(tmp_path / "expected.db", optunas=True)
    study = _study(tmp_path / "study.db", alone=alone)
    for each in (expected, study):
        _search(each)
    stored = _read(tmp_path / "study.db")
    assert _plain(stored) == _plain(_read(tmp_path / "expected.db"))
    assert _plain(study.get_trials()) == _plain(stored)
    assert all((t.datetime_complete is not None) == t.state.is_finished() for t in (*stored, *study.get_trials()))
    again = optuna.load_study(study_name="s", storage=open_storage(sqlite_url(tmp_path / "study.db"), alone=alone))
    trial = again.ask(_knobs(5))
    assert trial.number == 3 and trial.params == stored[3].params, "the one that waits"
    assert again.ask(_knobs(5)).number == 4 and _plain(again.get_trials()[:3]) == _plain(stored[:3])


@pytest.mark.parametrize("alone", [True, False])
def test_transactions_do_not_grow_with_the_number_of_knobs(tmp_path: Path, alone: bool) -> None:
    def statements(count: int) -> int:
        study, seen = _study(tmp_path / f"{count}.db", alone=alone), list[int]()
        study.get_trials()
        event.listen(study._storage._backend.engine, "before_cursor_execute", lambda *args: seen.append(1))
        with together(study):
            trial = study.ask(_knobs(count))
            trial.set_user_attr("squeeze", 0.5)
        with together(study):
            study.tell(trial, [1.0, 2.0])
        return len(seen)

    assert statements(40) == statements(2) <= (20 if alone else 50)


def test_a_driver_that_is_alone_reads_no_trial_that_it_has_read_or_begun(tmp_path: Path) -> None:
    study, seen = _study(tmp_path / "study.db", alone=True), list[str]()
    _search(study)
    study.get_trials()
    event.listen(study._storage._backend.engine, "before_cursor_execute", lambda *args: seen.append(args[2]))
    assert len(study.get_trials()) == 4 and not seen
    assert study.ask(_knobs(5)).params == study.get_trials()[3].params
    assert not any("FROM trial_params" in statement and "SELECT" in statement for statement in seen)


def test_nothing_is_written_of_what_was_broken_off(tmp_path: Path) -> None:
    study = _study(tmp_path / "study.db")
    trial = study.ask(_knobs(2))
    with pytest.raises(ZeroDivisionError), together(study):
        trial.set_user_attr("candidate", "{}")
        raise ZeroDivisionError
    assert not _read(tmp_path / "study.db")[0].user_attrs


def test_a_trial_that_another_driver_has_closed_is_not_written_to(tmp_path: Path) -> None:
    study = _study(tmp_path / "study.db")
    trial = study.ask(_knobs(2))
    other = optuna.load_study(study_name="s", storage=sqlite_url(tmp_path / "study.db"))
    with pytest.raises(UpdateFinishedTrialError), together(study):
        trial.set_user_attr("candidate", "{}")
        other.tell(trial.number, [1.0, 2.0])
        study.tell(trial, [3.0, 4.0])
    stored = _read(tmp_path / "study.db")[0]
    assert stored.values == [1.0, 2.0] and not stored.user_attrs


def test_another_storage_is_left_to_optuna() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    with together(study):
        assert len(study.ask(_knobs(4)).params) == len(study.trials[0].params) == 4
