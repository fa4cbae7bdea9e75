"""Folding, bias correction, distillation: exact where they must be, better where they may be."""

from __future__ import annotations

import copy
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autocompress.backend.compress import Compressor
from autocompress.backend.graph.trace import trace
from autocompress.backend.network.checkpoint import encode_weights, load_weights
from autocompress.backend.network.compressed import Compressed
from autocompress.backend.network.fold import fold_norms
from autocompress.backend.network.quantized_weight import quantize_weight
from autocompress.backend.statistics.calibration import correct_biases, reestimate_norms, runs_before_a_norm
from autocompress.backend.training.distill import distill
from autocompress.backend.training.feature_distillation import Original
from autocompress.backend.training.recipe import Recipe
from autocompress.backend.training.teacher import Teacher
from autocompress.core.cancellation import controlled
from autocompress.core.plan import Plan, Step
from autocompress.errors import TrialError
from autocompress.hardware.profile import load_profile
from autocompress.study.workbench import Workbench
from autocompress.testing.exporters import integers, sparse, structure
from autocompress.testing.networks import NETWORKS
from autocompress.testing.techniques import outputs, state_hash, trained_workbench, workbench


@pytest.mark.parametrize("bits", [None, 2, 4, 8])
def test_folding_is_exact_for_dead_and_negative_norms(bits: int | None) -> None:
    model = NETWORKS["chain"].make()
    with torch.no_grad():
        model[0][1].weight[:3] = torch.tensor([0.0, -1.5, 1e-12])  # type: ignore[index]
    table, coupling = trace(model, (3, 12, 12))
    inputs = torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    plan = Plan() if bits is None else Plan.of([
        Step(layer.name, "quantize", {"weight_bits": bits, "activation_bits": 8})
        for layer in table.layers if layer.kind != "norm"])
    compressed = Compressor(model, table, coupling, inputs).compress(plan)
    folded = fold_norms(compressed, table)
    assert not [m for m in folded.model.modules() if isinstance(m, nn.BatchNorm2d)]
    expected = outputs(compressed.model, inputs)
    torch.testing.assert_close(outputs(folded.model, inputs), expected, rtol=1e-4, atol=1e-5)
    for name, weight in folded.weights.items():
        assert torch.equal(weight.levels.abs(), compressed.weights[name].levels.abs())
        assert (weight.scale >= 0).all()


def test_a_dead_norm_survives_export() -> None:
    """A scale of zero is legal in the network, but a runtime divides by scales."""
    bench = workbench("chain")
    compressed = bench.network.compressor.compress(integers(bench, (4,), 8))
    with torch.no_grad():
        norm = compressed.model.get_submodule("0.1")
        assert isinstance(norm.weight, Tensor)
        norm.weight[:4] = 0
    from autocompress.formats.onnx.runtime import Runtime

    scores = torch.from_numpy(Runtime(bench.network.write(compressed).data).run(bench.network.calibration.numpy()))
    expected = outputs(compressed.model, bench.network.calibration)
    assert torch.isfinite(scores).all()
    assert float(torch.corrcoef(torch.stack([scores.ravel(), expected.ravel()]))[0, 1]) > 0.98


@pytest.mark.parametrize("groups", [1, 4])
def test_bias_correction_removes_the_mean_error(groups: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 3, groups=groups), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5))
    inputs = torch.randn(64, 8, 6, 6)
    original = copy.deepcopy(model)
    names = ["1", "4"]
    means = reestimate_norms(model, inputs, names)
    assert {name: mean.shape for name, mean in means.items()} == {"1": (8,), "4": (128,)}
    shifts = {}
    with torch.no_grad():
        for name in names:
            weight = model.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            rounded = quantize_weight(weight, 2).dequantized()
            shifts[name] = rounded - weight
            weight.copy_(rounded)

    def mean_error(net: nn.Module) -> float:
        return float((outputs(net[:2], inputs) - outputs(original[:2], inputs)).mean((0, 2, 3)).abs().max())  # type: ignore[index]

    def last_error(net: nn.Module) -> float:
        return float((outputs(net, inputs) - outputs(original, inputs)).mean(0).abs().mean())

    before, last_before = mean_error(model), last_error(model)
    correct_biases(model, shifts, means)
    assert mean_error(model) < 0.1 * before, "what is left is the border, where means differ"
    assert last_error(model) < last_before


