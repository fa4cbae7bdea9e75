"""Uneven grids: exact clustering, no worse than even levels, exact under folding and training."""

from __future__ import annotations

from functools import partial
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor

from autocompress.backend.network.checkpoint import encode_weights, load_weights
from autocompress.backend.network.fold import fold_norms
from autocompress.backend.network.grids import _cluster, codebook_levels, nearest, power_levels, whole_levels
from autocompress.backend.network.quantized_weight import QuantizedWeight, per_channel, quantize_weight
from autocompress.backend.quantize.gptq import round_gptq
from autocompress.backend.training.distill import distill
from autocompress.backend.training.lsq import LsqStep
from autocompress.backend.training.recipe import Recipe
from autocompress.backend.training.teacher import Teacher
from autocompress.core.plan import Plan, Step
from autocompress.formats.onnx.runtime import Runtime
from autocompress.testing.exporters import integers, structure
from autocompress.testing.techniques import outputs, trained_workbench, workbench

UNEVEN = [("codebook", bits) for bits in (2, 3, 4, 5, 6)] + [("pow2", bits) for bits in (2, 3, 4)] \
    + [("whole", bits) for bits in (3, 4)]


def _heavy_tailed(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) ** 3 * (0.1 + torch.rand(shape[0], generator=generator)).reshape(
        -1, *[1] * (len(shape) - 1))


def _error(quantized: QuantizedWeight, weight: Tensor) -> float:
    return float((quantized.dequantized() - weight).square().mean() / weight.square().mean())


@pytest.mark.parametrize(("grid", "bits"), UNEVEN)
def test_levels_are_those_of_a_symmetric_table_of_the_width(grid: str, bits: int) -> None:
    quantized = quantize_weight(_heavy_tailed(8, 40), bits, grid)
    assert quantized.table is not None
    table = quantized.table
    assert table.dtype == quantized.levels.dtype == torch.int8
    assert len(table) == 2**bits
    assert torch.equal(table, -table.flip(0))
    assert torch.equal(table, table.sort().values)
    assert torch.isin(quantized.levels, table).all()
    if grid == "pow2":
        assert {int(level) for level in table.abs()} <= {0, 1, 2, 4, 8, 16, 32, 64}


def test_the_smallest_power_is_zero_only_where_the_largest_would_not_fit() -> None:
    assert power_levels(2).tolist() == [-2, -1, 1, 2]
    assert power_levels(3).tolist() == [-8, -4, -2, -1, 1, 2, 4, 8]
    assert power_levels(4).tolist()[8:] == [0, 1, 2, 4, 8, 16, 32, 64]


def test_whole_numbers_have_zero_among_them() -> None:
    assert whole_levels(3).tolist() == [-3, -2, -1, 0, 0, 1, 2, 3]


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_a_codebook_is_nearer_than_even_levels_where_weights_are_uneven(bits: int) -> None:
    weight = _heavy_tailed(16, 144)
    even = _error(quantize_weight(weight, bits), weight)
    assert _error(quantize_weight(weight, bits, "codebook"), weight) < 0.8 * even


