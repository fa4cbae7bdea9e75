"""Numerics hold at the edges: zeros, constants, dead channels, one sample, and values far too small or too large."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autocompress.backend.decompose.factorize import factorize
from autocompress.backend.network.grids import codebook_levels
from autocompress.backend.network.quantized_weight import quantize_weight, top_level
from autocompress.backend.quantize.adaround import round_up_or_down
from autocompress.backend.quantize.gptq import round_gptq
from autocompress.backend.sparsify.magnitude_wanda_obs import sparsify
from autocompress.backend.statistics.calibration import norm_inputs, reestimate_norms
from autocompress.backend.statistics.moments import Moments, Statistics
from autocompress.backend.statistics.reconstruct import on_remaining, removal_damage
from autocompress.backend.training.distill import LEAST_PACE, NEAR_LABEL_WEIGHT, _adapt_to_student
from autocompress.backend.training.lsq import LsqStep
from autocompress.backend.training.recipe import Recipe
from autocompress.tasks.classification.scores import scores
from autocompress.techniques.quantize import GRIDS
from autocompress.techniques.sparsify import CRITERIA
from autocompress.tensors.likelihood import CATEGORICAL

pytestmark = pytest.mark.numerics

SIZES = (0.0, 1e-20, 1e-8, 1.0, 1e8, 1e20)
"""Of the values in a row or a channel; 0: it is dead."""
sizes = st.lists(st.sampled_from(SIZES), min_size=1, max_size=4)
seeds = st.integers(0, 2**16)
few = settings(max_examples=40)


def _rows(of: list[float], columns: int, seed: int, constant: bool = False) -> Tensor:
    """`(len(of), columns)`, each row of its size."""
    drawn = torch.randn(len(of), columns, generator=torch.Generator().manual_seed(seed))
    return (torch.ones_like(drawn) if constant else drawn) * torch.tensor(of)[:, None]


def _second(of: list[float], seed: int, rows: int = 8) -> Tensor:
    """Second moments `(1, d, d)` of inputs whose columns have these sizes; of one sample where `rows` is 1."""
    inputs = _rows(of, rows, seed).T
    return (inputs.T @ inputs / rows)[None]


# -- distillation --------------------------------------------------------------------------------------


@given(st.floats(-1e-3, 1e6), sizes, seeds, st.floats(0, 1))
@few
def test_a_student_that_begins_near_has_a_legal_pace(divergence: float, of: list[float], seed: int,
                                                     weight: float) -> None:
    logits = _rows([min(size, 1e8) for size in of], 5, seed)
    recipe, pace = _adapt_to_student(Recipe(label_weight=weight), divergence, CATEGORICAL.spread(logits))
    assert LEAST_PACE <= pace <= 1
    assert weight <= recipe.label_weight <= max(weight, NEAR_LABEL_WEIGHT)


@given(sizes, seeds, st.sampled_from([1.0, 4.0]))
@few
def test_divergences_are_not_negative(of: list[float], seed: int, temperature: float) -> None:
    student, teacher = (_rows([min(size, 1e8) for size in of], 5, seed + i) for i in range(2))
    assert float(CATEGORICAL.distillation_loss(student, teacher, temperature)) >= 0
    assert float(CATEGORICAL.distillation_loss(teacher, teacher, temperature)) == pytest.approx(0, abs=1e-3)
    assert CATEGORICAL.distillation_loss(student, teacher, temperature).isfinite()


@given(sizes, seeds)
@few
def test_scores_are_finite(of: list[float], seed: int) -> None:
    values = scores(_rows(of, 5, seed).numpy(), np.zeros(len(of), np.int64))
    assert all(math.isfinite(value) for value in values.values())
    assert 0 <= values["accuracy"] <= 1 and values["cross_entropy"] >= 0 and values["accuracy_error"] > 0


# -- integer weights -----------------------------------------------------------------------------------


@given(sizes, seeds, st.sampled_from([(grid, bits) for grid, widths in GRIDS.items() for bits in widths]),
       st.sampled_from([0, 3]), st.booleans())
@settings(max_examples=100)
def test_integers_come_near_whatever_the_size(of: list[float], seed: int, grid: tuple[str, int], group: int,
                                              constant: bool) -> None:
    weight = _rows(of, 8, seed, constant).reshape(-1, 2, 2, 2)
    rounded = quantize_weight(weight, grid[1], grid[0], group)
    value = rounded.dequantized()
    assert value.isfinite().all() and (rounded.scale >= 0).all()
    assert rounded.levels.abs().max() <= top_level(rounded)
    for row, near in zip(weight.double(), value.double(), strict=True):
        largest = float(row.abs().max())
        if largest > 1e-10:  # below, a weight is as good as zero
            assert float((row - near).norm()) <= 1.001 * float(row.norm())
        assert float(near.abs().max()) <= 4 * largest + 1e-10


@given(sizes, seeds, st.integers(2, 6))
@few
def test_codebooks_are_symmetric_and_ascend(of: list[float], seed: int, bits: int) -> None:
    rows = _rows(of, 16, seed)[:, None]
    levels = codebook_levels(rows, torch.ones(1), bits, 64).int()
    assert torch.equal(levels, -levels.flip(0)) and (levels.diff() >= 0).all()
    assert len(levels) == 2**bits


@given(sizes, st.lists(st.sampled_from(SIZES), min_size=4, max_size=4), seeds, st.sampled_from([1, 8]),
       st.sampled_from([("gptq", 3), ("gptq", 8), ("adaround", 2)]))
@settings(max_examples=30)
def test_rounding_with_moments_is_finite(of: list[float], inputs: list[float], seed: int, samples: int,
                                         how: tuple[str, int]) -> None:
    weight, second = _rows(of, 4, seed), _second([min(size, 1e8) for size in inputs], seed, samples)
    start = quantize_weight(weight, how[1])
    rounded = round_up_or_down(weight, start, second) if how[0] == "adaround" else \
        round_gptq(weight, start, second)
    assert rounded.dequantized().isfinite().all() and (rounded.scale >= 0).all()


@given(sizes, seeds, st.sampled_from([1, 2, 4, 8]))
@few
def test_learned_steps_have_finite_gradients(of: list[float], seed: int, bits: int) -> None:
    weight = _rows([min(size, 1e8) for size in of], 8, seed).requires_grad_()
    step = LsqStep(quantize_weight(weight.detach(), bits))
    value = step(weight)
    value.sum().backward()
    assert value.isfinite().all() and weight.grad is not None and weight.grad.isfinite().all()
    assert step.scale.grad is not None and step.scale.grad.isfinite().all()
    assert step.quantized(weight).dequantized().isfinite().all()


# -- least squares, factors, zeros ---------------------------------------------------------------------


@given(st.lists(st.sampled_from(SIZES), min_size=4, max_size=4), sizes, seeds, st.sampled_from([1, 8]))
@few
def test_refitting_and_damage_are_finite(inputs: list[float], of: list[float], seed: int, samples: int) -> None:
    weight, second = _rows(of, 4, seed), _second([min(size, 1e8) for size in inputs], seed, samples)[0]
    assert on_remaining(weight, second, torch.tensor([0, 2])).isfinite().all()
    damage = removal_damage(weight.clamp(-1e8, 1e8), second, 2)
    assert damage.isfinite().all() and (damage >= -1e-6 * damage.abs().max()).all()


@given(st.sampled_from(SIZES), st.lists(st.sampled_from(SIZES), min_size=4, max_size=4), seeds, st.booleans(),
       st.sampled_from([("channel-svd", {"rank": 3}), ("spatial-svd", {"rank": 3}),
                        ("tucker2", {"rank_in": 2, "rank_out": 2})]))
@few
def test_factors_are_finite_and_no_worse_than_nothing(size: float, inputs: list[float], seed: int, has_moments: bool,
                                                      how: tuple[str, dict[str, int]]) -> None:
    layer = nn.Conv2d(4, 6, 3)
    with torch.no_grad():
        layer.weight.copy_(_rows([size] * 6, 36, seed).reshape(6, 4, 3, 3))
    second = _second([min(value, 1e8) for value in inputs], seed)[0] if has_moments else None
    factors = factorize(layer, *how, second, None if second is None else torch.zeros(4))
    assert all(parameter.isfinite().all() for parameter in factors.parameters())


@given(sizes, st.lists(st.sampled_from(SIZES), min_size=4, max_size=4), seeds, st.sampled_from(CRITERIA))
@few
def test_as_many_weights_stay_as_asked_for(of: list[float], inputs: list[float], seed: int, criterion: str) -> None:
    weight, second = _rows(of, 4, seed), _second([min(size, 1e8) for size in inputs], seed)
    kept, mask = sparsify(weight, "2:4", 1.0, criterion, second)
    assert kept.isfinite().all() and (mask.kept.sum(1) == 2).all() and not kept[~mask.kept].any()


# -- what layers and norms see -------------------------------------------------------------------------


class _One(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layer(x)
        return output.flatten(1)


@given(st.lists(st.sampled_from(SIZES), min_size=3, max_size=3), seeds, st.sampled_from([1, 5]), st.booleans())
@few
def test_moments_are_finite_and_variances_not_negative(of: list[float], seed: int, samples: int,
                                                       constant: bool) -> None:
    of = [min(size, 1e8) for size in of]
    inputs = _rows(of, samples * 4, seed, constant).reshape(3, samples, 2, 2).transpose(0, 1).contiguous()
    moments = Statistics(_One(nn.Conv2d(3, 2, 2)).eval(), inputs).moments("layer")
    assert isinstance(moments, Moments)
    variance = moments.covariance.diagonal(dim1=1, dim2=2)
    assert moments.second.isfinite().all() and (moments.magnitude >= 0).all()
    assert (variance >= -1e-5 * variance.abs().max()).all()
    assert ((moments.active >= 0) & (moments.active <= 1)).all()


@given(st.lists(st.sampled_from(SIZES), min_size=3, max_size=3), seeds, st.sampled_from([1, 5]))
@few
def test_norms_are_reestimated_to_finite_statistics(of: list[float], seed: int, samples: int) -> None:
    of = [min(size, 1e8) for size in of]
    inputs = _rows(of, samples * 4, seed).reshape(3, samples, 2, 2).transpose(0, 1).contiguous()
    model = _One(nn.BatchNorm2d(3)).eval()
    statistics = norm_inputs(model, inputs)
    reestimate_norms(model, inputs * 2, (), statistics)
    norm = model.layer
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None and norm.running_mean is not None
    assert norm.running_mean.isfinite().all() and norm.running_var.isfinite().all() and (norm.running_var >= 0).all()
