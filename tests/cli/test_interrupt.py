"""Ctrl-C, and going on afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autocompress.study import open_study

START = [sys.executable, "-c", "from autocompress.cli.main import run; run()"]


def test_one_sigint_keeps_the_study_and_resume_completes_it(
    cli: Callable[..., Any], task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["search", *task.flags, "--budget", "2.8kB", "--trials", "4", "--epochs", "1", "--sampler", "random",
               "--name", "../../e vil/<b>ñ", "--json"]
    process = subprocess.Popen([*START, *command], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"})
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("[2/4]"):
                process.send_signal(signal.SIGINT)
                break
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "--resume" in err and "Traceback" not in err
    first = json.loads(out)

    monkeypatch.chdir(tmp_path)
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
