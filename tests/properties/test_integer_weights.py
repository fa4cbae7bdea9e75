"""Integer weights and activation ranges: on the grid, no worse than the plain recipe, exact under folding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from autocompress.backend.network.quantized_weight import (
    QuantizedWeight,
    largest_level,
    per_channel,
    quantize_weight,
    round_to_levels,
)
from autocompress.backend.quantize.rounding import start_weight
from autocompress.backend.training.lsq import LsqStep
from autocompress.formats.ranges import choose_range
from autocompress.techniques.quantize import level_limit

pytestmark = pytest.mark.numerics

BITS = (1, 2, 3, 4, 5, 6, 7, 8)
WEIGHTS = arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 12)),
                        elements=st.floats(-100, 100, width=32))
FACTORS = st.floats(-8, 8, width=32).filter(lambda f: abs(f) > 1e-3)


@settings(deadline=None)
@given(WEIGHTS, st.sampled_from(BITS))
def test_levels_are_on_the_grid_and_the_error_no_worse_than_absmax(values: np.ndarray, bits: int) -> None:
    weight = torch.from_numpy(values)
    got = quantize_weight(weight, bits)
    top = largest_level(bits)
    assert got.levels.dtype == torch.int8
    assert got.levels.shape == weight.shape
    assert int(got.levels.abs().max()) <= top
    if bits < 7:
        assert (got.levels % 2 != 0).all()
    assert got.scale.shape == weight.shape[:1]
    assert (got.scale > 0).all()
    assert torch.isfinite(got.scale).all()
    plain = weight.abs().amax(1).clamp_min(1e-12) / top
    naive = round_to_levels(weight / plain[:, None], bits) * plain[:, None]
    error = (got.dequantized() - weight).square().sum(1)
    allowed = (naive - weight).square().sum(1)
    assert (error <= allowed * (1 + 1e-4) + 1e-9 * weight.square().sum(1) + 1e-20).all()


@settings(deadline=None)
@given(WEIGHTS, st.sampled_from([("linear", bits) for bits in BITS] + [("codebook", 5), ("pow2", 4)]))
def test_no_two_levels_behind_integer_activations_overflow_16_bits(values: np.ndarray, grid: tuple[str, int]) -> None:
    """255 * (|a| + |b|) is below 2**15 whatever the weights, folding included."""
    args = {"grid": grid[0], "weight_bits": grid[1], "activation_bits": 8}
    weight = start_weight(torch.from_numpy(values), args).rescaled(torch.full((len(values),), -3.0))
    assert 255 * 2 * int(weight.levels.abs().max()) < 2**15
    assert quantize_weight(torch.from_numpy(values), grid[1], grid[0]).limit == 127 == level_limit(
        {**args, "activation_bits": 32})


@settings(deadline=None)
@given(WEIGHTS, st.sampled_from(BITS), st.data())
def test_a_factor_of_any_sign_moves_into_the_integers_exactly(values: np.ndarray, bits: int,
                                                             data: st.DataObject) -> None:
    weight = quantize_weight(torch.from_numpy(values), bits)
    factor = torch.tensor(data.draw(st.lists(FACTORS, min_size=len(values), max_size=len(values))))
    moved = weight.rescaled(factor)
    torch.testing.assert_close(moved.levels.abs(), weight.levels.abs(), rtol=0, atol=0)
    torch.testing.assert_close(moved.scale, weight.scale * factor.abs(), rtol=0, atol=0)
    torch.testing.assert_close(moved.dequantized(), weight.dequantized() * per_channel(factor, weight.levels),
                               rtol=1e-6, atol=1e-37)  # subnormal numbers round


def test_a_dead_norm_leaves_zeros() -> None:
    weight = quantize_weight(torch.randn(2, 3, generator=torch.Generator().manual_seed(0)), 4)
    moved = weight.rescaled(torch.tensor([0.0, -1.0]))
    assert moved.dequantized()[0].abs().max() == 0
    assert torch.equal(moved.dequantized()[1], -weight.dequantized()[1])


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(bits: int, bad: float) -> None:
    with pytest.raises(ValueError, match="nan"):
        quantize_weight(torch.tensor([[1.0, bad]]), bits)


@pytest.mark.parametrize("bits", BITS)
def test_a_learned_step_trains_on_the_very_values_that_ship(bits: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    weight = torch.randn(6, 4, 3, 3, generator=generator)
    step = LsqStep(quantize_weight(weight, bits))
    with torch.no_grad():
        step.scale.mul_(torch.rand(6, generator=generator) + 0.5)
        step.scale[0] *= -1  # an optimiser may overshoot
        moved = weight + 0.3 * torch.randn(weight.shape, generator=generator)
        trained, shipped = step(moved), step.quantized(moved)
    assert isinstance(shipped, QuantizedWeight)
    assert int(shipped.levels.abs().max()) <= largest_level(bits)
    torch.testing.assert_close(trained, shipped.dequantized(), rtol=1e-5, atol=1e-6)


@settings(deadline=None)
@given(arrays.arrays(np.float32, st.integers(1, 64), elements=st.floats(-1000, 1000, width=32)))
def test_a_range_is_legal_and_no_worse_than_the_observed_one(sample: np.ndarray) -> None:
    low, high = min(0.0, float(sample.min())), max(0.0, float(sample.max()))
    span = choose_range(sample, low, high, method="mse")
    assert span.scale > 0
    assert span.scale == np.float32(span.scale)
    assert 0 <= span.zero_point <= 255

    def error(scale: float, zero: int) -> float:
        codes = np.clip(np.rint(sample / scale) + zero, 0, 255)
        return float(np.square((codes - zero) * scale - sample, dtype=np.float64).mean())

    whole = max((high - low) / 255, 1e-8)
    assert error(span.scale, span.zero_point) <= error(whole, round(-low / whole)) * 1.001 + 1e-6
    assert (0 - span.zero_point) * span.scale <= 0 <= (255 - span.zero_point) * span.scale


def test_zero_is_exact_and_outliers_are_clipped() -> None:
    sample = np.concatenate([np.random.default_rng(0).random(5000, np.float32), [100.0]]).astype(np.float32)
    clipped = choose_range(sample[:-1], 0.0, 2.0, method="mse")
    assert clipped.scale * 255 == pytest.approx(1.0, rel=0.02)
    assert clipped.zero_point == 0
    assert choose_range(np.zeros(4, np.float32), 0.0, 0.0).zero_point == 0
