"""Two searches on one study of a PostgreSQL server that goes away in the middle: every trial once, both end well."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgresql_server import INSTALLED, Server
from small_search import require_each_once, search_command, write_files

from autocompress.study import open_study

pytest.importorskip("psycopg")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not INSTALLED, reason="PostgreSQL is not installed")]
TRIALS, SECONDS_AWAY = 24, 20


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One of the test's own."""
    server = Server()
    yield server
    server.close()


def _search(folder: Path, server: Server, number: int) -> subprocess.Popen[str]:
    command = search_command(folder, TRIALS, "--name", "shared", "--storage", server.url(), "--out",
                             str(folder / f"study-{number}"))
    with (folder / f"err-{number}").open("w") as err:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True,
                                env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_two_searches_share_a_study_on_a_server_that_goes_away(tmp_path: Path, server: Server,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path)
    searches = [_search(tmp_path, server, number) for number in range(2)]
    errors = [tmp_path / f"err-{number}" for number in range(2)]
    while "[5/" not in "".join(path.read_text() for path in errors):
        time.sleep(0.1)
        assert None in [search.poll() for search in searches], [path.read_text() for path in errors]
    server.stop("fast")
    time.sleep(SECONDS_AWAY)
    server.start()
    time.sleep(3)
    server.cut_connections()
    outputs = [search.communicate(timeout=600)[0] for search in searches]
    told = [path.read_text() for path in errors]
    assert [search.returncode for search in searches] == [0, 0], told
    assert "does not answer" in "".join(told) and all('"verified": true' in output for output in outputs)
    monkeypatch.setenv("AUTOCOMPRESS_STORAGE_PASSWORD", "hunter2")
    for number in range(2):
        require_each_once(open_study(tmp_path / f"study-{number}").candidates, TRIALS)
    Server.forget_connections()
