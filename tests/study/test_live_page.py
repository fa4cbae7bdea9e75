"""The live page: it holds the trials, follows the search, and is served to nobody else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import msgspec
import pytest
from postgresql_server import INSTALLED, PASSWORD, Server
from stored_study import filled

from autocompress.cli.main import main
from autocompress.core.evaluation import Candidate
from autocompress.core.plan import Plan
from autocompress.core.search_status import Running, SearchStatus
from autocompress.errors import EnvironmentFault, InputError
from autocompress.search.engine import Event
from autocompress.search.publisher import Publisher
from autocompress.search.study_store import StudyStore
from autocompress.study import live_server
from autocompress.study.folder import read_description, read_store
from autocompress.study.live_page import LivePage
from autocompress.study.live_server import LiveServer
from autocompress.study.result import open_study

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
STATUS = SearchStatus(host="<b>far", process=7, beat=1, phase="calibrating candidates", done=3, total=9, workers=4,
                      running=(Running(trial=5, rung=1, seconds=61.0),), seconds_left=120.0, is_limited=True)


@contextmanager
def _served(folder: Path, host: str = "127.0.0.1") -> Iterator[LiveServer]:
    with LiveServer(LivePage(folder), host, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def _get(server: LiveServer, path: str = "/", **headers: str) -> tuple[HTTPResponse, str]:
    connection = HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer, answer.read().decode()
    finally:
        connection.close()


def _store(folder: Path) -> StudyStore:
    return read_store(folder, read_description(folder))


def test_the_page_holds_the_trials_and_follows_the_study(tmp_path: Path) -> None:
    _follow(tmp_path, None)


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="PostgreSQL is not installed")
def test_the_page_follows_a_study_on_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg")
    server = Server()
    monkeypatch.setenv("AUTOCOMPRESS_STORAGE_PASSWORD", PASSWORD)
    try:
        _follow(tmp_path, server.url())
        _look_again(tmp_path, server)
    finally:
        Server.forget_connections()
        server.close()


def _look_again(folder: Path, database: Server) -> None:
    """At the study that was followed, while connections are cut."""
    with _served(folder) as server:
        assert 'data-trials="7"' in _get(server)[1]
        database.cut_connections()
        assert "process 7" in _get(server, "/live")[1], "the driver is still told of"


def _follow(tmp_path: Path, url: str | None) -> None:
    study, _ = filled(tmp_path, 6, url)
    with _served(tmp_path) as server:
        answer, page = _get(server)
        assert answer.status == 200 and 'data-trials="6"' in page and "Plotly" in page
        assert "No search runs on this study at the moment" in page
        assert "connect-src 'self'" in page and answer.headers["X-Frame-Options"] == "DENY"
        before = json.loads(_get(server, "/live")[1])
        assert before == json.loads(_get(server, "/live")[1]) and before["version"] in page
        _store(tmp_path).publish("a", STATUS)
        told = json.loads(_get(server, "/live")[1])
        assert told["version"] == before["version"], "the page need not be drawn again"
        for words in ("calibrating candidates 3/9", "1 of 4 busy", "2m00s", "trial 5, distilled briefly, for 1m01s",
                      "process 7 on &lt;b&gt;far"):
            assert words in told["markup"]
        study.add_trial(study.trials[0])
        assert json.loads(_get(server, "/live")[1])["version"] != before["version"]
        content = _get(server, "/content")[1]
        assert 'data-trials="7"' in content and "Plotly.react" not in content
        assert _get(server, "/trials.csv")[1].count("\r\n") == 8
        assert len(json.loads(_get(server, "/trials.json")[1])) == 7
        assert _get(server, "/study.db")[0].status == 404


@pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome on the PATH")
def test_a_browser_takes_over_what_has_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "study").mkdir()
    study, _ = filled(tmp_path / "study", 4)
    real = LivePage.text

    def text(self: LivePage, name: str) -> str:
        whole = real(self, name)
        if name == "page":  # behind it the study grows
            study.add_trial(study.trials[0])
            _store(tmp_path / "study").publish("a", STATUS)
        return whole

    monkeypatch.setattr(LivePage, "text", text)
    with _served(tmp_path / "study") as server:
        command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
                   "--disable-background-networking", "--virtual-time-budget=15000", "--enable-logging=stderr",
                   f"--user-data-dir={tmp_path}/profile", "--dump-dom", server.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    assert re.search(r'<body data-trials="5" data-points="5"', done.stdout)
    assert "1 of 4 busy" in done.stdout and "trial 5, distilled briefly, for" in done.stdout


def test_a_driver_whose_process_is_gone_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, 1)
    _store(tmp_path).publish("a", STATUS)
    page = LivePage(tmp_path)
    assert "process 7" in page.look().markup
    monkeypatch.setattr("autocompress.study.live_page.socket.gethostname", lambda: STATUS.host)
    monkeypatch.setattr("autocompress.study.live_page.is_alive", lambda process: False)
    assert "No search runs" in page.look().markup


def test_silence_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, 1)
    store, page, now = _store(tmp_path), LivePage(tmp_path), [100.0]
    monkeypatch.setattr("autocompress.study.live_page.time.monotonic", lambda: now[0])
    store.publish("a", STATUS)
    assert "last heard of" not in page.look().markup
    now[0] += 45
    assert "45s ago" in page.look().markup and "1m15s" in page.look().markup, "time left goes on"
    store.publish("a", msgspec.structs.replace(STATUS, beat=2))
    assert "last heard of" not in page.look().markup


@pytest.mark.parametrize(("host", "status"), [
    ("127.0.0.1", 200), ("localhost:9000", 200), ("[::1]:80", 200), ("evil.example", 403), ("evil.example:8080", 403),
    ("localhost.evil.example", 403), ("10.0.0.1", 403), ("", 403)])
def test_a_name_that_is_none_of_the_machine_is_refused(tmp_path: Path, host: str, status: int) -> None:
    filled(tmp_path, 1)
    with _served(tmp_path) as server:
        answer, text = _get(server, Host=host)
        assert answer.status == status and ("trials" in text) == (status == 200)


def test_off_the_loopback_address_a_token_is_asked_for(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    with _served(tmp_path, "0.0.0.0") as server:
        assert len(server.token) >= 24 and f"?token={server.token}" in server.url
        for path, headers in (("/", {}), ("/live", {}), ("/?token=wrong", {}),
                              ("/", {"Cookie": "autocompress-token=x"})):
            answer, text = _get(server, path, **headers)
            assert answer.status == 401 and "trial" not in text
        answer, _ = _get(server, f"/?token={server.token}")
        assert answer.status == 200 and "HttpOnly; SameSite=Strict" in answer.headers["Set-Cookie"]
        assert _get(server, "/live", Cookie=answer.headers["Set-Cookie"].partition(";")[0])[0].status == 200
        assert _get(server, f"/?token={server.token}", Host="evil.example")[0].status == 403


def test_other_requests_than_reading_are_refused(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    with _served(tmp_path) as server:
        connection = HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
        connection.request("POST", "/", body="x")
        assert connection.getresponse().status == 501
        connection.close()


def test_a_port_that_is_taken_and_a_host_of_another_machine_are_said(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    with _served(tmp_path) as server, \
            pytest.raises(EnvironmentFault, match=r"port \d+ of 127.0.0.1 must be free.*--port"):
        LiveServer(LivePage(tmp_path), "127.0.0.1", server.server_address[1])
    with pytest.raises(InputError, match="--host must be an address or a name of this machine"):
        LiveServer(LivePage(tmp_path), "no such host", 0)


def test_a_study_that_is_not_there_ends_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", str(tmp_path)]) == 2
    assert "STUDY must be the folder of a study" in capsys.readouterr().err
    filled(tmp_path, 1)
    (tmp_path / "study.db").unlink()
    assert main(["watch", str(tmp_path)]) == 4
    assert main(["watch", str(tmp_path), "--port", "70000"]) == 2


def test_ctrl_c_ends_it_well(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                             monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, 1)

    def interrupted(self: LiveServer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(live_server.LiveServer, "serve_forever", interrupted)
    assert main(["watch", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("http://127.0.0.1:")


def test_a_search_publishes_what_it_is_at_and_leaves_nothing_behind(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    store, told = _store(tmp_path), threading.Event()
    publisher, publish = Publisher(store, news_seconds=0.01), store.publish

    def watched(driver: str, status: SearchStatus | None) -> None:
        publish(driver, status)
        if status is not None and status.running:
            told.set()

    store.publish = watched  # type: ignore[method-assign]
    with publisher.present():
        publisher(Event(kind="start", text="trial 4", rung=2, workers=3,
                        candidate=Candidate(trial=4, status="running", plan=Plan())))
        assert told.wait(30)
        (status,) = store.watched()[1].values()
        assert (status.workers, status.running[0].trial, status.running[0].rung) == (3, 4, 2)
    assert store.watched()[1] == {} and len(open_study(tmp_path).candidates) == 2
