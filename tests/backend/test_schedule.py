"""The course of a training, and its early end."""

from __future__ import annotations

import pytest
import torch

from autocompress.backend.training.distill import distill
from autocompress.backend.training.recipe import Recipe
from autocompress.backend.training.schedule import COOL_DOWN, LEAST_WINDOW, Schedule
from autocompress.backend.training.teacher import Teacher
from autocompress.testing.exporters import integers
from autocompress.testing.techniques import outputs, workbench

W = LEAST_WINDOW


def _walk(schedule: Schedule, losses: list[float]) -> int:
    """Steps taken when step n has the loss of number n, or the last one."""
    step = 0
    while schedule.done(step) < 1:
        schedule.see(step, losses[min(step, len(losses) - 1)])
        step += 1
    return step


def test_the_learning_rate_rises_then_falls_to_nothing() -> None:
    schedule = Schedule(1000, 100, 0.05, 0)
    factors = [schedule.factor(schedule.done(step)) for step in range(1000)]
    assert max(factors) == pytest.approx(1.0, abs=1e-3) and factors.index(max(factors)) in (49, 50)
    assert 0 < factors[0] < 0.05 and 0 < factors[-1] < 1e-4
    assert factors[50:] == sorted(factors[50:], reverse=True)


def test_a_loss_that_falls_is_trained_to_the_end() -> None:
    assert _walk(Schedule(20 * W, W, 0.05, 3), [0.99 ** (n / 10) for n in range(20 * W)]) == 20 * W
    assert _walk(Schedule(20 * W, W, 0.05, 0), [1.0]) == 20 * W, "a patience of 0 never ends early"


@pytest.mark.parametrize("per_epoch", [5, W, 2 * W])
def test_a_plateau_brings_the_rate_down_in_a_few_steps(per_epoch: int) -> None:
    schedule = Schedule(100 * W, per_epoch, 0.05, 3)
    assert _walk(schedule, [1.0]) == pytest.approx((1 + COOL_DOWN) * schedule.plateau, abs=2)  # type: ignore[operator]
    warm = 5 * W
    assert schedule.plateau == warm + 4 * max(per_epoch, W) - 1, "one epoch to compare with, and three without a gain"
    end = round((1 + COOL_DOWN) * schedule.plateau)
    factors = [schedule.factor(schedule.done(step)) for step in range(end)]
    assert factors[-1] < 0.02 and factors[schedule.plateau] > 0.9


def test_near_its_end_a_training_is_left_alone() -> None:
    schedule = Schedule(4 * W, W, 0.05, 3)
    assert _walk(schedule, [1.0]) == 4 * W
    assert schedule.plateau is None


@pytest.mark.parametrize("patience", [0, 1])
def test_the_receipt_says_when_a_training_stopped(patience: int) -> None:
    bench = workbench("chain")
    teacher = Teacher(lambda inputs: outputs(bench.network.model, inputs), bench.network.task, 0, None)
    still = Recipe(epochs=60, batch=16, learning_rate=1e-9, patience=patience)
    start = bench.network.compressor.compress(integers(bench, (8,), 8))
    done = distill(start, teacher, bench.network.task, still, bench.network.calibration, 0)
    facts = next(r.facts for r in done.receipts if r.technique == "distill")
    if patience:
        assert facts["plateau_at_step"] == 12 + 2 * W - 1 and facts["steps"] < 3 * W
    else:
        assert facts["plateau_at_step"] is None and facts["steps"] == 240


def test_without_a_weight_labels_are_not_looked_at() -> None:
    bench = workbench("chain")

    class Unlabelled:
        train_targets = torch.full_like(bench.network.task.train_targets, -1)
        train_view, normalise = bench.network.task.train_view, bench.network.task.normalise

        def view_targets(self, view: int, seed: int) -> torch.Tensor:
            return self.train_targets

    def trained(data: object, label_weight: float) -> torch.Tensor:
        teacher = Teacher(lambda inputs: outputs(bench.network.model, inputs), bench.network.task, 0, None)
        recipe = Recipe(epochs=2, batch=16, label_weight=label_weight)
        start = bench.network.compressor.compress(integers(bench, (3,), 8))
        done = distill(start, teacher, data, recipe, bench.network.calibration, 0)  # type: ignore[arg-type]
        return outputs(done.model, bench.network.calibration)

    assert torch.equal(trained(Unlabelled(), 0.0), trained(bench.network.task, 0.0))
    assert not torch.equal(trained(bench.network.task, 0.1), trained(bench.network.task, 0.0))