def _start() -> tuple[Compressed, Teacher]:
    bench = trained_workbench("chain")
    plan = Plan.of((*structure(bench).steps, *integers(bench, (2, 3), 8).steps))
    teacher = Teacher(partial(outputs, bench.network.model), bench.network.task, 0, None)
    return bench.network.compressor.compress(plan), teacher


def _distilled(seed: int, epochs: int = 30) -> Compressed:
    bench = trained_workbench("chain")
    start, teacher = _start()
    return distill(
        start,
        teacher,
        bench.network.task,
        Recipe(epochs=epochs, batch=32, label_weight=0),
        bench.network.calibration,
        seed,
    )


def test_distillation_comes_nearer_to_the_teacher_and_ships_integers() -> None:
    bench = trained_workbench("chain")
    start, _ = _start()
    inputs = bench.network.task.normalise(bench.network.task.train.inputs)
    teacher = outputs(bench.network.model, inputs)
    before = float((outputs(start.model, inputs) - teacher).square().mean())
    done = _distilled(0)
    assert float((outputs(done.model, inputs) - teacher).square().mean()) < 0.85 * before
    assert not done.model.training
    assert set(done.weights) == set(start.weights) and len(done.weights) >= 4
    for name, weight in done.weights.items():
        module = done.model.get_submodule(name)
        torch.testing.assert_close(module.weight, weight.dequantized(), rtol=0, atol=0)
        assert not hasattr(module, "parametrizations")
    assert sum(r.technique == "quantize" for r in done.receipts) == 4


def test_distillation_is_settled_by_its_seed() -> None:
    one, again, other = (state_hash(_distilled(seed, epochs=4).model) for seed in (1, 1, 2))
    assert one == again != other


