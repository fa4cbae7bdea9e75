"""Studies on a MariaDB server: whole searches, large candidates, and a server that goes away and comes back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from engine_bench import Bench
from mariadb_server import INSTALLED, Server

from autocompress.core.evaluation import Candidate, Evaluation
from autocompress.core.front import objectives
from autocompress.core.layer import LayerTable
from autocompress.core.plan import Plan, Receipt
from autocompress.errors import StorageError
from autocompress.search.databases import open_storage
from autocompress.search.efforts import Schedule
from autocompress.search.samplers.make import make_sampler
from autocompress.search.storage import candidates, create_study, load_study, store_candidate
from autocompress.tasks.classification.metric import ACCURACY

pytest.importorskip("pymysql")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not INSTALLED, reason="MariaDB is not installed"),
              pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One that the tests share."""
    server = Server()
    yield server
    server.close()


def _study(server: Server, name: str) -> Any:
    storage, sampler = open_storage(server.url()), make_sampler("random", 0)
    return load_study(storage, name, sampler) or create_study(storage, name, sampler, {}, objectives(ACCURACY))


def test_a_search_is_the_same_as_in_memory(table: LayerTable, server: Server) -> None:
    there = Bench(table, study=_study(server, "same"), trials=10, schedule=Schedule(short=3, long=1)).run()
    here = Bench(table, trials=10, schedule=Schedule(short=3, long=1)).run()
    assert [(c.plan, c.status, c.evaluations) for c in there] == [(c.plan, c.status, c.evaluations) for c in here]
    stored = candidates(load_study(open_storage(server.url()), "same"))
    assert [c.evaluations for c in stored] == [c.evaluations for c in here]


def test_a_server_that_is_killed_and_comes_back_loses_no_trial(table: LayerTable, server: Server) -> None:
    def damage(call: int, metrics: dict[str, float]) -> dict[str, float]:
        if call == 4:
            server.stop()
            threading.Timer(2.0, server.start).start()
        return metrics

    bench = Bench(table, study=_study(server, "away"), trials=10, damage=damage)
    everyone = bench.run()
    assert [c.trial for c in everyone] == list(range(10)) and not {"failed", "running"} & {c.status for c in everyone}
    assert len(set(bench.fake.calls)) == len(bench.fake.calls), "nothing is evaluated twice"


def test_a_candidate_of_a_large_network_is_stored_whole(server: Server) -> None:
    study = _study(server, "large")
    receipts = tuple(Receipt(f"layer{i}", "prune", {"kept": list(range(500))}) for i in range(100))
    candidate = Candidate(trial=0, status="complete", plan=Plan(), evaluations=(
        Evaluation(rung=0, metrics={"accuracy": 0.9}, sources={}, receipts=receipts),))
    store_candidate(study.ask(), candidate)
    assert candidates(load_study(open_storage(server.url()), "large")) == [candidate]


def test_another_password_is_refused_without_being_shown(server: Server) -> None:
    with pytest.raises(StorageError, match="Access denied") as caught:
        open_storage(server.url(password="wrong-one"))
    assert "wrong-one" not in str(caught.value) and caught.value.exit_code == 4
