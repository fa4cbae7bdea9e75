"""Averages along a training and over trainings: exact by hand, neutral for equals, refused for strangers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from autocompress.backend.network.checkpoint import encode_weights, load_weights
from autocompress.backend.network.compressed import Compressed
from autocompress.backend.training.averaging import MovingAverage, soup
from autocompress.backend.training.distill import distill
from autocompress.backend.training.recipe import Recipe
from autocompress.backend.training.teacher import Teacher
from autocompress.core.plan import Plan, Step
from autocompress.testing.exporters import integers, structure
from autocompress.testing.techniques import outputs, state_hash, workbench


def test_a_moving_average_is_the_one_by_hand() -> None:
    parameter = torch.tensor([1.0, -2.0], requires_grad=True)
    average = MovingAverage([parameter], 0.2)
    expected = parameter.detach().clone()
    for n, value in enumerate((2.0, 5.0, -1.0)):
        with torch.no_grad():
            parameter.fill_(value)
        average.update()
        decay = min(0.2, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
    average.apply()
    torch.testing.assert_close(parameter.detach(), expected)
    assert parameter.requires_grad


def _trained(plan: Plan, seed: int, average: float = 0.0) -> Compressed:
    bench = workbench("chain")
    teacher = Teacher(lambda inputs: outputs(bench.network.model, inputs), bench.network.task, 0, None)
    return distill(
        bench.network.compressor.compress(plan),
        teacher,
        bench.network.task,
        Recipe(epochs=4, batch=16, average=average),
        bench.network.calibration,
        seed,
    )


def test_a_training_ships_the_average_of_weights_and_scales() -> None:
    plan = integers(workbench("chain"), (3,), 8)
    last, mean, again = (_trained(plan, 0, decay) for decay in (0.0, 0.9, 0.9))
    assert state_hash(mean.model) == state_hash(again.model)
    assert not torch.equal(last.latent["0.0"], mean.latent["0.0"])
    assert not torch.equal(last.weights["0.0"].scale, mean.weights["0.0"].scale)


def _plans() -> tuple[Plan, Plan]:
    """One structure, two widths."""
    bench = workbench("chain")
    return (Plan.of((*structure(bench).steps, *integers(bench, (3,), 8).steps)),
            Plan.of((*structure(bench).steps, *integers(bench, (4,), 8).steps)))


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_soup_of_equals_is_they(count: int, trained: bool) -> None:
    bench = workbench("chain")
    member = _trained(_plans()[0], 0) if trained else bench.network.compressor.compress(_plans()[0])
    before = state_hash(member.model)
    average = soup([member] * count, bench.network.calibration)
    for name, tensor in average.model.named_parameters():
        torch.testing.assert_close(tensor, member.model.get_parameter(name), rtol=1e-6, atol=1e-7)
    for name, weight in member.weights.items():
        assert torch.equal(average.weights[name].levels, weight.levels)
        assert torch.equal(average.weights[name].scale, weight.scale)
    assert state_hash(member.model) == before
    assert average.plan == member.plan


@pytest.mark.parametrize("other", [0, 1])
def test_a_soup_is_the_mean_before_rounding_in_the_first_ones_widths(other: int) -> None:
    bench, plans = workbench("chain"), _plans()
    members = [_trained(plans[0], 0), _trained(plans[other], 1)]
    average = soup(members, bench.network.calibration)
    assert average.weights.keys() == average.latent.keys() == members[0].weights.keys()
    for name, weight in average.weights.items():
        mean = (members[0].latent[name] + members[1].latent[name]) / 2
        torch.testing.assert_close(average.latent[name], mean)
        torch.testing.assert_close(average.model.get_submodule(name).weight, weight.dequantized(), rtol=0, atol=0)
        assert weight.bits == 3
        if not other:
            scales = [member.weights[name].scale for member in members]
            torch.testing.assert_close(weight.scale, (scales[0] + scales[1]) / 2)
    bench.network.write(average)


def test_only_alike_structures_are_averaged() -> None:
    bench = workbench("chain")
    group = bench.network.table.groups[0]
    members = [
        bench.network.compressor.compress(Plan.of([Step(group.name, "prune", {"keep": 8, "criterion": criterion})]))
        for criterion in ("l1", "random", "l2")
    ]
    kept = [member.receipts[0].facts["kept"] for member in members]
    strangers = next((a, b) for a in range(3) for b in range(a) if kept[a] != kept[b])
    for pair in (strangers, (0, None)):
        two = [bench.network.compressor.compress(Plan()) if i is None else members[i] for i in pair]
        with pytest.raises(ValueError, match="pruned, decomposed and sparse alike"):
            soup(two, bench.network.calibration)


def test_float_weights_behind_integers_are_kept(tmp_path: Path) -> None:
    bench, plan = workbench("chain"), _plans()[0]
    kept = _trained(plan, 0)
    again = load_weights(bench.network.compressor.restructure(plan, fit=False), encode_weights(kept), "weights")
    assert again.latent.keys() == kept.latent.keys()
    assert all(torch.equal(again.latent[name], kept.latent[name]) for name in kept.latent)
    state = kept.model.state_dict()
    assert again.model.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.model.state_dict().items())
