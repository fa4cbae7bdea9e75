"""Least squares on calibration moments: right against brute force, and better where it claims to be."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from autocompress.backend.network.quantized_weight import quantize_weight
from autocompress.backend.quantize.gptq import round_gptq
from autocompress.backend.statistics import moments as statistics
from autocompress.backend.statistics.moments import Samples, Statistics, shrunk
from autocompress.backend.statistics.reconstruct import damped, on_remaining, removal_damage
from autocompress.errors import TrialError


def _correlated(d: int, rows: int = 4000, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(rows, d, generator=generator) @ torch.randn(d, d, generator=generator)
    return mixed + 0.3 * torch.randn(rows, d, generator=generator)


def _covariance(inputs: Tensor) -> Tensor:
    return inputs.T @ inputs / len(inputs)


def _matrix(rows: int, columns: int, seed: int = 1) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def unshrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sample covariances as they are, to be compared with others."""
    monkeypatch.setattr(statistics, "shrunk", lambda covariance, _: covariance)


@pytest.mark.usefixtures("unshrunk")
@pytest.mark.parametrize("layer", [
    nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(4, 6, (3, 1), stride=2, padding=(2, 0), dilation=(2, 1)),
    nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(4, 4, 3, padding="same", groups=4),
    nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
])
def test_moments_of_a_convolution_are_those_of_its_patches(layer: nn.Conv2d, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "POSITIONS", 10_000)
    inputs = torch.relu(torch.randn(7, 4, 9, 8, generator=torch.Generator().manual_seed(0)) + 0.3)
    taken = Statistics(nn.Sequential(layer), inputs).moments("0")
    assert taken is not None
    # A convolution that copies: every column of the patch becomes an output channel.
    groups, d = layer.groups, layer.weight[0].numel()
    copy = nn.Conv2d(4, groups * d, layer.kernel_size, layer.stride, layer.padding, layer.dilation, groups, False,
                     layer.padding_mode)
    copy.weight.data = torch.eye(d).repeat(groups, 1).reshape(copy.weight.shape)
    patches = copy(inputs).detach().movedim(1, -1).reshape(-1, groups, d).transpose(0, 1)
    torch.testing.assert_close(taken.mean, patches.mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(taken.second, patches.transpose(1, 2) @ patches / patches.shape[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(taken.active, (inputs != 0).float().mean((0, 2, 3)))
    if groups == 1:
        kept = torch.tensor([0, 3])
        cut = Statistics(nn.Sequential(nn.Conv2d(2, 6, layer.kernel_size, layer.stride, layer.padding,
                                                 layer.dilation, padding_mode=layer.padding_mode)),
                         inputs[:, kept]).moments("0")
        assert cut is not None
        torch.testing.assert_close(taken.channels(kept).covariance, cut.covariance, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("unshrunk")
def test_moments_of_tokens() -> None:
    inputs = torch.randn(5, 11, 6, generator=torch.Generator().manual_seed(0))
    moments = Statistics(nn.Sequential(nn.Linear(6, 3)), inputs).moments("0")
    assert moments is not None
    torch.testing.assert_close(moments.second[0], _covariance(inputs.flatten(0, 1)), rtol=1e-4, atol=1e-5)


def test_moments_are_those_of_the_samples_that_weights_are_fitted_to() -> None:
    calibration, others = torch.randn(8, 6), torch.randn(40, 6) + 3
    read: list[list[int]] = []

    def of(rows: Tensor) -> Tensor:
        read.append(rows.tolist())
        return others[rows]

    samples = Samples(of, torch.arange(5, 30), lambda: "others")
    taken = Statistics(nn.Sequential(nn.Linear(6, 3)), calibration, samples=samples)
    assert not read, "nothing is read before it is needed"
    moments = taken.moments("0")
    assert moments is not None and sorted(itertools.chain(*read)) == list(range(5, 30))
    torch.testing.assert_close(moments.mean[0], others[5:30].mean(0))


def test_few_rows_are_shrunk_to_what_they_tell() -> None:
    """A regression on fewer rows than columns reproduces these and nothing else; of many rows nothing is taken."""
    d, kept = 96, torch.arange(48)
    rows = torch.randn(20_000, 12, generator=torch.Generator().manual_seed(2)) @ _matrix(12, d) / 3
    rows = rows + torch.randn(rows.shape, generator=torch.Generator().manual_seed(3)) / 2
    weight, everything = _matrix(10, d), _covariance(rows)

    def error(covariance: Tensor) -> float:
        change = -weight
        change[:, kept] += on_remaining(weight, covariance, kept)
        return float((change @ everything * change).sum())

    few = _covariance(rows[:64])[None]
    assert error(shrunk(few, 64)[0]) < 0.9 * error(few[0])
    torch.testing.assert_close(shrunk(everything[None], len(rows))[0], everything, rtol=0.02, atol=1e-3)
    torch.testing.assert_close(shrunk(few, 64).diagonal(dim1=1, dim2=2), few.diagonal(dim1=1, dim2=2))


def test_a_copy_of_a_channel_is_not_missed() -> None:
    inputs = _correlated(6)
    inputs = torch.cat([inputs, inputs[:, :2]], 1)
    weight, kept = _matrix(5, 8), torch.arange(6)
    refitted = on_remaining(weight, _covariance(inputs), kept)
    expected = inputs @ weight.T
    error = (inputs[:, kept] @ refitted.T - expected).square().mean() / expected.square().mean()
    assert error < 1e-4
    plain = (inputs[:, kept] @ weight[:, kept].T - expected).square().mean() / expected.square().mean()
    assert plain > 1e-2


def test_refitting_is_the_least_squares_solution() -> None:
    inputs = _correlated(12)
    weight, kept = _matrix(4, 12), torch.tensor([0, 2, 3, 7, 9])
    refitted = on_remaining(weight, _covariance(inputs), kept)
    solved = torch.linalg.lstsq(inputs[:, kept], inputs @ weight.T).solution.T

    def error(candidate: Tensor) -> float:
        return float((inputs[:, kept] @ candidate.T - inputs @ weight.T).square().mean())

    assert error(refitted) < 1.02 * error(solved)
    assert error(refitted) < 0.7 * error(weight[:, kept])


def test_removal_damage_is_what_refitting_cannot_mend() -> None:
    covariance, weight, area = _covariance(_correlated(12)), _matrix(4, 12), 3
    predicted = removal_damage(weight, covariance, area)
    ridge = damped(covariance)
    for channel in range(4):
        kept = torch.tensor([i for i in range(12) if i // area != channel])
        left = torch.zeros_like(weight)
        left[:, kept] = on_remaining(weight, covariance, kept)
        change = left - weight
        torch.testing.assert_close(predicted[channel], (change @ ridge * change).sum(), rtol=1e-3, atol=1e-4)


def test_a_channel_that_another_one_copies_is_hardly_missed() -> None:
    inputs, weight = _correlated(6), _matrix(5, 7)
    alone = removal_damage(weight[:, :6], _covariance(inputs), 1)
    copied = removal_damage(weight, _covariance(torch.cat([inputs, inputs[:, :1]], 1)), 1)
    assert float(copied[0]) < 0.2 * float(alone[0])
    torch.testing.assert_close(copied[1:6], alone[1:], rtol=0.2, atol=0.1)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_feedback_lowers_the_error_of_the_output(bits: int) -> None:
    inputs, weight = _correlated(48), _matrix(10, 48)
    covariance = _covariance(inputs)
    nearest = quantize_weight(weight, bits)
    better = round_gptq(weight, nearest, covariance[None])

    def error(candidate: Tensor) -> float:
        return float((inputs @ (candidate - weight).T).square().mean())

    assert error(better.dequantized()) < 0.8 * error(nearest.dequantized())
    assert better.levels.shape == weight.shape
    assert better.levels.dtype == torch.int8


def test_feedback_by_groups_is_that_of_each_group() -> None:
    weight = _matrix(6, 2 * 9).reshape(6, 2, 3, 3)
    covariance = torch.stack([_covariance(_correlated(18, seed=s)) for s in (0, 1)])
    start = quantize_weight(weight, 3)
    together = round_gptq(weight, start, covariance)
    for group, rows in enumerate((slice(0, 3), slice(3, 6))):
        alone = round_gptq(weight[rows], quantize_weight(weight[rows], 3), covariance[group:group + 1])
        assert torch.equal(together.levels[rows], alone.levels)
        torch.testing.assert_close(together.scale[rows], alone.scale)


def test_degenerate_moments_are_mended_or_named() -> None:
    weight = _matrix(3, 6)
    dead = _covariance(_correlated(6))
    dead[2], dead[:, 2] = 0, 0
    assert torch.isfinite(on_remaining(weight, dead, torch.tensor([0, 1, 2]))).all()
    assert torch.isfinite(round_gptq(weight, quantize_weight(weight, 4), dead[None]).scale).all()
    assert torch.isfinite(on_remaining(weight, torch.zeros(6, 6), torch.tensor([0, 1]))).all()
    with pytest.raises(TrialError, match="covariance of conv7 must be finite"):
        on_remaining(weight, torch.full((6, 6), torch.nan), torch.tensor([0, 1]), "conv7")
