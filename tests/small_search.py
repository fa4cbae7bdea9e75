"""A small network and its data in files, the command that searches them, and what must come of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autocompress.core.evaluation import Candidate

NET = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3))
"""


def bright_rows(samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures `(samples, 1, 8, 8)` of three classes, told apart by the rows that are bright, and their labels."""
    rng, labels = np.random.default_rng(0), np.arange(samples) % 3
    pictures = rng.normal(0, 0.6, (samples, 1, 8, 8)).astype(np.float32)
    for picture, label in zip(pictures, labels, strict=True):
        picture[0, 2 * label:2 * label + 3, :] += 1
    return pictures, labels


def write_data(folder: Path) -> None:
    """Write `data.npz`."""
    pictures, labels = bright_rows(300)
    np.savez(folder / "data.npz", x=pictures, y=labels)


def write_files(folder: Path) -> None:
    """Write `net.py` and `data.npz`."""
    (folder / "net.py").write_text(NET)
    write_data(folder)


def search_command(folder: Path, trials: int, *more: str) -> list[str]:
    """The command of a search of what `write_files` wrote, which may be given again to go on."""
    return [sys.executable, "-c", "from autocompress.cli.main import run; run()", "search", "--model",
            f"{folder}/net.py:net", "--data", f"npz:{folder}/data.npz", "--budget", "8kB", "--profile", "stm32h743",
            "--trials", str(trials), "--epochs", "1", "--resume", "--json", *more]


def require_each_once(candidates: Sequence[Candidate], trials: int) -> None:
    """All trials are there, none failed or open, and no plan was evaluated twice."""
    assert [c.trial for c in candidates] == list(range(trials))
    assert not {"failed", "running"} & {c.status for c in candidates}, [c.reason for c in candidates]
    plans = [c.plan.fingerprint for c in candidates if c.plan and c.duplicate_of is None]
    assert len(set(plans)) == len(plans), "no plan was evaluated twice"