class Viewed(nn.Module):
    """Flattened by `view`, which a map whose channels come last cannot be."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.max_pool2d(torch.relu(self.conv(x)), 3)
        scores: Tensor = self.head(x.view(x.size(0), -1))
        return scores


@pytest.mark.parametrize("recipe", [Recipe(epochs=1, batch=16), Recipe(epochs=0, block_steps=8)])
def test_a_network_that_views_its_maps_is_trained(recipe: Recipe) -> None:
    model, data = Viewed().eval(), NETWORKS["chain"].data()
    bench = Workbench(model, data, load_profile("host"), seed=0, folder=Path(os.devnull), epochs=1)
    start = bench.network.compressor.compress(integers(bench, (4,), 8))
    before = state_hash(start.model)
    original = Original(bench.network.model, bench.network.table, bench.network.compressor.coupling)
    done = distill(start, Teacher(partial(outputs, model), data, 0, None), data, recipe, bench.network.calibration, 0,
                   original=original)
    assert state_hash(done.model) != before
    assert bench.network.write(done).data


def test_training_steps_are_in_proportion_to_what_they_change() -> None:
    """Weights in front of a norm can be of any size and do the same: then they are trained the same."""
    bench = trained_workbench("chain")
    inputs = bench.network.task.normalise(bench.network.task.train.inputs)
    trained = []
    for factor in (1.0, 64.0):
        start = bench.network.compressor.compress(Plan())
        norm: Any = start.model.get_submodule("0.1")
        with torch.no_grad():
            for parameter in start.model.get_submodule("0.0").parameters():
                parameter *= factor
            norm.running_mean *= factor
            norm.running_var *= factor**2
        teacher = Teacher(lambda x: 2 * outputs(bench.network.model, x), bench.network.task, 0, None)
        done = distill(
            start, teacher, bench.network.task, Recipe(epochs=4, batch=16, label_weight=0), bench.network.calibration, 0
        )
        assert set(done.model.state_dict()) == set(bench.network.model.state_dict())
        trained.append(outputs(done.model, inputs))
    way = (trained[0] - outputs(bench.network.model, inputs)).norm()
    assert (trained[1] - trained[0]).norm() < 0.02 * way


def test_a_training_that_a_clock_ends_says_how_much_time_it_has() -> None:
    bench, told = workbench("chain"), []
    for recipe in (Recipe(epochs=1), Recipe(epochs=1, seconds=3600)):
        start, teacher = _start()
        with controlled(tell=lambda what, done, total: told.append((what, total)) if not done else None):
            distill(start, teacher, bench.network.task, recipe, bench.network.calibration, 0)
    (plain, steps), (timed, unknown) = (each for each in told if each[0].startswith("training"))
    assert plain == "training" and steps and not unknown
    assert re.fullmatch(r"training, \d+m\d\ds left, step", timed)


def test_distillation_fails_on_nan_and_stops_when_asked() -> None:
    bench = workbench("chain")
    start, teacher = _start()
    with torch.no_grad():
        norm = start.model.get_submodule("0.1")
        assert isinstance(norm.bias, Tensor)
        norm.bias[0] = float("nan")
    with pytest.raises(TrialError, match="nan"):
        distill(start, teacher, bench.network.task, Recipe(epochs=1), bench.network.calibration, 0)
    start, teacher = _start()
    with pytest.raises(TrialError, match="stopped when the search was"):
        distill(
            start, teacher, bench.network.task, Recipe(epochs=1), bench.network.calibration, 0, should_stop=lambda: True
        )


@pytest.mark.parametrize("technique", ["quantize", "decompose", "sparsify"])
def test_weights_that_are_not_finite_are_named(technique: str) -> None:
    model = NETWORKS["mlp"].make()
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")  # type: ignore[index]
    table, coupling = trace(model, (20,))
    args: dict[str, int | float | str] = {"quantize": {"weight_bits": 4, "activation_bits": 8},
                                          "decompose": {"method": "svd", "rank": 4},
                                          "sparsify": {"pattern": "2:4"}}[technique]
    with pytest.raises(ValueError, match="nan"):
        Compressor(model, table, coupling, torch.randn(4, 20)).compress(Plan.of([Step("0", technique, args)]))


def test_a_network_with_nan_outputs_is_not_exported() -> None:
    bench = workbench("mlp")
    compressed = bench.network.compressor.compress(Plan())
    with torch.no_grad():
        next(compressed.model.parameters())[0] = float("nan")
    with pytest.raises(TrialError, match="nan"):
        bench.network.write(compressed)


@pytest.mark.parametrize("bits", [2, 8, 32])
def test_what_was_taken_out_stays_out_in_training(tmp_path: Path, bits: int) -> None:
    bench = workbench("residual")
    widths = () if bits == 32 else integers(bench, (bits,), 8).steps
    plan = Plan.of((*sparse(bench, Plan()).steps, *widths))
    start = bench.network.compressor.compress(plan)
    before = {name: mask.kept.clone() for name, mask in start.masks.items()}
    untrained = {name: start.model.get_submodule(name).weight.detach().clone() for name in before}  # type: ignore[operator]
    teacher = Teacher(partial(outputs, bench.network.model), bench.network.task, 0, None)
    done = distill(start, teacher, bench.network.task, Recipe(epochs=3, batch=16), bench.network.calibration, 0)
    for name, kept in before.items():
        module = done.model.get_submodule(name)
        assert isinstance(module.weight, Tensor)
        assert not hasattr(module, "parametrizations")
        assert torch.equal(done.masks[name].kept, kept)
        assert not module.weight[~kept].any()
        assert not torch.equal(module.weight[kept], untrained[name][kept])
        if bits < 32:
            torch.testing.assert_close(module.weight, done.weights[name].dequantized(), rtol=0, atol=0)
        if bits < 8:
            assert (done.weights[name].levels[kept] != 0).all()
    again = load_weights(bench.network.compressor.restructure(plan, fit=False), encode_weights(done), "weights")
    assert {name: mask.pattern for name, mask in again.masks.items()} == {n: m.pattern for n, m in done.masks.items()}
    assert bench.network.write(again).data == bench.network.write(done).data


def test_a_first_factor_is_rounded_with_feedback_from_what_the_layer_reads() -> None:
    bench = workbench("chain")
    plan = Plan.of([Step("2.0", "decompose", {"method": "channel-svd", "rank": 12}),
                    Step("2.0", "quantize", {"weight_bits": 2, "activation_bits": 32})])
    structured = bench.network.compressor.restructure(plan)
    first = structured.model.get_submodule("2.0.0").weight
    moments = bench.network.compressor.statistics.moments("2.0")
    assert isinstance(first, Tensor)
    assert moments is not None

    def error(candidate: Tensor) -> float:
        change = (candidate - first.detach()).flatten(1)
        return float((change @ moments.covariance[0] * change).sum())

    rounded = bench.network.compressor.rounded(structured)
    assert error(rounded["2.0.0"].dequantized()) < 0.9 * error(quantize_weight(first, 2).dequantized())
    assert rounded.keys() == {"2.0.0", "2.0.1"}


def test_a_plan_tried_again_takes_what_the_first_time_made() -> None:
    """Layers shared by candidates are made once, and what is done to one candidate does not show in the next."""
    bench = workbench("residual")
    plan = Plan.of((*structure(bench).steps, *integers(bench, (3, 8), 8).steps))
    bench.network.compressor.forget()
    first = bench.network.compressor.compress(plan)
    expected = state_hash(first.model)
    with torch.no_grad():
        for parameter in first.model.parameters():
            parameter.zero_()
    assert state_hash(bench.network.compressor.compress(plan).model) == expected
    bench.network.compressor.forget()
    assert state_hash(bench.network.compressor.compress(plan).model) == expected


def test_one_pass_tells_norms_and_means_where_no_norm_follows() -> None:
    """A bias that a later norm sees is corrected before that norm is re-estimated, any other one after."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3))
    inputs = torch.randn(256, 6)
    assert runs_before_a_norm(model.eval(), inputs[:1], ["0", "3", "5"]) == ["0"]
    assert runs_before_a_norm(model[3:], torch.randn(1, 8), ["3", "5"]) == []
    means = reestimate_norms(model, inputs, ["3", "5"])
    seen = outputs(model[:3], inputs)
    torch.testing.assert_close(means["3"], seen.mean(0), rtol=0.05, atol=0.02)
    assert means["5"].shape == (4,)


def test_a_student_that_begins_near_its_teacher_takes_smaller_steps_and_asks_the_labels_more() -> None:
    bench = trained_workbench("chain")

    def trained(bits: int, sharper: float, label_weight: float = 0.1) -> dict[str, Any]:
        teacher = Teacher(lambda inputs: sharper * outputs(bench.network.model, inputs), bench.network.task, 0, None)
        recipe = Recipe(epochs=1, batch=64, label_weight=label_weight)
        done = distill(
            bench.network.compressor.compress(integers(bench, (bits,), 8)),
            teacher,
            bench.network.task,
            recipe,
            bench.network.calibration,
            0,
        )
        return next(receipt.facts for receipt in done.receipts if receipt.technique == "distill")

    near, coarse, far = trained(8, 1.0), trained(2, 1.0), trained(8, 1000.0)
    assert near["learning_rate"] == 0.005 and near["label_weight"] > 0.49
    assert far["learning_rate"] == 0.02 and far["label_weight"] == 0.1
    assert near["label_weight"] > coarse["label_weight"] > far["label_weight"]
    assert trained(8, 1.0, label_weight=0.0)["label_weight"] == 0
    assert trained(8, 1.0, label_weight=0.7)["label_weight"] == 0.7
