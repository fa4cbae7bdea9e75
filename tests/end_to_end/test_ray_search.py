"""A whole search by actors of Ray: the user's code, network, data and weights travel, and the file is verified."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

import autocompress
from autocompress.core.evaluation import SHORT
from autocompress.search.engine import Event

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
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    pictures = rng.normal(0, 0.6, (300, 1, 8, 8)).astype(np.float32)
    for picture, label in zip(pictures, labels, strict=True):
        picture[0, 2 * label:2 * label + 3, :] += 1
    np.savez(tmp_path / "data.npz", x=pictures, y=labels)
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
    assert not _workers(), "all have ended"


def _workers() -> list[int]:
    """Processes of actors, by what Ray calls them."""
    numbers = subprocess.run(["pgrep", "-f", "ray::RayWorker"], capture_output=True, text=True, check=False).stdout
    return [int(line) for line in numbers.split()]
