"""A whole search by actors of Ray: the user's code, network, data and weights travel, and the file is verified."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from small_search import bright_rows, write_data
from torch import nn

import autocompress
from autocompress.core.evaluation import SHORT
from autocompress.search.engine import Event
from autocompress.study.racing import SAMPLES

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

BLOCKS = """
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x):
        return x + self.norm(self.conv(x)).relu()
"""
NET = """
from blocks import Block
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), Block(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(8, 3))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's files: a network with a neighbour, and data."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "blocks.py").write_text(BLOCKS)
    (tmp_path / "code" / "net.py").write_text(NET)
    write_data(tmp_path)
    return tmp_path


def test_a_search_by_actors_survives_their_end_and_ships_a_verified_file(folder: Path) -> None:
    killed: list[int] = []

    def kill_workers(event: Event) -> None:
        if event.kind == "result" and not killed:
            killed.extend(_workers())
            for process in killed:
                os.kill(process, signal.SIGKILL)

    result = autocompress.search(f"{folder}/code/net.py:net", f"npz:{folder}/data.npz", "2kB", trials=6, epochs=1,
                                 effort="fast", workers="ray", jobs=2, out=folder / "study", on_event=kill_workers)
    assert killed, "workers are processes"
    statuses = [candidate.status for candidate in result.candidates]
    assert len(statuses) == 6 and "failed" not in statuses and "running" not in statuses
    assert any(e.rung >= SHORT for c in result.candidates for e in c.evaluations)
    assert result.to_dict()["artifact"]["verified"]
    until = time.monotonic() + 60  # Ray ends its processes behind the call
    while _workers() and time.monotonic() < until:
        time.sleep(0.2)
    assert not _workers(), "all have ended"


def _workers() -> list[int]:
    """Processes of actors, by what Ray calls them."""
    numbers = subprocess.run(["pgrep", "-f", "ray::RayWorker"], capture_output=True, text=True, check=False).stdout
    return [int(line) for line in numbers.split()]


def _bright_rows(samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures and labels as tensors."""
    pictures, labels = bright_rows(samples)
    return torch.from_numpy(pictures), torch.from_numpy(labels)


def _network() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
    optimiser, (pictures, labels) = torch.optim.Adam(net.parameters(), 1e-2), _bright_rows(600)
    for _ in range(60):
        loss = nn.functional.cross_entropy(net(pictures), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net


def test_a_task_of_the_users_batches_travels_to_actors(tmp_path: Path) -> None:
    pictures, labels = _bright_rows(240)
    task = autocompress.Task(train=(pictures, labels), metric="accuracy", loss=_loss, name="rows")
    result = autocompress.search(_network(), task=task, budget="4kB", trials=4, epochs=1, effort="fast", workers="ray",
                                 jobs=2, profile="stm32h743", out=tmp_path / "study")
    assert "failed" not in {c.status for c in result.candidates} and result.to_dict()["artifact"]["verified"]
    assert any(e.rung >= SHORT and e.weights for c in result.candidates for e in c.evaluations)


def _loss(outputs: Any, batch: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs["output"], batch[1])


def test_actors_score_candidates_on_as_many_samples_as_the_driver_says(tmp_path: Path) -> None:
    pictures, labels = _bright_rows(7000)
    train, validation, test = ((pictures[rows], labels[rows]) for rows in (slice(0, 300), slice(300, 6300),
                                                                          slice(6300, None)))
    data = {"train": train, "val": validation, "test": test, "classes": 3}
    result = autocompress.search(_network(), data, "4kB", profile="stm32h743", trials=6, epochs=1, effort="fast",
                                 workers="ray", jobs=2, out=tmp_path / "study")
    scored = {int(e.metrics[SAMPLES]) for c in result.candidates for e in c.evaluations}
    best = result.best
    assert min(scored) < 6000, "few samples at first"
    assert best is not None and best.metrics[SAMPLES] == result.baseline[SAMPLES] == max(scored)
    assert "failed" not in {c.status for c in result.candidates} and result.to_dict()["artifact"]["verified"]
