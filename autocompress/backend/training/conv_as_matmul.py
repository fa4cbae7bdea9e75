"""Convolutions as matrix products (im2col) over small maps, for training on a CPU.

oneDNN computes the gradient of a 3 x 3 kernel between 512 channels from maps of 2 x 2 at a twentieth of the speed of
the equivalent product. Above a few positions the copies cost more than they save.

Source: Chellapilla et al., "High Performance Convolutional Neural Networks for Document Processing" (2006).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Largest number of positions of an output map at which the product was faster, by type of the input.
MOST_POSITIONS = {torch.bfloat16: 16, torch.float32: 4}
# Number of weights of a layer below which the calls that a product needs cost what it saves.
LEAST_WEIGHTS = 2 ** 14

Pair = tuple[int, int]


@contextmanager
def products_on_small_maps(model: nn.Module) -> Iterator[None]:
    """Compute the convolutions of `model` as products over small maps while the context is open.

    The values are the same but for rounding. Nothing changes on other devices than a CPU.
    """
    plain = [module for module in model.modules() if isinstance(module, nn.Conv2d) and _is_plain(module)]
    for module in plain:
        module._conv_forward = MethodType(_convolve, module)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in plain:
            del module._conv_forward


def _is_plain(module: nn.Conv2d) -> bool:
    return (module.groups == 1 and module.dilation == (1, 1) and module.padding_mode == "zeros"
            and not isinstance(module.padding, str)
            and module.in_channels * module.out_channels * math.prod(module.kernel_size) >= LEAST_WEIGHTS
            and getattr(module._conv_forward, "__func__", None) is nn.Conv2d._conv_forward)


def _convolve(self: nn.Conv2d, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    assert not isinstance(self.padding, str)
    kernel, stride, padding = _pair(self.kernel_size), _pair(self.stride), _pair(self.padding)
    high, wide = ((size + 2 * p - k) // s + 1
                  for size, p, k, s in zip(inputs.shape[-2:], padding, kernel, stride, strict=True))
    few = 0 < high * wide <= MOST_POSITIONS.get(inputs.dtype, 0)
    if inputs.dim() != 4 or inputs.device.type != "cpu" or not few:
        result: Tensor = nn.Conv2d._conv_forward(self, inputs, weight, bias)
        return result
    windows: Tensor = _Windows.apply(inputs, kernel, stride, padding)  # type: ignore[no-untyped-call]
    return F.linear(windows, weight.permute(0, 2, 3, 1).reshape(len(weight), -1), bias).permute(0, 3, 1, 2)


def _pair(of: tuple[int, ...]) -> Pair:
    first, second = of
    return first, second


class _Windows(torch.autograd.Function):
    """im2col: inputs `(N, C, H, W)` to the windows of the kernel, `(N, H', W', kernel height * width * C)`."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
        ctx.shape, ctx.geometry = inputs.shape, (kernel, stride, padding)
        padded = F.pad(inputs.permute(0, 2, 3, 1), (0, 0, padding[1], padding[1], padding[0], padding[0])).contiguous()
        samples, high, wide, channels = padded.shape
        shape = (samples, (high - kernel[0]) // stride[0] + 1, (wide - kernel[1]) // stride[1] + 1, kernel[0])
        by_sample, by_row, by_column, _ = padded.stride()
        # The values under one row of the kernel are contiguous.
        windows = padded.as_strided((*shape, kernel[1] * channels),
                                    (by_sample, by_row * stride[0], by_column * stride[1], by_row, 1))
        return windows.flatten(3)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (samples, channels, high, wide), (kernel, stride, padding) = ctx.shape, ctx.geometry
        windows = gradients[0].reshape(*gradients[0].shape[:3], *kernel, channels)
        spans = [stride[i] * (windows.shape[1 + i] - 1) + 1 for i in range(2)]
        padded = windows.new_zeros(samples, high + 2 * padding[0], wide + 2 * padding[1], channels)
        for i in range(kernel[0]):
            for j in range(kernel[1]):
                padded[:, i:i + spans[0]:stride[0], j:j + spans[1]:stride[1]] += windows[:, :, :, i, j]
        inner = padded[:, padding[0]:padding[0] + high, padding[1]:padding[1] + wide]
        return inner.permute(0, 3, 1, 2), None, None, None
