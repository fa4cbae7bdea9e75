"""Ctrl-C, and going on afterwards."""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from autocompress.cli.main import main
from autocompress.study import open_study


class Pressed(io.StringIO):
    """Standard error of a user who presses Ctrl-C when a line says a word."""

    def __init__(self, word: str) -> None:
        super().__init__()
        self.word = word

    def write(self, text: str) -> int:
        if self.word and self.word in text:
            self.word = ""
            signal.raise_signal(signal.SIGINT)
        return super().write(text)


def test_one_sigint_keeps_the_study_and_resume_completes_it(
    cli: Callable[..., Any], task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["search", *task.flags, "--budget", "2.8kB", "--trials", "4", "--epochs", "1", "--sampler", "random",
               "--name", "../../e vil/<b>ñ", "--json"]
    monkeypatch.chdir(tmp_path)
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    out, err = io.StringIO(), Pressed("[2/4]")
    with redirect_stdout(out), redirect_stderr(err):
        code = main(command)
    assert code == 130, err.getvalue()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert "--resume" in err.getvalue() and "Traceback" not in err.getvalue()
    first = json.loads(out.getvalue())

    assert sorted(path.name for path in tmp_path.iterdir()) == ["studies"]  # a wild name stays inside
    (folder,) = (tmp_path / "studies").iterdir()
    before = {c.trial: c.plan.fingerprint for c in open_study(folder).candidates if c.plan and c.metrics}
    assert 2 <= len(before) < 4 and sum(first["trials"].values()) >= 2

    after = cli(*command, "--resume")
    assert after.code == 0, after.err
    everyone = [c for c in open_study(folder).candidates if c.metrics]
    assert len(everyone) == 4
    assert before.items() <= {c.trial: c.plan.fingerprint for c in everyone if c.plan}.items()
    assert after.document["artifact"]["verified"] is True
