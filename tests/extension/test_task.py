"""A user's own task: how far a point is from another, by a network with two inputs."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import autocompress
from autocompress.tasks.base import ArrayTask, Metric, NamedTensors, Split, Task, standard_error
from autocompress.tasks.samples import NamedSamples
from autocompress.tasks.stored_samples import SampleWriter
from autocompress.testing.task_contract import TaskContract


def points(samples: int, seed: int) -> Split:
    """Pairs of points in eight dimensions, and their distance."""
    here, there = torch.rand(2, samples, 8, generator=torch.Generator().manual_seed(seed))
    return Split(NamedTensors(here=here, there=there), (here - there).square().sum(1).sqrt())


class Distances(ArrayTask):
    name = "distances"
    metric = Metric("mae", unit="m", higher_is_better=False)

    def __init__(self) -> None:
        super().__init__({"train": points(512, 0), "validation": points(128, 1), "test": points(128, 2)})

    def measure(self, outputs: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
        """Mean absolute error in metres."""
        return standard_error(np.abs(outputs - targets))


class Pairs(nn.Module):
    """Two inputs, one number."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 64), nn.Linear(8, 64)
        self.body, self.head = nn.Linear(64, 64), nn.Linear(64, 1)

    def forward(self, here: Tensor, there: Tensor) -> Tensor:
        return self.head(self.body((self.first(here) - self.second(there)).relu()).relu())[:, 0]


@cache
def trained() -> nn.Module:
    torch.manual_seed(0)
    model, split = Pairs(), Distances().splits["train"]
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(300):
        loss = (model(**split.inputs) - split.targets).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


class TestDistances(TaskContract):
    def task(self) -> Task:
        return Distances()

    def network(self) -> nn.Module:
        return trained()


@pytest.mark.usefixtures("short_searches")
def test_a_search_ships_a_file_whose_metric_is_the_networks(tmp_path: Path) -> None:
    task = Distances()
    result = autocompress.search(trained(), task=task, budget="12kB", trials=3, epochs=2, out=tmp_path / "study")
    facts, original = result.artifact, trained()
    assert facts is not None and facts["verified"] and facts["size_bytes"] <= 12_000
    with torch.no_grad():
        outputs = original(**task.splits["test"].inputs).numpy()
    expected, _ = task.measure(outputs, task.splits["test"].targets.numpy())
    assert facts["baseline_mae"] == pytest.approx(expected, rel=1e-3)
    assert expected < facts["mae"] + 0.01 and result.baseline["mae"] < 0.2
    assert result.front["mae"].notna().all()


def test_samples_on_a_disk_are_those_in_memory(tmp_path: Path) -> None:
    held, splits = Distances(), {}
    for name, split in held.splits.items():
        writer = SampleWriter(tmp_path)
        writer.append(dict(split.inputs.items()))
        splits[name] = Split(NamedSamples(writer.finish()), split.targets)
    stored = Distances()
    stored.splits = splits
    assert stored.fingerprint == held.fingerprint
    rows = torch.tensor([5, 0, 2])
    for name in ("here", "there"):
        assert torch.equal(stored.inputs("train", rows)[name], held.inputs("train", rows)[name])
        assert torch.equal(stored.train_view(1, 0)[rows][name], held.train_view(1, 0)[rows][name])
