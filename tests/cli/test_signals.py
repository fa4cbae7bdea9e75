"""Being told to stop at any moment: real processes, real signals, one JSON document whatever the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

START = [sys.executable, "-c", "from autocompress.cli.main import run; run()"]
HANGS = '''
import threading, time
import numpy as np
from autocompress.tasks.splits import TaskData

def hang(inputs, generator):
    while True:
        try:
            time.sleep(1000)
        except {caught}:
            pass

def data():
    import dataclasses
    from autocompress.tasks.data import load_data
    found = load_data("npz:{npz}")
    return dataclasses.replace(found, augment=hang)

def make():
    print("building", flush=True)
    time.sleep(1000)
'''


class Run:
    """A search in a process of its own, which is sent a signal when its progress says a word."""

    def __init__(self, folder: Path, *args: str) -> None:
        self.process = subprocess.Popen(
            [*START, *args, "--json"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1"})
        self.seconds = 0.0

    def send_at(self, word: str, *signals: int, after: float = 0.0) -> Run:
        assert self.process.stderr is not None
        self.said = ""
        for line in self.process.stderr:
            self.said += line
            if word in line:
                break
        time.sleep(after)
        began = time.monotonic()
        for number in signals:
            self.process.send_signal(number)
            time.sleep(0.3)
        out, err = self.process.communicate(timeout=120)
        self.seconds, self.document, self.said = time.monotonic() - began, json.loads(out), self.said + err
        return self


@pytest.fixture
def search(tmp_path: Path, task: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    def begin(*more: str, flags: tuple[str, ...] = task.flags) -> Run:
        run = Run(tmp_path, "search", *flags, "--budget", "2.8kB", "--trials", "4", "--epochs", "1", "--out", "study",
                  *more)
        runs.append(run)
        return run

    runs: list[Run] = []
    yield begin
    for run in runs:
        run.process.kill()
        run.process.communicate()


def test_sigterm_while_tracing_ends_with_a_word_and_a_document(search: Callable[..., Run], tmp_path: Path) -> None:
    run = search().send_at("tracing and measuring", signal.SIGTERM)
    assert run.process.returncode == 130, run.said
    assert run.document == {"error": {"code": 130, "message": "stopped by SIGTERM before a study was begun: nothing "
                                                              "was kept"}}
    assert "Traceback" not in run.said and "error: stopped by SIGTERM before" in run.said
    assert not (tmp_path / "study").exists(), "nothing was begun"


@pytest.mark.slow
def test_sigterm_while_predicting_and_then_while_calibrating(search: Callable[..., Run], cli: Callable[..., Any],
                                                             tmp_path: Path) -> None:
    run = search().send_at("predicting what each option", signal.SIGTERM)
    assert run.process.returncode == 130 and run.document["error"]["code"] == 130, run.said
    assert run.document["trials"]["complete"] == 0 and "--resume" in run.document["error"]["message"]
    run = search("--resume").send_at("[2/4]", signal.SIGTERM)
    assert run.process.returncode == 130 and sum(run.document["trials"].values()) >= 2, run.said
    assert (tmp_path / "study" / "report" / "pareto.html").is_file()
    assert not (tmp_path / "study" / "study.lock").exists()
    done = cli("search", "--resume", "--out", str(tmp_path / "study"), "--trust-code", "--json", "--quiet")
    assert done.code == 0 and sum(done.document["trials"].values()) == 4, done.err


@pytest.mark.slow
def test_a_second_sigint_stops_at_once_with_a_document(search: Callable[..., Run]) -> None:
    run = search().send_at("[1/4]", signal.SIGINT, signal.SIGINT)
    assert run.process.returncode == 130 and run.document["error"]["code"] == 130, run.said
    assert "Traceback" not in run.said


@pytest.mark.slow
@pytest.mark.parametrize("caught", ["ValueError", "BaseException"])
def test_code_that_hangs_does_not_keep_the_process(search: Callable[..., Run], task: Any, tmp_path: Path,
                                                   caught: str) -> None:
    (tmp_path / "hang.py").write_text(HANGS.format(npz=task.folder / "data.npz", caught=caught))
    flags = (*task.flags[:4], "--data", f"{tmp_path}/hang.py:data")
    run = search("--epochs", "1", flags=flags).send_at("distilled briefly", signal.SIGTERM, after=5)
    assert run.process.returncode == 130 and run.seconds < 60, run.said
    assert run.document["error"]["code"] == 130 and sum(run.document["trials"].values()) == 4
    assert (tmp_path / "study" / "report" / "pareto.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_evaluations_that_hang_end_at_their_limit(search: Callable[..., Run], task: Any, tmp_path: Path,
                                                  jobs: str) -> None:
    (tmp_path / "hang.py").write_text(HANGS.format(npz=task.folder / "data.npz", caught="ValueError"))
    flags = (*task.flags[:4], "--data", f"{tmp_path}/hang.py:data")
    run = search("--trial-timeout", "20s", "--jobs", jobs, flags=flags).send_at("exporting and verifying")
    assert run.process.returncode == 0, run.said
    assert run.document["artifact"]["verified"] is True
    assert "timeout: the evaluation took longer than 20 s" in run.said


@pytest.mark.slow
def test_one_sigint_reaches_every_worker(search: Callable[..., Run], tmp_path: Path) -> None:
    run = search("--jobs", "2", "--epochs", "100000").send_at("candidates distilled (", signal.SIGINT, after=3)
    assert run.process.returncode == 130 and run.seconds < 30, run.said
    assert sum(run.document["trials"].values()) == 4


@pytest.mark.parametrize(("args", "code"), [
    (("search", "--budget", "abc", "--json"), 2), (("search", "--nope", "--json"), 2),
    (("show", "nowhere", "--json"), 2)])
def test_one_document_for_every_error(cli: Callable[..., Any], args: tuple[str, ...], code: int) -> None:
    out = cli(*args)
    assert out.code == code == out.document["error"]["code"]
    assert out.err == f"error: {out.document['error']['message']}\n"


@pytest.mark.parametrize(("error", "code"), [(RuntimeError("odd"), 1), (OSError(28, "No space left"), 4),
                                             (SystemExit(3), 2), (KeyboardInterrupt(), 130)])
def test_one_document_for_every_exit_code(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                          error: BaseException, code: int) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("autocompress.cli.setting_flags.check_source", fail)
    out = cli("search", "--json")
    assert out.code == code == out.document["error"]["code"] and "Traceback" not in out.err
    assert ("this is a bug" in out.document["error"]["message"]) == (code == 1)
