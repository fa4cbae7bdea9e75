"""Two searches on one study of a PostgreSQL server that goes away in the middle: every trial once, both end well."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from postgresql_server import INSTALLED, Server

from autocompress.study import open_study

pytest.importorskip("psycopg")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not INSTALLED, reason="PostgreSQL is not installed")]
TRIALS, SECONDS_AWAY = 24, 20
NET = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One of the test's own."""
    server = Server()
    yield server
    server.close()


def _search(folder: Path, server: Server, number: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from autocompress.cli.main import run; run()", "search", "--model",
               f"{folder}/net.py:net", "--data", f"npz:{folder}/data.npz", "--budget", "8kB", "--profile", "stm32h743",
               "--trials", str(TRIALS), "--epochs", "1", "--name", "shared", "--storage", server.url(), "--resume",
               "--out", str(folder / f"study-{number}"), "--json"]
    with (folder / f"err-{number}").open("w") as err:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True,
                                env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_two_searches_share_a_study_on_a_server_that_goes_away(tmp_path: Path, server: Server,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.py").write_text(NET)
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    pictures = rng.normal(0, 0.6, (300, 1, 8, 8)).astype(np.float32)
    for picture, label in zip(pictures, labels, strict=True):
        picture[0, 2 * label:2 * label + 3, :] += 1
    np.savez(tmp_path / "data.npz", x=pictures, y=labels)
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
        candidates = open_study(tmp_path / f"study-{number}").candidates
        assert [c.trial for c in candidates] == list(range(TRIALS))
        assert not {"failed", "running"} & {c.status for c in candidates}
        plans = [c.plan.fingerprint for c in candidates if c.plan and c.duplicate_of is None]
        assert len(set(plans)) == len(plans), "no plan was evaluated twice"
    Server.forget_connections()
