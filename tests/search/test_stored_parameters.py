"""Parameters are stored together, and are what Optuna stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from sqlalchemy import event

from autocompress.search import stored_parameters
from autocompress.search.databases import open_storage, sqlite_url


def _knobs(count: int) -> dict[str, BaseDistribution]:
    return {f"x{i}": CategoricalDistribution(["a", "b", "c"]) if i % 2 else FloatDistribution(0, 1)
            for i in range(count)}


def _study(path: Path) -> optuna.Study:
    return optuna.create_study(storage=open_storage(sqlite_url(path)), sampler=optuna.samplers.RandomSampler(seed=3))


def _stored(path: Path) -> list[Any]:
    (name,) = optuna.get_all_study_names(open_storage(sqlite_url(path)))
    return [(t.params, t.distributions, t.state) for t in optuna.load_study(
        study_name=name, storage=open_storage(sqlite_url(path))).get_trials()]


def test_what_is_stored_is_what_optuna_stores(tmp_path: Path) -> None:
    expected, study = _study(tmp_path / "expected.db"), _study(tmp_path / "study.db")
    for each in (expected, study):
        each.enqueue_trial({"x0": 0.5, "x1": "b"})
    for _ in range(3):
        first, second = expected.ask(_knobs(5)), stored_parameters.ask(study, _knobs(5))
        assert first.params == second.params and first.number == second.number
        expected.tell(first, 1.0)
        study.tell(second, 1.0)
    assert _stored(tmp_path / "study.db") == _stored(tmp_path / "expected.db")


def test_transactions_do_not_grow_with_the_number_of_knobs(tmp_path: Path) -> None:
    def commits(count: int) -> int:
        study, seen = _study(tmp_path / f"{count}.db"), list[int]()
        event.listen(study._storage._backend.engine, "commit", lambda connection: seen.append(1))
        stored_parameters.ask(study, _knobs(count))
        return len(seen)

    assert commits(40) == commits(2)


def test_another_storage_is_left_to_optuna() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    assert len(stored_parameters.ask(study, _knobs(4)).params) == len(study.trials[0].params) == 4


def test_what_cannot_be_stored_together_is_stored_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = _study(tmp_path / "study.db")
    wrong = "INSERT INTO nowhere VALUES (:trial, :name, :value, :distribution)"
    monkeypatch.setattr(stored_parameters, "INSERT", wrong)
    params = stored_parameters.ask(study, _knobs(4)).params
    assert _stored(tmp_path / "study.db")[0][0] == params
