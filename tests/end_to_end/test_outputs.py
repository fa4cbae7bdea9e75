"""Networks that return several tensors, as their authors write them, from the call to the shipped file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import autocompress
from autocompress.core.metric import Metric
from autocompress.tasks.base import Answers, ArrayTask, Inputs, Likelihood, Score, Split, Task, standard_error
from autocompress.tasks.models import load_network
from autocompress.tasks.score import gathered
from autocompress.tensors.composed import Joint
from autocompress.tensors.likelihood import CATEGORICAL, Gaussian
from autocompress.tensors.named import by_name
from autocompress.testing.task_contract import TaskContract


@dataclass
class Found:
    """What a small detector puts out, one field never filled."""

    kind: Tensor
    box: Tensor
    note: Tensor | None = None


class Pair(NamedTuple):
    kind: Tensor
    box: Tensor


FORMS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "dict": lambda kind, box: {"kind": kind, "box": box},
    "tuple": lambda kind, box: (kind, box),
    "dataclass": Found,
    "named tuple": Pair,
    "nested": lambda kind, box: {"heads": [kind, {"box": box}], "aux": None},
}
NAMES = {"tuple": ["output_0", "output_1"], "nested": ["heads.0", "heads.1.box"]}


class Detector(nn.Module):
    """A picture's kind, of three, and a box in it, from one trunk."""

    def __init__(self, form: str = "dict") -> None:
        super().__init__()
        self.form = form
        self.trunk = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU())
        self.kind, self.box = nn.Linear(32 * 9, 3), nn.Linear(32 * 9, 4)

    def forward(self, x: Tensor) -> Any:
        features = self.trunk(x).flatten(1)
        return FORMS[self.form](self.kind(features), self.box(features))


def pictures(samples: int, seed: int) -> Split:
    """A bright rectangle in each; kinds by its shape."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randint(0, 3, (samples,), generator=generator)
    corners = torch.randint(0, 6, (samples, 2), generator=generator)
    sizes = torch.tensor([[5, 5], [2, 6], [6, 2]])[kinds]
    boxes = torch.cat([corners, corners + sizes], 1).float() / 12
    x = torch.zeros(samples, 1, 12, 12)
    for i, (top, left, bottom, right) in enumerate((boxes * 12).long().tolist()):
        x[i, 0, top:bottom, left:right] = 1
    return Split(x, torch.cat([kinds[:, None].float(), boxes], 1))


class Detection(ArrayTask):
    name = "rectangles"
    metric = Metric("box_error", higher_is_better=False)
    further: ClassVar[tuple[Metric, ...]] = (Metric("kind", unit="%"),)

    def __init__(self) -> None:
        super().__init__({"train": pictures(512, 0), "validation": pictures(96, 1), "test": pictures(96, 2)})

    def likelihood(self, outputs: Inputs, ends_in_sigmoid: Any) -> Likelihood:
        kind, box = by_name(outputs)
        return Both(outputs, {kind: CATEGORICAL, box: Gaussian(by_name(outputs)[box])})

    def score(self, answers: Answers, split: str, likelihood: Likelihood) -> Score:
        kind, box = gathered(answers).values()
        targets = self.splits[split].targets.numpy()
        errors, right = np.abs(box - targets[:, 1:]), kind.argmax(1) == targets[:, 0]
        values = dict(zip((self.metric, *self.further), (standard_error(errors), standard_error(right)), strict=True))
        return Score({key: value for metric, (mean, error) in values.items()
                      for key, value in ((metric.name, mean), (metric.error, error))})


class Both(Joint):
    """With targets for both outputs."""

    def target_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        kind, box = self.split(outputs).values()
        return nn.functional.cross_entropy(kind, targets[:, 0].long()) + (box - targets[:, 1:]).square().mean()


def trained(form: str = "dict") -> Detector:
    torch.manual_seed(0)
    model, split = Detector(form), pictures(512, 0)
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(60):
        kind, box = _leaves(model(split.inputs))
        loss = nn.functional.cross_entropy(kind, split.targets[:, 0].long()) \
            + 10 * (box - split.targets[:, 1:]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def _leaves(returned: Any) -> list[Tensor]:
    if isinstance(returned, dict):
        returned = returned.get("heads", returned.values())
    elif isinstance(returned, Found):
        returned = returned.kind, returned.box
    return [value["box"] if isinstance(value, dict) else value for value in returned]


class TestDetection(TaskContract):
    def task(self) -> Task:
        return Detection()

    def network(self) -> nn.Module:
        return trained()


@pytest.mark.parametrize("form", [pytest.param(form, marks=[] if form in ("tuple", "nested") else pytest.mark.slow)
                                  for form in FORMS])
def test_outputs_have_the_same_names_everywhere(form: str, tmp_path: Path) -> None:
    """In torch, in the file that ships, and in its manifest, whatever the network returns them in."""
    model, task, names = trained(form), Detection(), NAMES.get(form, ["kind", "box"])
    assert [*by_name(load_network(model, task).model(task.splits["test"].inputs[:2]))] == names
    traced = autocompress.trace(model, task=task)
    plan = autocompress.Plan.of([autocompress.Step("trunk.2", "quantize", {"weight_bits": 6, "activation_bits": 8})])
    session = onnxruntime.InferenceSession(traced.export(plan, tmp_path / "artifact"))
    assert [output.name for output in session.get_outputs()] == names
    outputs = session.run(None, {"input": task.splits["test"].inputs.numpy()})
    with torch.no_grad():
        expected = _leaves(model(task.splits["test"].inputs))
    for got, original in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(got, original.numpy(), atol=0.1 * float(original.abs().max()))


def test_a_search_keeps_both_outputs(tmp_path: Path) -> None:
    """Pruned and quantised as one network; the metric and the further one are of the shipped file."""
    result = autocompress.search(trained(), task=Detection(), budget="6kB", trials=4, epochs=1, out=tmp_path / "study")
    facts = result.artifact
    assert facts is not None and facts["verified"] and facts["size_bytes"] <= 6_000
    assert facts["box_error"] < facts["baseline_box_error"] + 0.1 and facts["kind"] > 0.5
    assert {"kind", "box_error"} <= set(result.front.columns)
