"""Studies on a PostgreSQL server: it goes away and comes back, cuts connections, refuses users."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import optuna
import pytest
from engine_bench import Bench
from postgresql_server import INSTALLED, Server

from autocompress.core.front import objectives
from autocompress.core.layer import LayerTable
from autocompress.errors import StorageError
from autocompress.search import reconnecting
from autocompress.search.databases import open_storage, storage_errors
from autocompress.search.efforts import Schedule
from autocompress.search.samplers.make import make_sampler
from autocompress.search.storage import create_study, load_study
from autocompress.tasks.classification.metric import ACCURACY

pytest.importorskip("psycopg")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not INSTALLED, reason="PostgreSQL is not installed")]
OPENED: list[Any] = []


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One that the tests share."""
    server = Server()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Connections are closed behind each test."""
    yield
    while OPENED:
        OPENED.pop()._backend._forget_connections()
    Server.forget_connections()  # of storages whose opening failed


def _open(url: str) -> Any:
    OPENED.append(open_storage(url))
    return OPENED[-1]


def _bench(table: LayerTable, server: Server, name: str, act: Callable[[int], Any], **more: Any) -> Bench:
    """An engine over a study there; `act` is called before each evaluation with its number."""
    def damage(call: int, metrics: dict[str, float]) -> dict[str, float]:
        act(call)
        return metrics

    storage, sampler = _open(server.url()), make_sampler("random", 0)
    study = load_study(storage, name, sampler) or create_study(storage, name, sampler, {}, objectives(ACCURACY))
    return Bench(table, study=study, damage=damage, trials=12, schedule=Schedule(short=3, long=1), **more)


def _stored(server: Server, name: str) -> list[optuna.trial.FrozenTrial]:
    study = load_study(_open(server.url()), name)
    assert study is not None
    return study.get_trials(deepcopy=False)


def test_a_server_that_is_stopped_and_comes_back_loses_no_trial(table: LayerTable, server: Server) -> None:
    def act(call: int) -> None:
        if call in (3, 7):
            server.stop("fast" if call == 3 else "immediate")
            threading.Timer(2.0, server.start).start()

    bench = _bench(table, server, "away", act)
    everyone = bench.run()
    assert [c.trial for c in everyone] == list(range(12))
    assert not {"failed", "running"} & {c.status for c in everyone}
    assert len(_stored(server, "away")) == 12 and all(t.state.is_finished() for t in _stored(server, "away"))
    evaluated = [call for call in bench.fake.calls if call[1] == 0]
    assert len(set(evaluated)) == len(evaluated), "nothing is evaluated twice"


def test_connections_that_are_cut_are_made_again(table: LayerTable, server: Server) -> None:
    cut: list[int] = []
    everyone = _bench(table, server, "cut", lambda call: cut.append(server.cut_connections())).run()
    assert sum(cut) > 0 and [c.trial for c in everyone] == list(range(12))


def test_a_server_that_stays_away_ends_the_search_and_it_goes_on_later(
        table: LayerTable, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnecting, "PATIENCE_SECONDS", 2.0)
    bench = _bench(table, server, "gone", lambda call: server.stop() if call == 5 else None)
    with pytest.raises(StorageError, match=r"must answer within 2 s.*go on with --resume") as caught, \
            storage_errors("the study's storage"):
        bench.run()
    assert caught.value.exit_code == 4 and "hunter2" not in str(caught.value)
    server.start()
    again = _bench(table, server, "gone", lambda call: None).run()
    assert [c.trial for c in again] == list(range(12)) and "failed" not in {c.status for c in again}


def test_a_user_without_rights_or_with_another_password_is_refused(server: Server) -> None:
    for url, cause in ((server.url("eve"), "permission denied"), (server.url(password="wrong"), "password auth")):
        began = time.monotonic()
        with pytest.raises(StorageError, match=cause) as caught:
            open_storage(url)
        assert "hunter2" not in str(caught.value) and time.monotonic() - began < 60