@pytest.mark.parametrize("group", [32, 100])
def test_scales_per_group_are_nearer_and_whole_numbers_of_the_channels(group: int) -> None:
    weight = _heavy_tailed(8, 16, 3, 3)
    quantized = quantize_weight(weight, 4, group=group)
    assert quantized.factors is not None
    assert quantized.factors.dtype == torch.uint8
    assert quantized.factors.shape == (8, -(-144 // group))
    assert quantized.factors.amax(1).tolist() == [255] * 8
    assert quantized.factors.amin() >= 1
    assert _error(quantized, weight) < _error(quantize_weight(weight, 4), weight)
    runs = quantized.steps().flatten(1)[:, :group]
    assert torch.equal(runs, runs[:, :1].expand_as(runs))


def test_a_group_as_wide_as_the_row_is_the_row() -> None:
    weight = _heavy_tailed(8, 20)
    torch.testing.assert_close(quantize_weight(weight, 3, group=32).dequantized(),
                               quantize_weight(weight, 3).dequantized())


def test_clusters_are_the_best_there_are() -> None:
    values = torch.tensor([0.1, 0.2, 0.25, 0.9, 1.0, 2.0, 2.05, 3.0])
    weights = torch.tensor([1.0, 5.0, 1.0, 2.0, 2.0, 1.0, 1.0, 4.0])

    def cost(cuts: tuple[int, ...]) -> float:
        total = 0.0
        for begin, end in zip((0, *cuts), (*cuts, 8), strict=True):
            v, w = values[begin:end], weights[begin:end]
            total += float((w * (v - (w * v).sum() / w.sum()).square()).sum())
        return total

    for count in (1, 2, 3, 4):
        centres = _cluster(values, weights, count)
        best = min(cost(cuts) for cuts in combinations(range(1, 8), count - 1))
        assert float((weights * (nearest(values, centres) - values).square()).sum()) == pytest.approx(best, abs=1e-5)


def test_what_matters_more_is_met_more_closely() -> None:
    weight = torch.cat([torch.full((4, 20), 0.5), torch.linspace(0.6, 3.0, 80).expand(4, 80)], 1)
    second = torch.ones(1, 100, 100)
    second[0].diagonal()[:20] = 1000.0
    plain, weighed = (quantize_weight(weight, 2, "codebook", importance=importance) for importance in (None, second))
    torch.testing.assert_close(weighed.dequantized()[:, :20], weight[:, :20], rtol=0.05, atol=0)
    assert (plain.dequantized()[:, :20] - weight[:, :20]).abs().max() > 0.2


@pytest.mark.parametrize(("grid", "group"), [("codebook", 0), ("pow2", 0), ("linear", 32), ("codebook", 32)])
def test_a_factor_of_any_sign_moves_into_the_integers_exactly(grid: str, group: int) -> None:
    weight = quantize_weight(_heavy_tailed(4, 60), 3, grid, group)
    factor = torch.tensor([-2.5, 0.3, 0.0, -1e-3])
    moved = weight.rescaled(factor)
    if moved.table is not None:
        assert torch.isin(moved.levels, moved.table).all()
    torch.testing.assert_close(moved.dequantized(), weight.dequantized() * per_channel(factor, weight.levels),
                               rtol=1e-6, atol=0)


@pytest.mark.parametrize(("grid", "bits"), UNEVEN)
@pytest.mark.parametrize("group", [0, 32])
def test_feedback_rounds_to_the_same_grid_and_lowers_the_error_of_the_output(grid: str, bits: int, group: int) -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.relu(torch.randn(4000, 48, generator=generator) @ torch.randn(48, 48, generator=generator))
    weight = torch.randn(10, 48, generator=generator)
    second = (inputs.T @ inputs / len(inputs))[None]
    start = quantize_weight(weight, bits, grid, group, second)
    rounded = round_gptq(weight, start, second)
    assert start.table is not None
    assert rounded.table is not None
    assert torch.isin(rounded.levels, rounded.table).all()

    def error(candidate: QuantizedWeight) -> float:
        return float((inputs @ (candidate.dequantized() - weight).T).square().mean())

    assert error(rounded) < 0.8 * error(start)


@pytest.mark.parametrize(("grid", "group"), [("codebook", 0), ("pow2", 0), ("linear", 32), ("codebook", 32)])
def test_a_learned_step_trains_on_the_very_values_that_ship(grid: str, group: int) -> None:
    weight = _heavy_tailed(6, 8, 3, 3)
    start = quantize_weight(weight, 3, grid, group)
    step = LsqStep(start)
    moved = (weight + 0.1 * _heavy_tailed(6, 8, 3, 3, seed=5)).requires_grad_()
    with torch.no_grad():
        step.scale.mul_(1.1)
    trained, shipped = step(moved), step.quantized(moved)
    torch.testing.assert_close(trained, shipped.dequantized(), rtol=1e-5, atol=1e-7)
    assert shipped.bits == 3
    assert (shipped.table is None) == (grid == "linear")
    trained.square().sum().backward()
    assert moved.grad is not None
    assert step.scale.grad is not None
    assert step.scale.grad.abs().min() > 0


def test_steps_of_every_grid_learn_at_about_the_same_pace() -> None:
    """The learned number and its gradient do not hang on the units in which a grid counts."""
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    paces = {}
    for grid, group in (("linear", 0), ("codebook", 0), ("linear", 32), ("codebook", 32)):
        step = LsqStep(quantize_weight(weight, 4, grid, group))
        step(weight.clone().requires_grad_()).abs().sum().backward()
        assert step.scale.grad is not None
        paces[grid, group] = float((step.scale.grad / step.scale.detach()).abs().mean())
    assert max(paces.values()) < 4 * min(paces.values())


@pytest.mark.parametrize(("grid", "group"), [("codebook", 0), ("pow2", 0), ("linear", 32), ("codebook", 32)])
def test_dead_and_constant_weights_stay_finite(grid: str, group: int) -> None:
    for weight in (torch.zeros(3, 40), torch.full((3, 40), -0.25),
                   torch.cat([torch.zeros(1, 40), _heavy_tailed(2, 40)]), torch.tensor([[1e-30], [0.0], [3.0]])):
        quantized = quantize_weight(weight, 4, grid, group)
        assert torch.isfinite(quantized.scale).all()
        assert (quantized.scale > 0).all()
        torch.testing.assert_close(quantized.dequantized()[weight == 0], weight[weight == 0], rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="nan"):
        quantize_weight(torch.tensor([[1.0, float("nan")]]), 4, grid, group)


def test_an_input_that_never_speaks_leaves_a_usable_codebook() -> None:
    table = codebook_levels(_heavy_tailed(4, 30)[:, None], torch.zeros(1, 1, 30), 3, 64)
    assert table.shape == (8,)
    assert int(table[-1]) == 64


@pytest.mark.parametrize("settings", [{"grid": "codebook"}, {"grid": "pow2", "group": 32}], ids=str)
def test_a_kept_candidate_comes_back_whole(tmp_path: Path, settings: dict[str, str | int]) -> None:
    bench = workbench("residual")
    plan = integers(bench, (3,), 32, **settings)
    compressed = bench.network.compressor.compress(plan)
    again = load_weights(bench.network.compressor.restructure(plan, fit=False), encode_weights(compressed), "weights")
    assert bench.network.write(again).data == bench.network.write(compressed).data
    for name, weight in fold_norms(again, bench.network.table).weights.items():
        torch.testing.assert_close(
            weight.dequantized(),
            fold_norms(compressed, bench.network.table).model.get_submodule(name).weight,
            rtol=0,
            atol=0,
        )


def test_factors_of_a_layer_have_the_layers_grid() -> None:
    bench = workbench("mlp")
    plan = Plan.of([Step("0", "decompose", {"method": "svd", "rank": 8}),
                    Step("0", "quantize", {"weight_bits": 3, "activation_bits": 8, "grid": "codebook"})])
    weights = bench.network.compressor.compress(plan).weights
    assert set(weights) == {"0.0", "0.1"}
    assert all(weight.table is not None for weight in weights.values())


@pytest.mark.parametrize(
    "settings", [{"grid": "codebook"}, {"grid": "pow2"}, {"grid": "codebook", "group": 32}], ids=str
)
def test_distillation_keeps_the_grid_and_comes_nearer_to_the_teacher(settings: dict[str, str | int]) -> None:
    bench = trained_workbench("chain")
    start = bench.network.compressor.compress(
        Plan.of((*structure(bench).steps, *integers(bench, (2,), 32, **settings).steps))
    )
    tables = {name: weight.table for name, weight in start.weights.items()}
    inputs = bench.network.task.normalise(bench.network.task.train.inputs)
    expected = outputs(bench.network.model, inputs)
    before = float((outputs(start.model, inputs) - expected).square().mean())
    teacher = Teacher(partial(outputs, bench.network.model), bench.network.task, 0, None)
    done = distill(
        start, teacher, bench.network.task, Recipe(epochs=30, batch=32, label_weight=0), bench.network.calibration, 0
    )
    assert float((outputs(done.model, inputs) - expected).square().mean()) < 0.85 * before
    for name, weight in done.weights.items():
        module = done.model.get_submodule(name)
        table = tables[name]
        assert table is not None
        assert torch.isin(weight.levels, table).all()
        torch.testing.assert_close(module.weight, weight.dequantized(), rtol=0, atol=0)
    scores = Runtime(bench.network.write(done).data).run(bench.network.calibration.numpy())
    torch.testing.assert_close(torch.from_numpy(scores), outputs(done.model, bench.network.calibration), rtol=1e-3,
                               atol=1e-4)
