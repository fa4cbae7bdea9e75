"""Layers of one's own in their plain form: what computes the same can be compressed, what does not stays whole."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autocompress.backend.canonical.plain_layers import PaddedConv, with_plain_layers
from autocompress.backend.graph.trace import trace
from autocompress.testing.techniques import outputs


class Kernel(nn.Module):
    """A kernel as a bare parameter, with an attribute `bias` that is not used."""

    bias = None

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, H, W)` → `(N, 4, H, W)`."""
        return F.conv2d(x, self.weight, padding=1)


class Standardised(nn.Conv2d):
    """Computes its kernel from its weight."""

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, H, W)` → `(N, 4, H', W')`."""
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class ByItself(nn.Conv2d):
    """Pads as TensorFlow does, by the size of the input."""

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, H, W)` → `(N, 4, H/2, W/2)`."""
        pads = [max((-(-size // 2) - 1) * 2 + 3 - size, 0) for size in (x.shape[-1], x.shape[-2])]
        return F.conv2d(F.pad(x, [side for p in pads for side in (p // 2, p - p // 2)]), self.weight, self.bias, 2)


class Product(nn.Module):
    """A matrix as graph networks hold it, and a vector added."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix, self.offset = nn.Parameter(torch.randn(8, 4)), nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        """`(N, …, 8)` → `(N, …, 4)`."""
        return x @ self.matrix + self.offset


class Dynamic(Kernel):
    """Its kernel follows from what it reads."""

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, H, W)` → `(N, 4, H, W)`."""
        return F.conv2d(x, self.weight * x.mean(), padding=1)


CASES: dict[str, tuple[nn.Module, tuple[int, ...] | str]] = {
    "bare kernel": (Kernel(), (1, 1)), "computed kernel": (Standardised(3, 4, 3, 2, 1), (1, 1)),
    "same": (nn.Conv2d(3, 4, (5, 3), padding="same", dilation=(1, 2)), (2, 2)),
    "valid": (nn.Conv2d(3, 4, 3, padding="valid"), (0, 0)),
    "even same": (nn.Conv2d(3, 4, 4, padding="same"), "constant"), "by itself": (ByItself(3, 4, 3), "constant"),
    **{mode: (nn.Conv2d(3, 4, 3, padding=(1, 2), padding_mode=mode, groups=1), mode)
       for mode in ("reflect", "replicate", "circular")},
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("case", CASES)
def test_it_computes_the_same_and_can_be_compressed(case: str) -> None:
    layer, padding = CASES[case]
    model, inputs = nn.Sequential(layer, nn.ReLU(), nn.Flatten(), nn.LazyLinear(5)), torch.randn(3, 3, 8, 8)
    model(inputs)
    plain = with_plain_layers(model.eval(), inputs)
    torch.testing.assert_close(outputs(plain, inputs), outputs(model, inputs), rtol=1e-4, atol=1e-5)
    conv = plain[0].conv if isinstance(plain[0], PaddedConv) else plain[0]  # type: ignore[index]
    assert type(conv) is nn.Conv2d and model[0] is layer
    assert (plain[0].mode if isinstance(plain[0], PaddedConv) else conv.padding) == padding  # type: ignore[index]
    table, _ = trace(plain, (3, 8, 8), inputs=inputs)
    assert not [layer.not_compressible_reason for layer in table.layers if layer.not_compressible_reason]


class Sum(nn.Module):
    """A bias and a product in one call, of rows, with inputs first in the weight: the Conv1D of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(8, 4)), nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        """`(N, L, 8)` → `(N, L, 4)`."""
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], 4)


@pytest.mark.parametrize("layer", [Product, Sum])
def test_a_product_with_a_parameter_is_a_linear_layer(layer: type[nn.Module]) -> None:
    model, inputs = nn.Sequential(layer(), nn.ReLU(), nn.Linear(4, 5)).eval(), torch.randn(3, 6, 8)
    plain = with_plain_layers(model, inputs)
    assert isinstance(plain.get_submodule("0"), nn.Linear)
    torch.testing.assert_close(outputs(plain, inputs), outputs(model, inputs), rtol=1e-4, atol=1e-5)


def test_a_kernel_that_follows_from_the_input_stays_whole_and_is_named() -> None:
    model = nn.Sequential(Dynamic(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
    inputs = torch.randn(3, 3, 8, 8)
    assert with_plain_layers(model, inputs) is model
    table, _ = trace(model, (3, 8, 8), inputs=inputs)
    assert table.by_name["0"].not_compressible_reason == "no technique for Dynamic" and table.by_name["0"].params == 108


def test_a_bare_kernel_of_the_network_itself_is_counted_and_named() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mid_weight, self.head = nn.Parameter(torch.randn(4, 3, 3, 3)), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.head(F.conv2d(x, self.mid_weight).mean((2, 3)))
            return scores

    table, _ = trace(Bare().eval(), (3, 8, 8))
    bare = next(layer for layer in table.layers if layer.kind == "other")
    assert bare.params == 108 and bare.not_compressible_reason
    assert table.by_name["head"].compressible


def test_a_synchronised_norm_is_an_ordinary_one() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SyncBatchNorm(4), nn.Flatten(), nn.Linear(144, 5)).eval()
    inputs = torch.randn(3, 3, 8, 8)
    table, _ = trace(with_plain_layers(model, inputs), (3, 8, 8), inputs=inputs)
    assert table.by_name["1"].folds_into == "0"
