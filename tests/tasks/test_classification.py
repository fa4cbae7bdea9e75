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
from autocompress.tensors.composed import Joint, Masked
from autocompress.tensors.likelihood import CATEGORICAL, Likelihood
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
    """Half the mean squared product with drawn gradients is the divergence, to second order: of numbers and classes, at
    every position of maps, and of several outputs together."""
    generator = torch.Generator().manual_seed(0)
    numbers, maps = torch.randn(512, 3, generator=generator), torch.randn(256, 3, 2, 2, generator=generator)
    both = Joint(NamedTensors(a=numbers, b=2 * numbers), {"a": ClassOutputs("scores"), "b": Gaussian(2 * numbers)},
                 {"b": 3.0})
    cases: list[tuple[Likelihood, Tensor]] = [
        (ClassOutputs("scores"), numbers), (Gaussian(numbers), numbers), (CATEGORICAL, maps), (Gaussian(maps), maps),
        (both, both.canonical(NamedTensors(a=numbers, b=2 * numbers)))]
    for likelihood, outputs in cases:
        change = 0.02 * torch.randn(outputs.shape[1:], generator=generator)
        drawn = torch.stack([likelihood.drawn_gradient(outputs, generator) for _ in range(200)])
        predicted = float((drawn * change).flatten(2).sum(2).square().mean() / 2)
        assert predicted == pytest.approx(likelihood.divergence(outputs + change, outputs), rel=0.1)


def test_what_is_masked_costs_nothing_and_teaches_nothing() -> None:
    """Answers behind the end of a text may be anything."""
    outputs = torch.randn(8, 5, 3)
    mask = (torch.arange(5) < torch.tensor([[2], [5]])).repeat(4, 1)
    likelihood = Masked(Gaussian(outputs), "mask")
    teacher = likelihood.compared(outputs, NamedTensors(ids=torch.zeros(8, 5), mask=mask))
    student = (outputs + 0.5 * ~mask[:, :, None]).requires_grad_()
    loss = likelihood.distillation_loss(student + 0.0, teacher, 4.0)
    (gradient,) = torch.autograd.grad(likelihood.distillation_loss(student * 1.1, teacher, 4.0), student)
    assert float(loss.detach()) == pytest.approx(0) and likelihood.divergence(student.detach(), teacher) == 0
    assert gradient[~mask].abs().max() == 0 < gradient[mask].abs().max()
    assert likelihood.drawn_gradient(teacher, torch.Generator().manual_seed(0))[~mask].abs().max() == 0
    whole = likelihood.distillation_loss(outputs + 0.5, teacher, 4.0)
    assert float(whole) == pytest.approx(float(Gaussian(outputs).distillation_loss(outputs + 0.5, outputs, 4.0)))


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
    with pytest.raises(InputError, match=r"must take the inputs of blobs, left .* float32, but said: TypeError.*wrong"):
        load_network(_Sum(), Task("blobs", data.train, data.validation, data.test, 4))  # type: ignore[arg-type]
