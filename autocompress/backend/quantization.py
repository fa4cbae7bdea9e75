"""Integer weights: choosing scales, the grid itself, and moving a factor through it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class QuantizedWeight:
    """`levels * scale` is the weight: int8 `levels` of the weight's shape, `scale` per output channel `(C,)`.

    Below 8 bits the levels are the odd integers from 1 - 2**bits to 2**bits - 1, at 8 bits the integers from
    -127 to 127: both grids are symmetric, so a sign moves freely between levels and what multiplies them.
    """

    bits: int
    levels: Tensor
    scale: Tensor

    def dequantized(self) -> Tensor:
        """The float weight that these integers stand for."""
        return self.levels.float() * per_channel(self.scale, self.levels)

    def rescaled(self, factor: Tensor) -> QuantizedWeight:
        """The weight times `factor` per output channel `(C,)`, exactly: integers change by sign only."""
        sign = torch.where(factor < 0, -1, 1).to(torch.int8)
        return QuantizedWeight(self.bits, self.levels * per_channel(sign, self.levels), self.scale * factor.abs())


def per_channel(vector: Tensor, like: Tensor) -> Tensor:
    """`(C,)` → `(C, 1, …)` with as many axes as `like`."""
    return vector.reshape(-1, *[1] * (like.dim() - 1))


def largest_level(bits: int) -> int:
    """The greatest level."""
    return 127 if bits == 8 else 2**bits - 1


def round_to_levels(ratio: Tensor, bits: int) -> Tensor:
    """Nearest level of each `weight / scale`, as float."""
    top = largest_level(bits)
    if bits == 8:
        return ratio.round().clamp(-top, top)
    return (ratio * 0.5).floor_().mul_(2).add_(1).clamp_(-top, top)


def quantize_weight(weight: Tensor, bits: int) -> QuantizedWeight:
    """Quantise `(C, …)` per output channel with scales of least squared error.

    A grid over clipping points, then alternating refinement: for fixed levels the best scale is
    <w, levels> / <levels, levels>. ValueError for values that are not finite.
    """
    if not torch.isfinite(weight).all():
        raise ValueError("nan: weights that are not finite cannot be quantised")
    rows = weight.detach().float().flatten(1)
    top = largest_level(bits)
    absmax = rows.abs().amax(1, keepdim=True).clamp_min(1e-12)
    best_scale = absmax / top
    best_error = torch.full_like(absmax, torch.inf)
    for share in _CLIPS[bits]:
        scale = absmax * share / top
        error = (round_to_levels(rows / scale, bits) * scale - rows).square().sum(1, keepdim=True)
        better = error < best_error
        best_scale, best_error = torch.where(better, scale, best_scale), torch.where(better, error, best_error)
    for _ in range(3):
        levels = round_to_levels(rows / best_scale, bits)
        fitted = (rows * levels).sum(1, keepdim=True) / levels.square().sum(1, keepdim=True).clamp_min(1.0)
        best_scale = torch.where(fitted > 0, fitted, best_scale)
    levels = round_to_levels(rows / best_scale, bits).to(torch.int8)
    return QuantizedWeight(bits, levels.reshape(weight.shape), best_scale.squeeze(1))


_CLIPS: dict[int, tuple[float, ...]] = {
    bits: tuple(torch.linspace(low, 1.0, 12).tolist())
    for bits, low in {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4, 5: 0.5, 6: 0.6, 7: 0.65, 8: 0.7}.items()
}
"""Clipping points tried, as shares of the largest magnitude: the fewer the bits, the deeper it pays to clip."""
