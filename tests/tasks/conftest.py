"""Small data for the tests of tasks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from autocompress.tasks.data import TaskData, load_data


@pytest.fixture
def pixels() -> tuple[np.ndarray, np.ndarray]:
    """60 grey 8×8 pictures of 3 classes."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (60, 1, 8, 8), dtype=np.uint8), np.arange(60) % 3


@pytest.fixture
def data(pixels: tuple[np.ndarray, np.ndarray]) -> TaskData:
    """The pictures as task data."""
    return load_data(pixels)


@pytest.fixture
def net() -> nn.Module:
    """A network that fits them."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


NET_FILE = """
from torch import nn
from torchvision.models import resnet18
import neighbour

def model():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, neighbour.CLASSES))

def data():
    import numpy as np
    return np.zeros((40, 1, 8, 8), dtype=np.uint8), np.arange(40) % 3

def fails():
    raise ValueError("no luck\\nsecond line")

def leaves():
    raise SystemExit(7)

def number():
    return 3

text = "not a function"
"""


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    """A user's file with factories, and a neighbour that it imports."""
    (tmp_path / "neighbour.py").write_text("CLASSES = 3\n")
    path = tmp_path / "my net.py"
    path.write_text(NET_FILE)
    return path
