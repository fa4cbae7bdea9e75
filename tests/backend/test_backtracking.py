"""Backtracking of the learning rate: rising losses are taken back, falling ones and long trainings are left alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autocompress.backend.training.backtracking import LONG, SHORTER, START, WINDOW, Backtracking
from autocompress.backend.training.distill import distill
from autocompress.backend.training.recipe import Recipe
from autocompress.backend.training.teacher import Teacher
from autocompress.testing.exporters import integers
from autocompress.testing.techniques import outputs, trained_workbench


@pytest.mark.parametrize(("after", "steps", "times"), [(2.0, 40.0, 1), (0.9, 40.0, 0), (2.0, float(LONG), 0)])
def test_a_rise_takes_weights_and_moments_back(after: float, steps: float, times: int) -> None:
    parameter = nn.Parameter(torch.tensor([1.0, -2.0]))
    first = parameter.detach().clone()
    optimizer = torch.optim.Adam([parameter], lr=0.1)
    backtracking, factors = Backtracking([parameter], optimizer), []
    for loss in [1.0] * START + [after] * WINDOW:
        parameter.grad = torch.ones(2)
        optimizer.step()
        factors.append(backtracking.see(loss, steps))
    assert factors == [1.0] * (START + WINDOW - 1) + [SHORTER if times else 1.0]
    assert backtracking.times == times
    assert torch.equal(parameter.detach(), first) is bool(times)
    assert (not optimizer.state) is bool(times)


def test_a_short_training_at_too_high_a_rate_ends_nearer_to_the_original_than_without_it(
        monkeypatch: pytest.MonkeyPatch) -> None:
    bench = trained_workbench("chain")
    network, task = bench.network, bench.network.task
    expected = outputs(network.model, network.calibration)
    recipe = Recipe(epochs=60 * 16 / task.samples("train"), batch=16, learning_rate=0.2, label_weight=0)

    def trained() -> tuple[float, int]:
        done = distill(network.compressor.compress(integers(bench, (4,), 8)),
                       Teacher(lambda x: outputs(network.model, x), task, 0, None), task, recipe,
                       network.calibration, 0)
        times = [receipt.facts.get("taken_back", 0) for receipt in done.receipts if receipt.technique == "distill"]
        return float((outputs(done.model, network.calibration) - expected).norm()), sum(times)

    error, times = trained()
    monkeypatch.setattr("autocompress.backend.training.backtracking.LONG", 0)
    error_without, never = trained()
    assert times > never == 0
    assert error < error_without
