"""Low-rank factors: best against brute force, better with the input's moments, and refused by name."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autocompress.backend.decompose import factorize as factorizing
from autocompress.backend.decompose.cp import cp_factors
from autocompress.backend.decompose.factorize import factorize
from autocompress.backend.statistics import moments as statistics
from autocompress.backend.statistics.moments import Moments, Statistics
from autocompress.errors import TrialError
from autocompress.testing.techniques import outputs


def _cases() -> list[tuple[nn.Module, str, dict[str, int]]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [
            (nn.Linear(16, 24), "svd", {"rank": 4}),
            (nn.Conv2d(16, 24, 1, stride=2), "svd", {"rank": 4}),
            (nn.Conv2d(6, 10, 3, padding="same"), "spatial-svd", {"rank": 4}),
            (nn.Conv2d(6, 10, 3, stride=2, padding=1), "tucker2", {"rank_in": 3, "rank_out": 4}),
            (nn.Conv1d(6, 10, 5), "tucker2", {"rank_in": 3, "rank_out": 4}),
            (nn.Conv2d(6, 10, 3, stride=2, padding=1), "channel-svd", {"rank": 4}),
            (nn.Conv1d(6, 10, 5, dilation=2, bias=False), "channel-svd", {"rank": 4}),
            (nn.Conv2d(6, 10, 3, stride=2, padding=1, dilation=(2, 1)), "cp", {"rank": 8}),
            (nn.Conv1d(6, 10, 5), "cp", {"rank": 8}),
        ]


LAYERS = _cases()


def _inputs(layer: nn.Module) -> Tensor:
    """Channels that hang together, behind a ReLU, of unequal loudness."""
    generator = torch.Generator().manual_seed(3)
    assert isinstance(layer.weight, Tensor)
    shape = {nn.Linear: (400, 16), nn.Conv2d: (40, layer.weight.shape[1], 12, 12), nn.Conv1d: (60, 6, 30)}[type(layer)]
    inputs = torch.randn(shape, generator=generator)  # type: ignore[arg-type]
    mixing = torch.randn(shape[1], shape[1], generator=generator) * torch.logspace(0.5, -1, shape[1])[:, None]
    return F.relu(torch.einsum("nc...,cd->nd...", inputs, mixing) + 0.5)


def _moments(layer: nn.Module, inputs: Tensor) -> Moments:
    moments = Statistics(nn.Sequential(layer), inputs).moments("0")
    assert moments is not None
    return moments


@pytest.mark.parametrize(("layer", "method", "args"), LAYERS)
def test_whitened_factors_come_nearer_to_the_output(layer: nn.Module, method: str, args: dict[str, int]) -> None:
    inputs = _inputs(layer)
    second, expected = _moments(layer, inputs).second[0], layer(inputs).detach()

    def error(covariance: Tensor | None) -> float:
        return float((outputs(factorize(layer, method, args, covariance), inputs) - expected).square().mean())

    assert error(second) < 0.9 * error(None)


@pytest.mark.parametrize(("layer", "method", "args"), [case for case in LAYERS if case[0].bias is not None])
def test_moments_of_channels_alone_help_too(layer: nn.Module, method: str, args: dict[str, int],
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "FULL_WIDTH", 0)
    inputs = _inputs(layer)
    moments, expected = _moments(layer, inputs), layer(inputs).detach()

    def error(covariance: Tensor | None) -> float:
        factors = factorize(layer, method, args, covariance, moments.mean[0])
        return float((outputs(factors, inputs) - expected).square().mean())

    assert error(moments.covariance[0]) < error(None)


@pytest.mark.parametrize("method", ["svd", "channel-svd"])
def test_no_factors_of_that_rank_come_nearer(method: str) -> None:
    """Against whitening in float64: the singular values that are cut off are the least error there is."""
    layer = nn.Conv2d(6, 10, 3, padding=1, bias=False) if method == "channel-svd" else nn.Linear(16, 24, bias=False)
    second = _moments(layer, _inputs(layer)).second[0].double()
    first, last = factorize(layer, method, {"rank": 4}, second.float())
    product = last.weight.detach().flatten(1) @ first.weight.detach().flatten(1)
    change = (product - layer.weight.detach().flatten(1)).double()
    whitened = layer.weight.detach().flatten(1).double() @ torch.linalg.cholesky(second)
    least = torch.linalg.svdvals(whitened)[4:].square().sum()
    assert float((change @ second * change).sum()) == pytest.approx(float(least), rel=0.02)


@pytest.mark.parametrize(("layer", "method", "args"), [case for case in LAYERS if case[0].bias is not None])
def test_the_bias_takes_up_the_mean(layer: nn.Module, method: str, args: dict[str, int],
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "POSITIONS", 10_000)
    inputs = _inputs(layer)
    moments, axes = _moments(layer, inputs), (0, *range(2, inputs.dim()))
    expected = layer(inputs).detach().mean(axes)

    def shift(mean: Tensor | None) -> float:
        factors = factorize(layer, method, args, moments.covariance[0], mean)
        return float((outputs(factors, inputs).mean(axes) - expected).abs().max())

    assert shift(moments.mean[0]) < 1e-3 < shift(None)


def test_many_directions_are_found_without_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Conv2d(24, 40, 3, bias=False)
    inputs = torch.randn(40, 24, 10, 10, generator=torch.Generator().manual_seed(0))
    second, expected = _moments(layer, inputs).second[0], layer(inputs).detach()

    def error() -> float:
        factors = factorize(layer, "spatial-svd", {"rank": 20}, second)
        return float((outputs(factors, inputs) - expected).square().mean())

    exact = error()
    monkeypatch.setattr(factorizing, "EXACT", 8)
    assert error() < 1.03 * exact


def test_canonical_factors_of_a_sum_of_products() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = [torch.randn(size, 3, generator=generator) for size in (8, 6, 9)]
    kernel = torch.einsum("or,ir,tr->oit", *truth)
    for rank, most in ((3, 0.02), (6, 0.01), (40, 0.001)):
        product = torch.einsum("or,ir,tr->oit", *cp_factors(kernel, rank, "conv7"))
        assert float((product - kernel).square().sum() / kernel.square().sum()) < most


def test_weights_and_moments_that_are_not_finite_are_named() -> None:
    layer = nn.Conv2d(4, 6, 3)
    for method, args in (("channel-svd", {"rank": 2}), ("spatial-svd", {"rank": 2}), ("cp", {"rank": 4}),
                         ("tucker2", {"rank_in": 2, "rank_out": 2})):
        with pytest.raises(TrialError, match="covariance of conv7 must be finite"):
            factorize(layer, method, args, torch.full((36, 36), torch.nan), what="conv7")
        silent = factorize(layer, method, args, torch.zeros(36, 36), torch.zeros(36))  # inputs that are always zero
        assert all(torch.isfinite(p).all() for p in silent.parameters())
        with torch.no_grad():
            bad = nn.Conv2d(4, 6, 3)
            bad.weight[0, 0, 0, 0] = torch.inf
        with pytest.raises(ValueError, match="not finite"):
            factorize(bad, method, args)


@pytest.mark.parametrize(("method", "args"), [("channel-svd", {"rank": 2}), ("spatial-svd", {"rank": 2}),
                                              ("tucker2", {"rank_in": 2, "rank_out": 2})])
def test_a_weight_of_zeros_has_factors_of_zero_output(method: str, args: dict[str, int]) -> None:
    layer = nn.Conv2d(4, 6, 3)
    nn.init.zeros_(layer.weight)
    inputs = torch.randn(3, 4, 6, 6)
    torch.testing.assert_close(outputs(factorize(layer, method, args), inputs), outputs(layer, inputs))


def test_cp_that_comes_to_nothing_is_named() -> None:
    with pytest.raises(TrialError, match="CP factors of conv7 must come nearer to its weight than nothing"):
        cp_factors(torch.zeros(4, 3, 9), 2, "conv7")


def test_a_network_may_ask_a_factored_layer_for_the_type_of_its_weight() -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(8, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.inner(x.to(self.inner.weight.dtype))
            return result

    network = Asks()
    network.inner = factorizing.factorize(network.inner, "svd", {"rank": 6})  # type: ignore[assignment]
    assert network(torch.zeros(2, 8, dtype=torch.float64)).dtype == torch.float32
    assert set(network.state_dict()) == {"inner.0.weight", "inner.1.weight", "inner.1.bias"}


@pytest.mark.parametrize("method", ["channel-svd", "spatial-svd", "tucker2"])
def test_factors_have_what_networks_read_of_a_layer(method: str) -> None:
    """Some compute a length from the stride of a convolution, or make a tensor of the type of its weight."""
    conv = nn.Conv2d(8, 6, 3, stride=2, padding=1)
    ranks = {"rank_in": 3, "rank_out": 2} if method == "tucker2" else {"rank": 3}
    factors = copy.deepcopy(factorize(conv, method, ranks))
    for name in ("stride", "padding", "kernel_size", "dilation", "groups", "in_channels", "out_channels"):
        assert getattr(factors, name) == getattr(conv, name)
    assert factors.bias is factors[-1].bias and factors.weight is factors[-1].weight
    assert not hasattr(factors, "out_features")
