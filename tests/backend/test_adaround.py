"""Learned rounding is never worse than nearest, whatever the grid, and names what it cannot use."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from autocompress.backend.network.quantized_weight import level_table, quantize_weight
from autocompress.backend.quantize.adaround import _learned, output_error, round_up_or_down
from autocompress.backend.statistics.reconstruct import damped
from autocompress.core.plan import Scalar
from autocompress.errors import TrialError
from autocompress.testing.exporters import integers
from autocompress.testing.techniques import workbench


def _second(groups: int, d: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(groups, 40 * d, d, generator=generator) @ torch.randn(groups, d, d, generator=generator)
    return rows.transpose(1, 2) @ rows / rows.shape[1]


def _weight(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("bits", "settings"), [
    (1, {}), (2, {}), (3, {}), (4, {}), (2, {"grid": "codebook"}), (4, {"grid": "pow2"}), (3, {"group": 32}),
    (4, {"grid": "codebook", "group": 64}),
])
@pytest.mark.parametrize(("shape", "groups", "d"), [
    ((8, 96), 1, 96), ((6, 12, 3, 3), 1, 108), ((6, 12, 3, 3), 1, 12), ((6, 4, 3, 3), 2, 36),
])
def test_no_channel_is_worse_than_nearest_and_most_are_better(bits: int, settings: dict[str, Scalar],
                                                              shape: tuple[int, ...], groups: int, d: int) -> None:
    weight, second = _weight(*shape), _second(groups, d)
    grid, group = str(settings.get("grid", "linear")), int(settings.get("group", 0))
    nearest = quantize_weight(weight, bits, grid, group, second)
    learned = round_up_or_down(weight, nearest, second)
    before, after = (output_error(weight, rounded, damped(second)) for rounded in (nearest, learned))
    assert (after <= before).all()
    assert after.sum() < 0.9 * before.sum()
    assert torch.isin(learned.levels, level_table(nearest).to(torch.int8)).all()


def test_the_error_of_the_output_is_that_of_a_product() -> None:
    weight, rows = _weight(5, 4, 3, 3), _weight(300, 36)
    rounded = quantize_weight(weight, 3)
    second = (rows.T @ rows / len(rows))[None]
    errors = rows @ (rounded.dequantized() - weight).flatten(1).T
    torch.testing.assert_close(output_error(weight, rounded, second), errors.square().mean(0), rtol=1e-4, atol=1e-6)


def test_few_weights_are_rounded_nearly_as_well_as_can_be() -> None:
    hessian, aim = _second(1, 10), torch.rand(1, 10, 20, generator=torch.Generator().manual_seed(2))
    hessian /= hessian.diagonal(dim1=1, dim2=2).mean()
    rounded = _learned(aim, torch.ones_like(aim), hessian).float()

    def error(up: Tensor) -> Tensor:
        return ((up - aim) * (hessian @ (up - aim))).sum(1)

    every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=10))).T
    off = every[None, :, :, None] - aim[:, :, None]  # (1, d, ways, rows)
    best = (off * torch.einsum("gij,gjwr->giwr", hessian, off)).sum(1).min(1).values
    least, near, learned = float(best.sum()), float(error(aim.round()).sum()), float(error(rounded).sum())
    assert least * (1 - 1e-4) <= learned < least + 0.4 * (near - least), (least, learned, near)


@pytest.mark.parametrize(("bits", "grid"), [(3, "linear"), (4, "pow2")])
def test_what_was_taken_out_stays_out(bits: int, grid: str) -> None:
    weight = _weight(6, 40)
    kept = weight.abs() > 0.6
    start = quantize_weight(weight * kept, bits, grid, mask=kept)
    assert not round_up_or_down(weight * kept, start, _second(1, 40), mask=kept).levels[~kept].any()


def test_degenerate_layers_are_rounded_or_named() -> None:
    weight = _weight(4, 12)
    weight[1] = 0
    dead = _second(1, 12)
    dead[:, 3], dead[:, :, 3] = 0, 0
    for second in (dead, torch.zeros(1, 12, 12)):
        assert torch.isfinite(round_up_or_down(weight, quantize_weight(weight, 2), second).dequantized()).all()
    with pytest.raises(TrialError, match="moments of the input of conv7 must be finite"):
        round_up_or_down(weight, quantize_weight(weight, 2), torch.full((1, 12, 12), torch.nan), "conv7")


@pytest.mark.parametrize("network", ["residual"])
def test_on_a_network_no_layer_is_worse_than_nearest(network: str) -> None:
    bench = workbench(network)
    compressor = bench.network.compressor
    rounded = {way: compressor.compress(integers(bench, (2, 3, 4), 32, rounding=way)).weights
               for way in ("nearest", "adaround")}
    better = 0
    for name, nearest in rounded["nearest"].items():
        moments = compressor.statistics.moments(name)
        weight = bench.network.model.get_submodule(name).weight
        assert moments is not None
        assert isinstance(weight, Tensor)
        hessian = damped(compressor._weighing(name, moments))
        before, after = (output_error(weight.detach(), q, hessian).sum() for q in (nearest, rounded["adaround"][name]))
        assert after <= before * (1 + 1e-5)
        better += int(after < 0.95 * before)
    assert better >= len(rounded["nearest"]) / 2
