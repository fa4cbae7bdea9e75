"""Norms after compression: near to the original's, whatever data the original's statistics are of."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from autocompress.backend.statistics.calibration import BATCH, norm_inputs, rebase_norms, reestimate_norms
from autocompress.backend.training.distill import distill
from autocompress.backend.training.recipe import Recipe
from autocompress.backend.training.teacher import Teacher
from autocompress.testing.exporters import integers
from autocompress.testing.networks import NETWORKS
from autocompress.testing.techniques import outputs, state_hash, workbench


def _network() -> nn.Sequential:
    """Statistics that are those of no data."""
    model = NETWORKS["chain"].make()
    assert isinstance(model, nn.Sequential)
    return model


def _inputs(samples: int) -> Tensor:
    return torch.randn(samples, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("samples", [1, 64, BATCH + 1, 3 * BATCH])
def test_what_nothing_changed_stays_to_the_last_bit(samples: int) -> None:
    model, inputs = _network(), _inputs(samples)
    statistics, before = norm_inputs(model, inputs), state_hash(model)
    reestimate_norms(model, inputs, originals=statistics)
    assert state_hash(model) == before


def test_a_norm_makes_good_what_happened_before_it() -> None:
    """A layer scaled and shifted channel by channel is the same layer to the norm behind it."""
    model, inputs = _network(), _inputs(64)
    statistics, expected = norm_inputs(model, inputs), outputs(model, inputs)
    norms = model[0]
    assert isinstance(norms, nn.Sequential)
    conv = norms[0]
    with torch.no_grad():
        conv.weight *= torch.linspace(0.25, 4, len(conv.weight)).reshape(-1, 1, 1, 1)
    assert not torch.allclose(outputs(model, inputs), expected, atol=1e-3)
    plain = copy.deepcopy(model)
    reestimate_norms(model, inputs, originals=statistics)
    torch.testing.assert_close(outputs(model, inputs), expected, rtol=1e-3, atol=1e-4)
    reestimate_norms(plain, inputs)
    assert not torch.allclose(outputs(plain, inputs), expected, atol=0.1), "statistics of the data are another network"


@pytest.mark.parametrize("dead", ["before", "after"])
def test_a_dead_channel_stays_finite(dead: str) -> None:
    model, inputs = _network(), _inputs(64)
    alive = norm_inputs(model, inputs)
    block = model[0]
    assert isinstance(block, nn.Sequential)
    weight = block[0].weight
    assert isinstance(weight, Tensor)
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[:2] = 0
    statistics = norm_inputs(model, inputs) if dead == "before" else alive
    if dead == "before":
        with torch.no_grad():
            weight.copy_(kept)
    reestimate_norms(model, inputs, originals=statistics)
    assert torch.isfinite(outputs(model, inputs)).all()
    assert all((norm.running_var >= 0).all() for norm in model.modules() if isinstance(norm, nn.BatchNorm2d))  # type: ignore[operator]


def test_a_loud_channel_that_died_is_constant() -> None:
    """Its variance is gone to less than rounding can tell from none."""
    model, inputs = _network(), _inputs(64)
    block = model[0]
    assert isinstance(block, nn.Sequential)
    weight = block[0].weight
    assert isinstance(weight, Tensor)
    with torch.no_grad():
        weight[0] *= 1e4
    statistics = norm_inputs(model, inputs)
    with torch.no_grad():
        weight[0] *= 1e-8
    reestimate_norms(model, inputs, originals=statistics)
    seen = outputs(block, inputs)
    assert torch.isfinite(seen).all()
    assert seen[:, 0].std() < 1


def test_quantising_a_network_with_frozen_statistics_keeps_its_answers() -> None:
    bench = workbench("chain")
    expected = outputs(bench.network.model, bench.network.calibration)
    signal = float((expected - expected.mean(0)).square().mean())
    compressed = bench.network.compressor.compress(integers(bench, (8,), 32))
    assert float((outputs(compressed.model, bench.network.calibration) - expected).square().mean()) < 0.02 * signal
    plain = copy.deepcopy(compressed.model)
    reestimate_norms(plain, bench.network.calibration)
    assert float((outputs(plain, bench.network.calibration) - expected).square().mean()) > 100 * signal


def test_training_begins_with_the_same_network() -> None:
    """In training a norm looks at its batch: with statistics of the data that is the network as it is."""
    model, inputs = _network(), _inputs(BATCH)
    expected = outputs(model, inputs)
    rebase_norms(model, inputs)
    torch.testing.assert_close(outputs(model, inputs), expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(model.train()(inputs), expected, rtol=1e-3, atol=1e-3)


def test_training_a_network_with_frozen_statistics_stays_near_its_teacher() -> None:
    bench = workbench("chain")
    start = bench.network.compressor.compress(integers(bench, (8,), 32))
    teacher = Teacher(partial(outputs, bench.network.model), bench.network.task, 0, None)
    inputs = bench.network.task.normalise(bench.network.task.train.inputs)
    done = distill(
        start, teacher, bench.network.task, Recipe(epochs=1, batch=32, learning_rate=1e-5), bench.network.calibration, 0
    )
    far = copy.deepcopy(bench.network.model)
    reestimate_norms(far, inputs)
    expected = outputs(bench.network.model, inputs)
    error = (outputs(done.model, inputs) - expected).square().mean()
    assert error < 1e-2 * (outputs(far, inputs) - expected).square().mean()
    assert done.norms == {}, "its norms have learned"
