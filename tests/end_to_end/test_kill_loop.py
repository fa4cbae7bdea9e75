"""Killed again and again at random moments and resumed: nothing is lost, nothing repeated, the end is the same."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from autocompress.cli.main import run
from autocompress.errors import AutocompressError
from autocompress.study import open_study

KILLS, SEED = int(os.environ.get("AUTOCOMPRESS_KILLS", "50")), int(os.environ.get("AUTOCOMPRESS_KILLS_SEED", "0"))
TRIALS, RETRIES = 8, 2
MARKS = ["tracing and measuring", "predicting what", *(f"[{n}/{TRIALS}]" for n in range(1, TRIALS + 1)),
         "distilled briefly", "[1/5]", "[3/5]", "candidates distilled (", "exporting and verifying"]
NET = """
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
                         nn.Conv2d(8, 16, 3, padding=1, stride=2), nn.BatchNorm2d(16), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A search whose metrics are the same in every run: latency is estimated."""
    folder = tmp_path_factory.mktemp("task")
    (folder / "net.py").write_text(NET)
    names: dict[str, Any] = {}
    exec(NET, names)
    torch.manual_seed(0)
    model: nn.Module = names["make"]()
    rng = np.random.default_rng(0)
    y = np.arange(300) % 3
    x = rng.normal(0, 0.6, (300, 1, 8, 8)).astype(np.float32)
    for picture, label in zip(x, y, strict=True):
        picture[0, 2 * label:2 * label + 3, :] += 1
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(y))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    save_file(model.state_dict(), folder / "net.safetensors")
    np.savez(folder / "data.npz", x=x, y=y)
    return ["search", "--model", f"{folder}/net.py:make", "--weights", f"{folder}/net.safetensors", "--data",
            f"npz:{folder}/data.npz", "--budget", "2.8kB", "--profile", "stm32h743", "--trials", str(TRIALS),
            "--epochs", "1", "--json"]


class Run:
    """The command in a process of its own, forked from one that has loaded the libraries: that takes most of the time
    of a small search."""

    def __init__(self, args: list[str], folder: Path) -> None:
        self._out, self._err = folder / "out", folder / "err"
        for path in (self._out, self._err):
            path.write_text("")
        self.process = multiprocessing.get_context("forkserver").Process(
            target=work, args=(args, str(self._out), str(self._err)))
        self.process.start()

    def kill_at(self, mark: str, seconds: float) -> None:
        """Kill it so long after its progress says `mark`, unless it has ended by then."""
        while self.process.is_alive() and mark not in self.err:
            time.sleep(0.005)
        self.process.join(seconds)
        self.process.kill()

    def end(self) -> int | None:
        """The exit code."""
        self.process.join(600)
        return self.process.exitcode

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()


def work(args: list[str], out: str, err: str) -> None:
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    run(args)


def table(study: Path) -> list[tuple[Any, ...]]:
    return [(c.trial, c.status, c.origin, c.plan, c.reason, c.duplicate_of,
             [(e.rung, e.metrics, e.file) for e in c.evaluations]) for c in open_study(study).candidates]


def evaluations(study: Path) -> dict[tuple[int, int], Any]:
    """What is known, with the seconds that it took: an evaluation that was repeated took others."""
    return {(c.trial, e.rung): e for c in open_study(study).candidates for e in c.evaluations}


def files(study: Path) -> set[str]:
    """A study's files but those of an open database."""
    return {str(path.relative_to(study)) for path in study.rglob("*")
            if path.is_file() and path.suffix not in (".db-wal", ".db-shm")}


@pytest.mark.slow
@pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="processes cannot be forked")
def test_killed_and_resumed_it_ends_as_if_it_had_never_been(command: list[str], tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("OMP_NUM_THREADS", "1"), ("AUTOCOMPRESS_CACHE", str(tmp_path / "cache")),
                        ("PYTHONWARNINGS", "ignore")):
        monkeypatch.setenv(name, value)
    multiprocessing.set_forkserver_preload(["autocompress.cli.main", "autocompress.study.run", "torch._dynamo",
                                            "torch.onnx", "onnx.reference", "sqlalchemy.orm", "alembic.command"])
    whole = Run([*command, "--out", str(tmp_path / "whole")], tmp_path)
    assert whole.end() == 0, whole.err
    expected, trials, chance = table(tmp_path / "whole"), json.loads(whole.out)["trials"], random.Random(SEED)
    kills = studies = 0
    while kills < KILLS:
        study = tmp_path / f"killed-{studies}"
        studies += 1
        seen: dict[tuple[int, int], Any] = {}
        interrupted: Counter[int] = Counter()
        while True:
            process = Run([*command, "--out", str(study), *(["--resume"] if (study / "study.json").exists() else [])],
                          tmp_path)
            mark, delay = chance.choice(MARKS), chance.choice([0.0, 0.05, 0.3, 1.0])
            often = [trial for trial, times in interrupted.items() if times == RETRIES and (trial, 0) not in seen]
            if often:  # a trial that ends its process once more is given up
                mark, delay = f"[{often[0] + 1}/{TRIALS}]", 0.0
            if kills < KILLS:
                process.kill_at(mark, delay)
            code = process.end()
            assert code in (0, -signal.SIGKILL), process.err
            if code == 0:
                break
            kills += 1
            print(f"{study.name}: kill {kills} {delay} s after {mark!r}", flush=True)
            if (study / "study.json").exists() and (study / "study.db").exists():
                try:
                    rows, stored = table(study), evaluations(study)
                except AutocompressError as error:  # killed before the study was in its database
                    print(error)
                    rows, stored = [], {}
                assert seen.items() <= stored.items(), "nothing is lost or evaluated again"
                seen = stored
                interrupted.update(row[0] for row in rows if row[1] == "running")
        assert seen.items() <= evaluations(study).items(), "nothing is lost or evaluated again"
        assert table(study) == expected
        assert (study / "artifact" / "model.onnx").read_bytes() == (tmp_path / "whole/artifact/model.onnx").read_bytes()
        assert files(study) == files(tmp_path / "whole"), "no leftovers"
        for path in sorted((tmp_path / "whole" / "weights").glob("*.safetensors")):
            expected_weights, weights = load_file(path), load_file(study / "weights" / path.name)
            assert weights.keys() == expected_weights.keys()
            assert all(torch.equal(weights[name], tensor) for name, tensor in expected_weights.items()), path.name
        assert json.loads(process.out)["trials"] == trials
    print(f"{kills} kills, {studies} studies")
