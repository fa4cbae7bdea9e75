"""Which axis the samples are on: found by two batch sizes, never by a size that happens to fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autocompress.backend.graph.sample_axes import MORE, SampleAxis, observe_calls
from autocompress.backend.graph.trace import trace
from autocompress.backend.sensitivity.fisher import sensitivities
from autocompress.core.plan import Plan, Step
from autocompress.hardware.profile import load_profile
from autocompress.study.workbench import Workbench
from autocompress.testing.networks import CLASSES, task_data
from autocompress.testing.techniques import outputs

WIDTH, STEPS = 8, MORE
"""As many steps as samples in the larger batch: a shape alone cannot tell them apart."""


class Folding(nn.Module):
    """A layer where the samples come first, last, folded before or behind the steps, and not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.second = nn.Linear(4, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.frames, self.inner = nn.Conv1d(1, WIDTH, 3, padding=1), nn.Linear(WIDTH, WIDTH)
        self.table = nn.Parameter(torch.randn(STEPS, WIDTH))
        self.once, self.places = nn.Linear(WIDTH, WIDTH), nn.Embedding(STEPS, WIDTH)
        self.register_buffer("order", torch.arange(STEPS))
        self.hidden, self.head = nn.Linear(WIDTH, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, STEPS, 4)` → `(N, 5)`."""
        count, steps, _ = x.shape
        x = self.plain(x) + self.once(self.table) + self.places(self.order)
        x = self.second(torch.relu(x).transpose(0, 1))
        x = torch.relu(self.inner(x.reshape(steps * count, WIDTH))).reshape(steps, count, WIDTH).transpose(0, 1)
        x = self.frames(x.reshape(count * steps, 1, WIDTH)).amax(2).reshape(count, steps, WIDTH)
        scores: Tensor = self.head(torch.relu(self.hidden(x.mean(1))))
        return scores


LAYOUTS = {
    "plain": SampleAxis(0), "second": SampleAxis(1), "inner": SampleAxis(0, STEPS, fastest=True),
    "frames": SampleAxis(0, STEPS), "once": None, "places": None, "hidden": SampleAxis(0), "head": SampleAxis(0),
}


def folding() -> nn.Module:
    torch.manual_seed(0)
    return Folding().eval()


def test_each_layout_is_told_from_the_others() -> None:
    calls = observe_calls(folding(), torch.randn(9, STEPS, 4), LAYOUTS)
    assert {name: call.reads.samples for name, call in calls.items()} == LAYOUTS
    assert {name: call.writes.samples for name, call in calls.items()} == LAYOUTS
    assert calls["second"].reads.shape == (STEPS, WIDTH) and calls["frames"].reads.shape == (1, WIDTH)


def test_a_split_gives_each_sample_its_own_entries() -> None:
    samples = torch.arange(3)[:, None] * 10 + torch.arange(2)
    assert torch.equal(SampleAxis(0, 2).split(samples.flatten()), samples)
    assert torch.equal(SampleAxis(0, 2, fastest=True).split(samples.T.flatten()), samples)
    assert torch.equal(SampleAxis(1).split(samples.T[..., None]), samples[:, None, :, None])


def test_positions_are_those_of_one_sample() -> None:
    table, _ = trace(folding(), (STEPS, 4))
    positions = {layer.name: layer.positions for layer in table.layers if layer.name in LAYOUTS}
    assert positions == {"plain": STEPS, "second": STEPS, "inner": STEPS, "frames": STEPS * WIDTH, "once": STEPS,
                         "places": STEPS, "hidden": 1, "head": 1}
    assert [name for name in LAYOUTS if not table.by_name[name].samples_first] == ["second", "inner", "once", "places"]


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return Workbench(folding(), task_data((STEPS, 4)), load_profile("host"), seed=0, folder=Path("/dev/null"), epochs=1)


def test_what_an_option_costs_is_the_same_however_the_samples_lie(bench: Workbench) -> None:
    """Sensitivity against the definition: the gradient of each sample's drawn answer by itself."""
    steps = [Step(name, "quantize", {"weight_bits": 3, "activation_bits": 32}) for name in LAYOUTS]
    together = sensitivities(bench.network.compressor, steps)
    axes = dict(bench.network.compressor.sample_axes)
    assert axes == {name: layout for name, layout in LAYOUTS.items() if layout is not None}
    bench.network.compressor.sample_axes.clear()  # every layer one sample at a time
    try:
        alone = sensitivities(bench.network.compressor, steps)
    finally:
        bench.network.compressor.sample_axes.update(axes)
    assert together == pytest.approx(alone, rel=0.6)  # other answers are drawn
    for step, predicted in zip(steps, together, strict=True):
        changed = outputs(bench.network.compressor.compress(Plan.of([step])).model, bench.network.calibration) / 4
        expected = outputs(bench.network.model, bench.network.calibration) / 4
        measured = nn.functional.kl_div(changed.log_softmax(1), expected.log_softmax(1), log_target=True,
                                        reduction="batchmean")
        assert predicted == pytest.approx(float(measured), rel=2)
