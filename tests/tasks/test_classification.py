"""Classification as a task: the contract that every task keeps, and the distributions behind it."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from autocompress.errors import InputError
from autocompress.tasks.base import Gaussian, NamedTensors, Task
from autocompress.tasks.classification.outputs import ClassOutputs
from autocompress.tasks.models import load_network
from autocompress.tasks.splits import Split, TaskData
from autocompress.testing.task_contract import TaskContract


@cache
def _blobs() -> TaskData:
    """Four clusters in six dimensions."""
    generator = torch.Generator().manual_seed(0)
    centres = 2 * torch.randn(4, 6, generator=generator)

    def split(samples: int) -> Split:
        targets = torch.randint(0, 4, (samples,), generator=generator)
        return Split(centres[targets] + torch.randn(samples, 6, generator=generator), targets)

    return TaskData("blobs", split(256), split(128), split(128), 4)


class TestClassification(TaskContract):
    def task(self) -> Task:
        return _blobs()

    def network(self) -> nn.Module:
        train, model = _blobs().train, nn.Linear(6, 4)
        centres = torch.stack([train.inputs[train.targets == label].mean(0) for label in range(4)])
        with torch.no_grad():  # the nearest centre
            model.weight.copy_(centres)
            model.bias.copy_(-centres.square().sum(1) / 2)
        return model


def test_a_network_of_another_number_of_classes_is_refused() -> None:
    with pytest.raises(InputError, match=r"one output for each of the 4 classes of blobs, but it has 3"):
        _blobs().likelihood(torch.zeros(8, 3), False)


def test_classes_and_numbers_predict_what_a_small_change_costs() -> None:
    """Half the mean squared product with drawn gradients is the divergence, to second order."""
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(512, 3, generator=generator)
    change = 0.02 * torch.randn(3, generator=generator)
    for likelihood, scale in ((ClassOutputs("scores"), 1.0), (Gaussian(outputs), 2 / 3)):
        drawn = torch.stack([likelihood.drawn_gradient(outputs, generator) for _ in range(200)])
        predicted = float((drawn * change).sum(2).square().mean() / 2)
        assert predicted * scale == pytest.approx(likelihood.divergence(outputs + change, outputs), rel=0.1)


class _Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.layer(left + right)


def test_named_tensors_are_batches() -> None:
    batch = NamedTensors(left=torch.rand(5, 3), right=torch.rand(5, 3))
    assert len(batch) == 5 and batch.shape == (5, 6) and list(batch) == ["left", "right"]
    assert [len(part) for part in torch.split(batch, 2)] == [2, 2, 1]  # type: ignore[arg-type, no-untyped-call]
    assert torch.equal(torch.cat([batch[:2], batch[2:]])["left"], batch["left"])
    assert torch.equal(batch[torch.tensor([4, 0])]["right"], batch["right"][[4, 0]])
    assert batch.is_floating_point() and not batch.to(torch.int64).is_floating_point()


def test_inputs_that_the_network_does_not_take_are_named() -> None:
    class Task(TaskData):
        def inputs(self, split: str, rows: object) -> NamedTensors:  # type: ignore[override]
            return NamedTensors(left=torch.rand(2, 3), wrong=torch.rand(2, 3))

    data = _blobs()
    with pytest.raises(InputError, match=r"must take the inputs of blobs, but said: TypeError.*wrong"):
        load_network(_Sum(), Task("blobs", data.train, data.validation, data.test, 4))  # type: ignore[arg-type]
