"""Attention transfer: maps are found by the original's layer names in whatever a plan leaves of them."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn

from autocompress.backend.graph.trace import trace
from autocompress.backend.network.compressed import Compressed
from autocompress.backend.training.distill import distill
from autocompress.backend.training.feature_distillation import (
    MOST_HOOK_POINTS,
    Original,
    Projections,
    attention_loss,
    attention_map,
    find_hook_points,
    inputs_left,
    recorded,
    wanted_features,
)
from autocompress.backend.training.recipe import Recipe
from autocompress.backend.training.teacher import Teacher
from autocompress.core.plan import Plan, Step
from autocompress.errors import InputError
from autocompress.study.workbench import Workbench
from autocompress.testing.exporters import integers, structure
from autocompress.testing.networks import NETWORKS, conv_norm
from autocompress.testing.techniques import outputs, state_hash, workbench

TAPS = {"chain": ["1.0", "2.0"], "residual": ["down"], "separable": ["3.0", "4.0"], "grouped": ["2.0"],
        "dense": ["grow2.0"], "signal": ["3", "5"], "flattened": ["1.0"], "encoder": ["down"],
        "hourglass": ["4.0", "9.0"], "volume": ["3", "5"]}
"""The last layer to read each resolution, of the small networks that have feature maps."""


def original(bench: Workbench) -> Original:
    return Original(bench.network.model, bench.network.table, bench.network.compressor.coupling)


def _names(network: str, plan: Plan) -> list[str]:
    return [layer.name for layer in find_hook_points(workbench(network).network.table, plan)]


def _loss(student: nn.Module, network: str, plan: Plan) -> Tensor:
    bench = workbench(network)
    taps = find_hook_points(bench.network.table, plan)
    with recorded(student, taps) as maps:
        outputs(student, bench.network.calibration)
    return attention_loss(maps, wanted_features(original(bench), taps, bench.network.calibration), taps)


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_the_last_layer_at_each_resolution_is_found(network: str) -> None:
    entry = NETWORKS[network]
    table, _ = trace(entry.make(), entry.input_shape, torch.int64 if entry.vocabulary else torch.float32)
    if network in TAPS:
        assert [layer.name for layer in find_hook_points(table, Plan())] == TAPS[network]
    else:
        with pytest.raises(InputError, match="network without feature maps"):
            find_hook_points(table, Plan())


@pytest.mark.parametrize("network", sorted(TAPS))
def test_maps_fit_pruned_and_decomposed_students(network: str) -> None:
    bench = workbench(network)
    plan = structure(bench)
    assert {step.technique for step in plan.steps} >= {"prune", "decompose"}
    loss = _loss(bench.network.compressor.compress(plan).model, network, plan)
    assert 0 < float(loss) <= 2


def test_a_tap_that_is_itself_decomposed_still_shows_its_input() -> None:
    bench = workbench("chain")
    plan = Plan.of([Step("2.0", "decompose", {"method": "channel-svd", "rank": 12})])
    model = bench.network.compressor.compress(plan).model
    assert isinstance(model.get_submodule("2.0"), nn.Sequential)
    with recorded(model, find_hook_points(bench.network.table, plan)) as maps:
        outputs(model, bench.network.calibration)
    assert {name: tuple(attention_map(feature_map, 1).shape) for name, feature_map in maps.items()} == \
        {"1.0": (64, 144), "2.0": (64, 36)}


def test_dropped_blocks_are_passed_over() -> None:
    plan = Plan.of([Step("down", "drop", {})])
    assert _names("encoder", plan) == ["out"]
    assert float(_loss(workbench("encoder").network.compressor.compress(plan).model, "encoder", plan)) < 1e-6, \
        "what comes before the dropped block is as it was"
    assert _names("encoder", Plan.of([Step("down", "drop", {}), Step("out", "drop", {})])) == []
    dropped = Plan.of([Step("bn1", "drop", {})])
    assert _names("residual", dropped) == ["down"]
    assert float(_loss(workbench("residual").network.compressor.compress(dropped).model, "residual", dropped)) > 0


def test_of_many_resolutions_the_last_are_taken() -> None:
    stages = [conv_norm(3, 8), *(conv_norm(8, 8, stride=2) for _ in range(MOST_HOOK_POINTS + 1))]
    model = nn.Sequential(*stages, nn.Flatten(), nn.Linear(8, 5)).eval()
    table, _ = trace(model, (3, 32, 32))
    assert [layer.name for layer in find_hook_points(table, Plan())] == ["2.0", "3.0", "4.0", "5.0"]


@pytest.mark.parametrize("network", sorted(TAPS))
def test_identical_networks_are_at_no_distance(network: str) -> None:
    assert float(_loss(workbench(network).network.model, network, Plan())) == 0


def test_a_dead_map_has_a_gradient_without_nan() -> None:
    features = torch.zeros(2, 3, 4, 4, requires_grad=True)
    dead = attention_map(features, 1)
    assert not dead.any()
    (dead - 0.25).square().sum().backward()  # type: ignore[no-untyped-call]
    assert features.grad is not None and torch.isfinite(features.grad).all()


def test_nothing_stays_hooked() -> None:
    bench = workbench("residual")
    with (
        pytest.raises(RuntimeError, match="stop"),
        recorded(bench.network.model, find_hook_points(bench.network.table, Plan())),
    ):
        raise RuntimeError("stop")
    assert not any(module._forward_pre_hooks for module in bench.network.model.modules())


@lru_cache(maxsize=4)
def _trained(weight: float, seed: int = 0, kind: str = "attention_weight", epochs: int = 10) -> Compressed:
    bench = workbench("residual")
    plan = Plan.of((*structure(bench).steps, *integers(bench, (3, 4), 8).steps))
    teacher = Teacher(lambda inputs: outputs(bench.network.model, inputs), bench.network.task, 0, None)
    recipe = Recipe(epochs=epochs, batch=16, **{kind: weight})  # type: ignore[arg-type]
    return distill(
        bench.network.compressor.compress(plan),
        teacher,
        bench.network.task,
        recipe,
        bench.network.calibration,
        seed,
        original=original(bench),
    )


def test_training_with_it_brings_maps_nearer() -> None:
    plan = _trained(0.0).plan
    start = float(_loss(workbench("residual").network.compressor.compress(plan).model, "residual", plan))
    without, nearer = (float(_loss(_trained(weight).model, "residual", plan)) for weight in (0.0, 100.0))
    assert nearer < 0.8 * start
    assert nearer < 0.8 * without
    receipt = next(r for r in _trained(100.0).receipts if r.technique == "distill")
    assert receipt.facts["attention_of"] == ["down"]


@pytest.mark.parametrize(("kind", "weight"), [("attention_weight", 100.0), ("feature_weight", 10.0)])
def test_it_is_settled_by_the_seed_and_leaves_the_original_alone(kind: str, weight: float) -> None:
    before = state_hash(workbench("residual").network.model)
    done, again = (_trained.__wrapped__(weight, kind=kind, epochs=2).model for _ in range(2))
    assert state_hash(done) == state_hash(again)
    assert state_hash(workbench("residual").network.model) == before
    assert not any("project" in name for name, _ in done.named_parameters())


def _projected(student: Compressed, network: str) -> Tensor:
    """Distance of the student's features, by a projection that has learned nothing yet."""
    bench = workbench(network)
    taps = find_hook_points(bench.network.table, student.plan)
    with recorded(student.model, taps) as features:
        outputs(student.model, bench.network.calibration)
    return Projections(taps, student, original(bench)).loss(
        features, wanted_features(original(bench), taps, bench.network.calibration)
    )


