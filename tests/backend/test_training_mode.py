"""What is trained is the network that is shipped, whatever training mode would make of it."""

from __future__ import annotations

from collections import namedtuple
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autocompress.backend.compress import Compressor
from autocompress.backend.graph.trace import trace
from autocompress.backend.statistics.calibration import reestimate_norms
from autocompress.backend.training.distill import distill
from autocompress.backend.training.recipe import Recipe
from autocompress.backend.training.teacher import Teacher
from autocompress.backend.training.training_mode import difference, train_as_shipped
from autocompress.backend.training.warm_start import divergence
from autocompress.core.plan import Plan, Step
from autocompress.errors import TrialError
from autocompress.testing.networks import conv_norm, randomised_norms, task_data
from autocompress.testing.techniques import outputs, state_hash

Both = namedtuple("Both", ["logits", "aux"])


class TwoHeads(nn.Module):
    """One answer in eval mode; in training what `extra` makes of it."""

    def __init__(self, extra: str) -> None:
        super().__init__()
        self.extra = extra
        self.a, self.b = conv_norm(3, 8, stride=2), conv_norm(8, 16, stride=2)
        self.drop, self.aux, self.head = nn.Dropout(0.2), nn.Linear(8, 5), nn.Linear(16, 5)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        a = self.a(x)
        main = self.head(self.drop(self.b(a).mean((2, 3))))
        if not self.training or self.extra == "none":
            return main
        aux = self.aux(a.mean((2, 3)))
        if self.extra == "loss":
            return nn.functional.cross_entropy(main, labels)  # type: ignore[arg-type]
        return {"tuple": (main, aux), "named": Both(main, aux), "dict": {"out": main, "aux": aux},
                "features": a, "joined": torch.cat([main, aux], 1)}[self.extra]


EXTRAS = ["tuple", "named", "dict", "features", "joined", "loss"]


def _network(extra: str) -> nn.Module:
    torch.manual_seed(0)
    model = TwoHeads(extra).eval()
    with torch.no_grad():
        model.head.weight *= 8
    return randomised_norms(model)


@pytest.mark.parametrize("extra", EXTRAS)
def test_another_network_in_training_mode_is_noticed(extra: str) -> None:
    model = _network(extra)
    before = state_hash(model)
    assert difference(model, torch.randn(4, 3, 12, 12))
    assert state_hash(model) == before and not model.training


def test_dropout_and_norms_make_no_other_network() -> None:
    assert difference(_network("none"), torch.randn(4, 3, 12, 12)) == ""


def test_norms_are_live_and_nothing_else_is() -> None:
    model = train_as_shipped(_network("tuple"))
    assert not model.training and not model.get_submodule("drop").training
    assert all(m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize("extra", ["tuple", "loss"])
def test_it_is_trained_all_the_same(extra: str) -> None:
    """A candidate comes nearer to its teacher, and its receipt says in which mode."""
    model, data = _network(extra), task_data((3, 12, 12))
    inputs = data.normalise(data.train.inputs)
    reestimate_norms(model, inputs)
    table, coupling = trace(model, (3, 12, 12))
    plan = Plan.of([Step(name, "quantize", {"weight_bits": 2, "activation_bits": 32}) for name in ("b.0", "head")])
    start = Compressor(model, table, coupling, inputs).compress(plan)
    targets = outputs(model, inputs)
    before = divergence(start.model, inputs, targets)
    teacher = Teacher(partial(outputs, model), data, 0, None)
    recipe = Recipe(epochs=8, batch=16, label_weight=0.0)
    trained = distill(start, teacher, data, recipe, inputs, 0, as_shipped=True)
    assert 0 < divergence(trained.model, inputs, targets) < 0.8 * before
    facts = next(receipt.facts for receipt in trained.receipts if receipt.technique == "distill")
    assert facts["mode"] == "eval, with live norms" and facts["steps"] > 8


class _Broken:
    """Training data whose augmentation fails at its second view."""

    is_augmented = True

    def __init__(self) -> None:
        self._data = task_data((3, 12, 12))
        self.train_targets, self.normalise = self._data.train_targets, self._data.normalise
        self.view_targets = self._data.view_targets
        self.views_fingerprint = None

    def train_view(self, view: int, seed: int) -> Tensor:
        if view > 1:
            raise KeyError("the user's own mistake")
        return self._data.train_view(view, seed)


def test_a_failing_augmentation_is_a_failed_trial_with_its_cause() -> None:
    model, data = _network("none"), _Broken()
    inputs = data.normalise(data.train_view(0, 0))
    table, coupling = trace(model, (3, 12, 12))
    start = Compressor(model, table, coupling, inputs).compress(Plan())
    with pytest.raises(TrialError, match=r"KeyError.*the user's own mistake") as caught:
        distill(start, Teacher(partial(outputs, model), data, 0, None), data, Recipe(epochs=3, batch=32), inputs, 0)
    assert isinstance(caught.value.__cause__, KeyError)
