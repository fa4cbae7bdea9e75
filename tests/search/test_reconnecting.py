"""A database server that does not answer is asked again for a while. A double stands for the server; `test_postgresql`
has a real one."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy.exc import IntegrityError, OperationalError

from autocompress.errors import StorageError
from autocompress.search import reconnecting
from autocompress.search.reconnecting import Patient

CUT = OperationalError("SELECT", {}, Exception("server closed the connection: bob hunter2"))


class Server:
    """Optuna's storage in memory whose calls fail: `faults` before they did anything, `lost` after they did."""

    def __init__(self, *, faults: int = 0, lost: int = 0, error: Exception = CUT) -> None:
        self.storage, self.faults, self.lost, self.error = optuna.storages.InMemoryStorage(), faults, lost, error
        self.calls = 0
        self.scoped_session = self.engine = self

    def remove(self) -> None:
        """As of a session."""

    def dispose(self) -> None:
        """As of an engine; the server may be gone."""
        raise self.error

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            self.calls += 1
            if self.faults:
                self.faults -= 1
                raise optuna.exceptions.StorageInternalError("An exception is raised during the commit.") from CUT
            result = getattr(self.storage, name)(*args, **named)
            if self.lost:
                self.lost -= 1
                raise self.error
            return result
        return call


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What would have been waited; the clock goes on by it."""
    waited: list[float] = []
    monkeypatch.setattr(reconnecting, "time", SimpleNamespace(sleep=waited.append, monotonic=lambda: sum(waited)))
    return waited


def _patient(server: Any) -> Any:
    return Patient(server, "postgresql://bob:***@h/s", lambda text: text.replace("hunter2", "***"))


def test_a_server_that_comes_back_costs_time_alone(pauses: list[float], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        study = _patient(Server(faults=5)).create_new_study([optuna.study.StudyDirection.MINIMIZE], "s")
    assert study == 0 and pauses == [0.5, 1, 2, 4, 8]
    assert caplog.text.count("does not answer") == 1 and "hunter2" not in caplog.text


def test_a_server_that_stays_away_ends_in_a_storage_error(pauses: list[float]) -> None:
    with pytest.raises(StorageError, match=r"must answer within 300 s.*go on with --resume") as caught:
        _patient(Server(faults=10**6)).get_all_studies()
    assert caught.value.exit_code == 4 and 280 < sum(pauses) <= 300 and "hunter2" not in str(caught.value)


def test_an_answer_that_was_lost_is_no_second_change() -> None:
    server = Server()
    patient = _patient(server)
    study = patient.create_new_study([optuna.study.StudyDirection.MINIMIZE], "s")
    trial = patient.create_new_trial(study)
    server.lost = 1
    assert patient.set_trial_state_values(trial, TrialState.COMPLETE, [1.0])
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        patient.set_trial_state_values(trial, TrialState.FAIL)


def test_what_was_asked_wrongly_is_not_asked_again(pauses: list[float]) -> None:
    server = Server(lost=1, error=IntegrityError("INSERT", {}, Exception("twice")))
    with pytest.raises(IntegrityError):
        _patient(server).create_new_study([optuna.study.StudyDirection.MINIMIZE], "s")
    assert server.calls == 1 and not pauses
