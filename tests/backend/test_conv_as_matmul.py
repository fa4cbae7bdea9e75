"""Convolutions as products: the same values and gradients, only where they are meant, and gone afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autocompress.backend.training.conv_as_matmul import products_on_small_maps


def _passes(module: nn.Module, inputs: Tensor, products: bool) -> tuple[list[str], list[Tensor]]:
    """Steps of the graph that was differentiated, and outputs, gradients of inputs and of parameters."""
    inputs = inputs.clone().requires_grad_()
    if products:
        with products_on_small_maps(module):
            result = module(inputs)
    else:
        result = module(inputs)
    steps, seen = [result.grad_fn], []
    while steps:
        step = steps.pop()
        if step is not None:
            seen.append(type(step).__name__)
            steps += [before for before, _ in step.next_functions]
    weights = torch.linspace(-1, 1, result.numel()).view(result.shape)
    return seen, [result, *torch.autograd.grad((result * weights).sum(), [inputs, *module.parameters()])]


@pytest.mark.parametrize(("size", "kernel", "stride", "padding", "bias"), [
    ((2, 2), 3, 1, 1, False), ((4, 4), 3, 2, 1, True), ((5, 3), (3, 1), (2, 1), (1, 0), True), ((1, 1), 1, 1, 0, False),
    ((3, 3), 2, 1, 0, False), ((4, 3), 1, 2, 0, True), ((2, 2), (1, 3), 1, (0, 1), False), ((2, 2), 5, 3, 2, True),
])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_same_values_and_gradients(size: tuple[int, int], kernel: int, stride: int, padding: int, bias: bool,
                                       layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    module = nn.Conv2d(160, 112, kernel, stride, padding, bias=bias).to(memory_format=layout)  # type: ignore[call-overload]
    inputs = torch.randn(6, 160, *size).contiguous(memory_format=layout)
    with torch.no_grad():
        positions = module(inputs)[0, 0].numel()
    (_, plain), (steps, products) = _passes(module, inputs, False), _passes(module, inputs, True)
    assert ("_WindowsBackward" in steps) == (positions <= 4)
    for expected, got in zip(plain, products, strict=True):
        assert expected.shape == got.shape
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_in_bfloat16_larger_maps_too() -> None:
    torch.manual_seed(0)
    module, inputs = nn.Conv2d(128, 96, 3, padding=1).bfloat16(), torch.randn(8, 128, 4, 4).bfloat16()
    (_, plain), (steps, products) = _passes(module, inputs, False), _passes(module, inputs, True)
    assert "_WindowsBackward" in steps
    for expected, got in zip(plain, products, strict=True):
        assert float((got - expected).detach().norm() / expected.detach().norm()) < 0.01


@pytest.mark.parametrize("module", [
    nn.Conv2d(128, 128, 3, padding=1, groups=2), nn.Conv2d(128, 128, 3, padding=2, dilation=2),
    nn.Conv2d(128, 128, 3, padding="same"), nn.Conv2d(128, 128, 3, padding=1, padding_mode="reflect"),
    nn.Conv2d(128, 16, 1),  # too few weights to be worth it
])
def test_others_stay_as_they_are(module: nn.Conv2d) -> None:
    inputs = torch.randn(4, 128, 2, 2)
    (_, plain), (steps, within) = _passes(module, inputs, False), _passes(module, inputs, True)
    assert "_WindowsBackward" not in steps
    assert all(torch.equal(expected, got) for expected, got in zip(plain, within, strict=True))


def test_nothing_is_left_behind_even_by_an_error() -> None:
    module = nn.Sequential(nn.Conv2d(128, 128, 3, padding=1))
    before = dict(vars(module[0]))
    with pytest.raises(RuntimeError), products_on_small_maps(module):
        module(torch.randn(4, 64, 2, 2))
    assert vars(module[0]) == before
    assert "_WindowsBackward" not in _passes(module, torch.randn(4, 128, 2, 2), False)[0]
