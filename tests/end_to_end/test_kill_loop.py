"""Killed again and again at random moments and resumed: nothing is lost, nothing repeated, the end is the same."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from autocompress.study import open_study

KILLS = int(os.environ.get("AUTOCOMPRESS_KILLS", "50"))
START = [sys.executable, "-c", "from autocompress.cli.main import run; run()"]
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
            f"npz:{folder}/data.npz", "--budget", "2.8kB", "--profile", "stm32h743", "--trials", "8", "--epochs", "2",
            "--json"]


def table(study: Path) -> list[tuple[Any, ...]]:
    return [(c.trial, c.status, c.origin, c.plan, c.reason, c.duplicate_of,
             [(e.rung, e.metrics) for e in c.evaluations]) for c in open_study(study).candidates]


def files(study: Path) -> set[str]:
    return {str(path.relative_to(study)) for path in study.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_killed_and_resumed_it_ends_as_if_it_had_never_been(command: list[str], tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "AUTOCOMPRESS_CACHE": str(tmp_path / "cache"),
                                "PYTHONWARNINGS": "ignore"}
    whole = subprocess.run([*START, *command, "--out", str(tmp_path / "whole")], env=environment, check=True,
                           capture_output=True, text=True)
    expected, chance = table(tmp_path / "whole"), random.Random(0)
    marks = ["tracing and measuring", "predicting what", *(f"[{n}/8]" for n in range(1, 9)), "distilled briefly",
             "[1/5]", "[3/5]", "candidates distilled (", "exporting and verifying"]
    kills = studies = 0
    while kills < KILLS:
        study = tmp_path / f"killed-{studies}"
        studies += 1
        seen: dict[tuple[int, int], Any] = {}
        finished = False
        while not finished:
            process = subprocess.Popen([*START, *command, "--out", str(study),
                                        *(["--resume"] if (study / "study.json").exists() else [])],
                                       env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            assert process.stderr is not None
            mark, delay, said = chance.choice(marks), chance.choice([0.0, 0.05, 0.3, 1.0]), ""
            if kills < KILLS:
                for line in process.stderr:
                    said += line
                    if mark in line:
                        try:
                            process.wait(delay)
                        except subprocess.TimeoutExpired:
                            process.send_signal(signal.SIGKILL)
                        break
            out, err = process.communicate(timeout=600)
            finished = process.returncode == 0
            kills += process.returncode == -signal.SIGKILL
            assert process.returncode in (0, -signal.SIGKILL), said + err
            if (study / "study.json").exists() and (study / "study.db").exists() and not finished:
                try:
                    known = {(row[0], rung): metrics for row in table(study) for rung, metrics in row[6]}
                except Exception:  # killed before the study was in its database
                    known = {}
                assert seen.items() <= known.items(), "nothing is lost or evaluated again"
                seen = known
        assert table(study) == expected
        assert (study / "artifact" / "model.onnx").read_bytes() == (tmp_path / "whole/artifact/model.onnx").read_bytes()
        assert files(study) == files(tmp_path / "whole"), "no leftovers"
        assert json.loads(out)["trials"] == json.loads(whole.stdout)["trials"]
    print(f"{kills} kills, {studies} studies")
