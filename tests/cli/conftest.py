"""The command line in this process, and one small finished study that the tests share."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from autocompress.cli.main import main

NET = '''
from torch import nn

def make():
    print("building the network")
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1, stride=2), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))

def dense():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
'''


@dataclass(frozen=True)
class Outcome:
    """What a command line did."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output as one JSON document."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Task:
    """A user's network and data, and the flags that name them."""

    folder: Path
    flags: tuple[str, ...]


def invoke(*args: str) -> Outcome:
    """Run one command line."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(list(args))
    return Outcome(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module", autouse=True)
def short(short_searches: None) -> None:
    """Nothing here hangs on how well a network recovers."""


@pytest.fixture(scope="session")
def cli() -> Callable[..., Outcome]:
    """Run one command line in this process."""
    return invoke


def write_task(folder: Path, factory: str, x: np.ndarray, y: np.ndarray, steps: int) -> Task:
    """Train the network on all of the data and write everything that a user would have."""
    torch.manual_seed(0)
    (folder / "net.py").write_text(NET)
    names: dict[str, Any] = {}
    exec(NET.replace("print", "str"), names)
    model: nn.Module = names[factory]()
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(y))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    save_file(model.state_dict(), folder / "net.safetensors")
    np.savez(folder / "data.npz", x=x, y=y)
    return Task(folder, ("--model", f"{folder}/net.py:{factory}", "--weights", f"{folder}/net.safetensors",
                         "--data", f"npz:{folder}/data.npz"))


@pytest.fixture(scope="session")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """Three classes of 8×8 pictures, told apart by the row that is bright."""
    rng = np.random.default_rng(0)
    y = np.arange(300) % 3
    x = rng.normal(0, 0.6, (300, 1, 8, 8)).astype(np.float32)
    for picture, label in zip(x, y, strict=True):
        picture[0, 2 * label:2 * label + 3, :] += 1
    return write_task(tmp_path_factory.mktemp("task"), "make", x, y, steps=60)


@pytest.fixture(scope="session")
def unreachable(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """Random labels learned by heart: no small network that saw the training split only can be as accurate."""
    rng = np.random.default_rng(1)
    x = rng.normal(0, 1, (300, 1, 8, 8)).astype(np.float32)
    return write_task(tmp_path_factory.mktemp("noise"), "dense", x, rng.integers(0, 3, 300), steps=200)


@dataclass(frozen=True)
class Finished:
    """A finished study, what its search said, and the command line."""

    folder: Path
    outcome: Outcome
    command: tuple[str, ...]


@pytest.fixture(scope="session")
def finished(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One whole search with --json."""
    folder = tmp_path_factory.mktemp("studies") / "small"
    command = ("search", *task.flags, "--budget", "2.8kB", "--trials", "3", "--epochs", "1", "--out", str(folder))
    return Finished(folder, invoke(*command, "--json"), command)
