"""Which weights stay and what becomes of them: right against brute force, better where it claims to be."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from autocompress.backend.network.quantized_weight import quantize_weight
from autocompress.backend.quantize.gptq import round_gptq
from autocompress.backend.sparsify.magnitude_wanda_obs import fit, largest, sparsify
from autocompress.backend.statistics.reconstruct import damped, on_remaining
from autocompress.core.plan import Plan, Step
from autocompress.core.sparsity import UNSTRUCTURED
from autocompress.errors import TrialError
from autocompress.testing.networks import NETWORKS
from autocompress.testing.techniques import outputs, workbench


def _inputs(d: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(3000, d, generator=generator) @ torch.randn(d, d, generator=generator)
    return mixed * torch.logspace(0, -1, d)


def _weight(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def _second(inputs: Tensor) -> Tensor:
    return (inputs.T @ inputs / len(inputs))[None]


@pytest.mark.parametrize(("pattern", "density", "count"), [(UNSTRUCTURED, 0.3, 144), (UNSTRUCTURED, 0.001, 1),
                                                           ("2:4", 1.0, 240), ("1:8", 1.0, 60), ("4:8", 1.0, 240)])
@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "obs"])
def test_exactly_so_many_stay_and_the_rest_is_zero(pattern: str, density: float, count: int, criterion: str) -> None:
    weight = _weight(5, 32, 3)  # 480 weights; taps are last, groups run along the 32 channels
    for second in (_second(_inputs(96)), _second(_inputs(32)), None):
        new, mask = sparsify(weight, pattern, density, criterion, second)
        assert new.shape == mask.kept.shape == weight.shape
        assert int(mask.kept.sum()) == count
        assert not new[~mask.kept].any()
        if pattern != UNSTRUCTURED:
            n, m = map(int, pattern.split(":"))
            for row, tap in itertools.product(range(5), range(3)):
                assert (mask.kept[row, :, tap].reshape(-1, m).sum(1) == n).all()


def test_the_largest_stay_and_ties_go_to_the_first() -> None:
    score = torch.tensor([[1.0, 3.0, 2.0, 0.0], [3.0, 3.0, 0.0, 5.0]])
    assert largest(score, 3).tolist() == [[False, True, False, False], [True, False, False, True]]
    assert largest(score, 2, 4).tolist() == [[False, True, True, False], [True, False, False, True]]
    assert largest(torch.zeros(2, 4), 1, 4).tolist() == [[True, False, False, False]] * 2


def test_a_quiet_input_is_worth_less_than_a_loud_one() -> None:
    second = torch.diag(torch.tensor([100.0, 1e-4]))[None]
    weight = torch.tensor([[0.5, 1.0]])
    assert sparsify(weight, UNSTRUCTURED, 0.5, "magnitude", second)[1].kept.tolist() == [[False, True]]
    assert sparsify(weight, UNSTRUCTURED, 0.5, "wanda", second)[1].kept.tolist() == [[True, False]]


def test_the_fit_is_the_least_squares_solution() -> None:
    second, weight = _second(_inputs(24)), _weight(6, 24)
    kept = largest(_weight(6, 24).abs(), 60)
    fitted = fit(weight[None], weight[None], damped(second), kept[None], 60)[0]
    for row in range(6):
        places = kept[row].nonzero()[:, 0]
        torch.testing.assert_close(fitted[row, places], on_remaining(weight[row:row + 1], second[0], places)[0],
                                   rtol=1e-2, atol=1e-2)
    assert not fitted[~kept].any()


@pytest.mark.parametrize(("pattern", "density"), [(UNSTRUCTURED, 0.5), (UNSTRUCTURED, 0.15), ("2:4", 1.0),
                                                  ("1:4", 1.0)])
def test_each_criterion_costs_the_output_less_than_the_one_before(pattern: str, density: float) -> None:
    inputs, weight = _inputs(64), _weight(32, 64)
    errors = []
    for criterion in ("magnitude", "wanda", "obs"):
        new, _ = sparsify(weight, pattern, density, criterion, _second(inputs))
        errors.append(float((inputs @ (new - weight).T).square().mean()))
    assert errors[2] < 0.8 * min(errors[:2])
    assert pattern != UNSTRUCTURED or errors[1] < errors[0]


def test_groups_are_told_apart() -> None:
    """A grouped convolution: each group meets its own inputs."""
    weight = _weight(6, 8, 3)
    seconds = [_second(_inputs(24, seed)) for seed in (0, 1)]
    together, _ = sparsify(weight, "2:4", 1.0, "obs", torch.cat(seconds))
    for second, rows in zip(seconds, (slice(0, 3), slice(3, 6)), strict=True):
        torch.testing.assert_close(together[rows], sparsify(weight[rows], "2:4", 1.0, "obs", second)[0])


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "obs"])
def test_degenerate_weights_and_moments_are_mended_or_named(criterion: str) -> None:
    silent = torch.zeros(1, 8, 8)
    new, mask = sparsify(_weight(4, 8), UNSTRUCTURED, 0.25, criterion, silent)
    assert torch.isfinite(new).all()
    new, mask = sparsify(torch.zeros(4, 8), UNSTRUCTURED, 0.25, criterion, _second(_inputs(8)))
    assert not new.any()
    assert int(mask.kept.sum()) == 8, "as many as predicted, whatever they are"
    with pytest.raises(ValueError, match=r"nan: weights .* conv7"):
        sparsify(torch.full((4, 8), torch.nan), UNSTRUCTURED, 0.25, criterion, None, "conv7")
    if criterion != "magnitude":
        with pytest.raises(TrialError, match="moments of the input of conv7 must be finite"):
            sparsify(_weight(4, 8), UNSTRUCTURED, 0.25, criterion, torch.full((1, 8, 8), torch.nan), "conv7")


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_rounding_leaves_zeros_alone_and_fits_scales_to_what_is_kept(bits: int) -> None:
    inputs = _inputs(48)
    weight, mask = sparsify(_weight(10, 48), UNSTRUCTURED, 0.3, "obs", _second(inputs))
    weight[3] = 0
    nearest = quantize_weight(weight, bits, mask=mask.kept)
    better = round_gptq(weight, nearest, _second(inputs), mask=mask.kept)
    for rounded in (nearest, better):
        assert not rounded.levels[~mask.kept].any()
        assert torch.isfinite(rounded.scale).all()
        if bits < 8:
            assert (rounded.levels[mask.kept] != 0).all()

    def error(candidate: Tensor) -> float:
        return float((inputs @ (candidate - weight).T).square().mean())

    blind = quantize_weight(weight, bits).dequantized() * mask.kept
    assert error(better.dequantized()) < error(nearest.dequantized()) < 1.001 * error(blind)


def test_a_layer_with_a_bias_keeps_the_mean_of_its_output() -> None:
    bench = workbench("mlp")
    plan = Plan.of([Step("0", "sparsify", {"pattern": UNSTRUCTURED, "density": 0.2, "criterion": "magnitude"})])
    model = bench.network.compressor.restructure(plan).model
    actual, expected = (
        outputs(m.get_submodule("0"), bench.network.calibration).mean(0) for m in (model, bench.network.model)
    )
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


def test_a_dead_layer_is_made_sparse_like_any_other() -> None:
    from autocompress.backend.compress import Compressor
    from autocompress.backend.graph.trace import trace

    model = NETWORKS["chain"].make()
    with torch.no_grad():
        model[1][0].weight.zero_()  # type: ignore[index]
    table, coupling = trace(model, (3, 12, 12))
    steps = [Step("1.0", "sparsify", {"pattern": "2:4"}),
             Step("1.0", "quantize", {"weight_bits": 2, "activation_bits": 32})]
    compressed = Compressor(model, table, coupling, torch.randn(8, 3, 12, 12)).compress(Plan.of(steps))
    assert torch.isfinite(outputs(compressed.model, torch.randn(2, 3, 12, 12))).all()
