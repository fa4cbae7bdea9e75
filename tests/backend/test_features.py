"""Attention transfer: maps are found by the original's layer names in whatever a plan leaves of them."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn

from autocompress.backend.compressed import Compressed
from autocompress.backend.distill import Recipe, distill
from autocompress.backend.features import (
    MOST_TAPS,
    Original,
    attention_loss,
    attention_map,
    find_taps,
    recorded,
)
from autocompress.backend.teacher import Teacher
from autocompress.backend.trace import trace
from autocompress.core.plan import Plan, Step
from autocompress.errors import InputError
from autocompress.testing.exporters import integers, structure
from autocompress.testing.networks import NETWORKS, conv_norm
from autocompress.testing.techniques import outputs, state_hash, workbench

TAPS = {"chain": ["1.0", "2.0"], "residual": ["down"], "separable": ["3.0", "4.0"], "grouped": ["2.0"],
        "dense": ["grow2.0"], "signal": ["3", "5"], "flattened": ["1.0"], "encoder": ["down"]}
"""The last layer to read each resolution, of the small networks that have feature maps."""


def _names(network: str, plan: Plan) -> list[str]:
    return [layer.name for layer in find_taps(workbench(network).table, plan)]


def _loss(student: nn.Module, network: str, plan: Plan) -> Tensor:
    bench = workbench(network)
    taps = find_taps(bench.table, plan)
    with recorded(student, taps) as maps:
        outputs(student, bench.calibration)
    return attention_loss(maps, Original(bench.model, bench.table), taps, bench.calibration)


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_the_last_layer_at_each_resolution_is_found(network: str) -> None:
    chosen = NETWORKS[network]
    table, _ = trace(chosen.make(), chosen.input_shape, torch.int64 if chosen.vocabulary else torch.float32)
    if network in TAPS:
        assert [layer.name for layer in find_taps(table, Plan())] == TAPS[network]
    else:
        with pytest.raises(InputError, match="network without feature maps"):
            find_taps(table, Plan())


@pytest.mark.parametrize("network", sorted(TAPS))
def test_maps_fit_pruned_and_decomposed_students(network: str) -> None:
    bench = workbench(network)
    plan = structure(bench)
    assert {step.technique for step in plan.steps} >= {"prune", "decompose"}
    loss = _loss(bench.compressor.compress(plan).model, network, plan)
    assert 0 < float(loss) <= 2


def test_a_tap_that_is_itself_decomposed_still_shows_its_input() -> None:
    bench = workbench("chain")
    plan = Plan.of([Step("2.0", "decompose", {"method": "channel-svd", "rank": 12})])
    model = bench.compressor.compress(plan).model
    assert isinstance(model.get_submodule("2.0"), nn.Sequential)
    with recorded(model, find_taps(bench.table, plan)) as maps:
        outputs(model, bench.calibration)
    assert {name: tuple(found.shape) for name, found in maps.items()} == {"1.0": (64, 144), "2.0": (64, 36)}


def test_dropped_blocks_are_passed_over() -> None:
    plan = Plan.of([Step("down", "drop", {})])
    assert _names("encoder", plan) == ["out"]
    assert float(_loss(workbench("encoder").compressor.compress(plan).model, "encoder", plan)) < 1e-6, \
        "what comes before the dropped block is as it was"
    with pytest.raises(InputError, match="network without feature maps"):
        _names("encoder", Plan.of([Step("down", "drop", {}), Step("out", "drop", {})]))
    dropped = Plan.of([Step("bn1", "drop", {})])
    assert _names("residual", dropped) == ["down"]
    assert float(_loss(workbench("residual").compressor.compress(dropped).model, "residual", dropped)) > 0


def test_of_many_resolutions_the_last_are_taken() -> None:
    stages = [conv_norm(3, 8), *(conv_norm(8, 8, stride=2) for _ in range(MOST_TAPS + 1))]
    model = nn.Sequential(*stages, nn.Flatten(), nn.Linear(8, 5)).eval()
    table, _ = trace(model, (3, 32, 32))
    assert [layer.name for layer in find_taps(table, Plan())] == ["2.0", "3.0", "4.0", "5.0"]


@pytest.mark.parametrize("network", sorted(TAPS))
def test_identical_networks_are_at_no_distance(network: str) -> None:
    assert float(_loss(workbench(network).model, network, Plan())) == 0


def test_a_dead_map_has_a_gradient_without_nan() -> None:
    features = torch.zeros(2, 3, 4, 4, requires_grad=True)
    dead = attention_map(features, 1)
    assert not dead.any()
    (dead - 0.25).square().sum().backward()  # type: ignore[no-untyped-call]
    assert features.grad is not None and torch.isfinite(features.grad).all()


def test_nothing_stays_hooked() -> None:
    bench = workbench("residual")
    with pytest.raises(RuntimeError, match="stop"), recorded(bench.model, find_taps(bench.table, Plan())):
        raise RuntimeError("stop")
    assert not any(module._forward_pre_hooks for module in bench.model.modules())


@lru_cache(maxsize=4)
def _trained(weight: float, seed: int = 0) -> Compressed:
    bench = workbench("residual")
    plan = Plan.of((*structure(bench).steps, *integers(bench, (3, 4), 8).steps))
    teacher = Teacher(lambda inputs: outputs(bench.model, inputs), bench.data, 0, None)
    recipe = Recipe(epochs=10, batch=16, attention_weight=weight)
    return distill(bench.compressor.compress(plan), teacher, bench.data, recipe, bench.calibration, seed,
                   original=Original(bench.model, bench.table))


def test_training_with_it_brings_maps_nearer() -> None:
    plan = _trained(0.0).plan
    start = float(_loss(workbench("residual").compressor.compress(plan).model, "residual", plan))
    without, nearer = (float(_loss(_trained(weight).model, "residual", plan)) for weight in (0.0, 100.0))
    assert nearer < 0.8 * start
    assert nearer < 0.8 * without
    receipt = next(r for r in _trained(100.0).receipts if r.technique == "distill")
    assert receipt.facts["attention_of"] == ["down"]


def test_it_is_settled_by_the_seed_and_leaves_the_original_alone() -> None:
    before = state_hash(workbench("residual").model)
    first = state_hash(_trained(100.0).model)
    _trained.cache_clear()
    assert state_hash(_trained(100.0).model) == first
    assert state_hash(workbench("residual").model) == before


def test_without_a_weight_the_original_is_not_asked_and_nothing_changes() -> None:
    class Deaf(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            raise AssertionError("the original is not to be run")

    bench = workbench("residual")
    plan = integers(bench, (4,), 8)
    hashes = set()
    for original in (None, Original(Deaf(), bench.table)):
        teacher = Teacher(lambda inputs: outputs(bench.model, inputs), bench.data, 0, None)
        done = distill(bench.compressor.compress(plan), teacher, bench.data, Recipe(epochs=2, batch=16),
                       bench.calibration, 0, original=original)
        hashes.add(state_hash(done.model))
        assert "attention_of" not in next(r for r in done.receipts if r.technique == "distill").facts
    assert len(hashes) == 1
    assert Recipe().attention_weight == 0


@pytest.mark.parametrize("network", ["mlp", "lstm"])
def test_networks_without_maps_are_refused_before_training(network: str) -> None:
    bench = workbench(network)
    teacher = Teacher(lambda inputs: outputs(bench.model, inputs), bench.data, 0, None)
    start = bench.compressor.compress(Plan())
    before = state_hash(start.model)
    with pytest.raises(InputError, match="attention_weight must be 0"):
        distill(start, teacher, bench.data, Recipe(attention_weight=1.0), bench.calibration, 0,
                original=Original(bench.model, bench.table))
    assert state_hash(start.model) == before


@pytest.mark.parametrize(("weight", "given"), [(1.0, False), (-1.0, True), (float("nan"), True)])
def test_a_weight_asks_for_an_original_and_is_positive(weight: float, given: bool) -> None:
    bench = workbench("chain")
    teacher = Teacher(lambda inputs: outputs(bench.model, inputs), bench.data, 0, None)
    with pytest.raises(InputError, match="attention_weight must be 0, or above 0"):
        distill(bench.compressor.compress(Plan()), teacher, bench.data, Recipe(attention_weight=weight),
                bench.calibration, 0, original=Original(bench.model, bench.table) if given else None)