@pytest.mark.parametrize("network", sorted(TAPS))
def test_projections_begin_as_the_channels_that_stayed(network: str) -> None:
    bench = workbench(network)
    assert float(_projected(bench.network.compressor.compress(Plan()), network).detach()) == 0
    pruned = Plan.of([step for step in structure(bench).steps if step.technique == "prune"])
    student = bench.network.compressor.restructure(pruned, fit=False)
    for layer in find_hook_points(bench.network.table, pruned):
        left = inputs_left(layer, student, original(bench))
        shown = student.model.get_submodule(layer.name)
        read = getattr(shown, "in_channels", None) or getattr(shown, "in_features", None)
        assert (layer.in_channels if left is None else len(left)) == read
    assert 0 < float(_projected(student, network).detach()) < 1


def test_features_of_channels_that_nothing_touched_are_the_originals() -> None:
    """Pruned where no tap reads, or nothing before the tap is changed but for what is gone: the selection is exact."""
    bench = workbench("chain")
    group = next(group for group in bench.network.table.groups if group.name == "1.0")
    student = bench.network.compressor.restructure(
        Plan.of([Step(group.name, "prune", {"keep": group.channels // 2})]), False
    )
    taps = [layer for layer in find_hook_points(bench.network.table, student.plan) if layer.name == "2.0"]
    left = inputs_left(taps[0], student, original(bench))
    assert left is not None and len(left) == group.channels // 2
    with recorded(student.model, taps) as features:
        outputs(student.model, bench.network.calibration)
    targets = wanted_features(original(bench), taps, bench.network.calibration)
    torch.testing.assert_close(features["2.0"], targets["2.0"][:, left])


def test_training_brings_features_nearer() -> None:
    student = workbench("residual").network.compressor.compress(_trained(0.0).plan)
    start, without, nearer = (float(_projected(done, "residual").detach()) for done in (
        student, _trained(0.0), _trained(10.0, kind="feature_weight")))
    assert nearer < 0.95 * start
    assert nearer < 0.95 * without
    receipt = next(r for r in _trained(10.0, kind="feature_weight").receipts if r.technique == "distill")
    assert receipt.facts["features_of"] == ["down"] and "attention_of" not in receipt.facts


def test_a_projection_learns_what_its_student_cannot() -> None:
    """Features that a map of the channels explains are at no distance once it is learned."""
    bench = workbench("chain")
    student = bench.network.compressor.compress(Plan())
    taps = find_hook_points(bench.network.table, Plan())
    targets = wanted_features(original(bench), taps, bench.network.calibration)
    mixed = {layer.name: targets[layer.name].flip(1) * 2 for layer in taps}
    projections = Projections(taps, student, original(bench))
    before = float(projections.loss(mixed, targets).detach())
    optimizer = torch.optim.Adam(projections.parameters(), lr=0.03)
    for _ in range(200):
        optimizer.zero_grad()
        projections.loss(mixed, targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert float(projections.loss(mixed, targets).detach()) < 0.05 * before


def test_both_kinds_share_one_pass_of_the_original() -> None:
    class Counting(nn.Module):
        def __init__(self, whole: nn.Module) -> None:
            super().__init__()
            self.whole, self.passes = whole, 0

        def forward(self, inputs: Tensor) -> Tensor:
            self.passes += 1
            scores: Tensor = self.whole(inputs)
            return scores

        def get_submodule(self, target: str) -> nn.Module:
            return self.whole.get_submodule(target)

    bench = workbench("residual")
    counting = Counting(bench.network.model)
    teacher = Teacher(lambda inputs: outputs(bench.network.model, inputs), bench.network.task, 0, None)
    done = distill(bench.network.compressor.compress(Plan()), teacher, bench.network.task,
                   Recipe(epochs=1, batch=16, attention_weight=1.0, feature_weight=1.0), bench.network.calibration, 0,
                   original=Original(counting, bench.network.table, bench.network.compressor.coupling))
    facts = next(r for r in done.receipts if r.technique == "distill").facts
    assert counting.passes == facts["steps"]
    assert facts["attention_of"] == facts["features_of"] == ["down"]


def test_without_a_weight_the_original_is_not_asked_and_nothing_changes() -> None:
    class Deaf(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            raise AssertionError("the original is not to be run")

    bench = workbench("residual")
    plan = integers(bench, (4,), 8)
    hashes = set()
    for source in (None, Original(Deaf(), bench.network.table, bench.network.compressor.coupling)):
        teacher = Teacher(lambda inputs: outputs(bench.network.model, inputs), bench.network.task, 0, None)
        done = distill(bench.network.compressor.compress(plan), teacher, bench.network.task, Recipe(epochs=2, batch=16),
                       bench.network.calibration, 0, original=source)
        hashes.add(state_hash(done.model))
        assert "attention_of" not in next(r for r in done.receipts if r.technique == "distill").facts
    assert len(hashes) == 1
    assert Recipe().attention_weight == 0


@pytest.mark.parametrize("network", ["mlp", "lstm"])
def test_networks_without_maps_are_refused_before_training(network: str) -> None:
    bench = workbench(network)
    teacher = Teacher(lambda inputs: outputs(bench.network.model, inputs), bench.network.task, 0, None)
    start = bench.network.compressor.compress(Plan())
    before = state_hash(start.model)
    with pytest.raises(InputError, match="attention_weight and feature_weight must be 0"):
        distill(start, teacher, bench.network.task, Recipe(attention_weight=1.0), bench.network.calibration, 0,
                original=original(bench))
    assert state_hash(start.model) == before


@pytest.mark.parametrize("options", [{"attention_weight": 1.0}, {"feature_weight": 1.0}, {"block_steps": 1}], ids=str)
def test_what_needs_the_original_is_refused_without(options: dict[str, float]) -> None:
    bench = workbench("chain")
    teacher = Teacher(lambda inputs: outputs(bench.network.model, inputs), bench.network.task, 0, None)
    with pytest.raises(InputError, match="must be 0 without the original"):
        distill(bench.network.compressor.compress(Plan()), teacher, bench.network.task, Recipe(**options),  # type: ignore[arg-type]
                bench.network.calibration, 0)


@pytest.mark.parametrize("name", ["attention_weight", "feature_weight", "mixup", "block_steps", "label_weight"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_number_out_of_range_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{name} must be 0 or more"):
        Recipe(**{name: value})  # type: ignore[arg-type]


def test_recipes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match="label_weight must be from 0 to 1"):
        Recipe(label_weight=1.5)
    with pytest.raises(InputError, match="epochs must be above 0"):
        Recipe(epochs=0)
