"""Symmetric weight quantisation: integer weights, their grids, and scales of least squared error."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from autocompress.backend.network.grids import codebook_levels, nearest, ordinary_unit, power_levels, whole_levels
from autocompress.techniques.quantize import LARGEST_LEVEL


@dataclass(frozen=True)
class QuantizedWeight:
    """An integer weight, `levels * scale`: int8 `levels` of the weight's shape, `scale` per output channel `(C,)`.

    Without a `table`, below 7 bits the levels are the odd integers from 1 - 2**bits to 2**bits - 1, at 7 bits the
    integers from -63 to 63, at 8 bits those from -127 to 127; else those of the table, int8 `(2**bits,)`, ascending.
    No magnitude is above `limit`, see `autocompress.techniques.quantize.level_limit`. Every grid is symmetric, so a
    sign moves freely between levels and what multiplies them. With a `group`, each run of so many weights of a row
    has an integer factor of its own on the channel's scale: `factors` uint8 `(C, runs)`.
    """

    bits: int
    levels: Tensor
    scale: Tensor
    table: Tensor | None = None
    group: int = 0
    factors: Tensor | None = None
    limit: int = LARGEST_LEVEL

    def steps(self) -> Tensor:
        """Return the step size of each weight, float32, of a shape that broadcasts to the weight's."""
        steps = per_channel(self.scale, self.levels)
        return steps if self.factors is None else steps * spread(self.factors, self.group, self.levels)

    def dequantized(self) -> Tensor:
        """Return the float weight that the integers stand for."""
        return self.levels.float() * self.steps()

    def rescaled(self, factor: Tensor) -> QuantizedWeight:
        """Return the weight times `factor` per output channel `(C,)`, exactly: integers change only in sign."""
        sign = torch.where(factor < 0, -1, 1).to(torch.int8)
        return replace(self, levels=self.levels * per_channel(sign, self.levels), scale=self.scale * factor.abs())


def per_channel(vector: Tensor, like: Tensor) -> Tensor:
    """Reshape `(C,)` to `(C, 1, …)` with as many axes as `like`."""
    return vector.reshape(-1, *[1] * (like.dim() - 1))


def spread(factors: Tensor, group: int, like: Tensor) -> Tensor:
    """Repeat factors `(C, runs)` for the `group` weights of each run, as float in the shape `(C, …)` of `like`."""
    return factors.float().repeat_interleave(group, 1)[:, :like[0].numel()].reshape(like.shape)


def largest_level(bits: int, limit: int = LARGEST_LEVEL) -> int:
    """Return the largest of the evenly spaced levels whose magnitudes are at most `limit`."""
    return min(limit, (1 << (bits - 1 if spacing(bits) == 1 else bits)) - 1)


def spacing(bits: int) -> int:
    """Return the distance of evenly spaced levels: below 7 bits they are odd, so that all 2**bits codes are used."""
    return 1 if bits >= 7 else 2


def top_level(weight: QuantizedWeight) -> int:
    """Return the largest level of a weight's grid."""
    return largest_level(weight.bits, weight.limit) if weight.table is None else int(weight.table[-1])


def level_table(weight: QuantizedWeight) -> Tensor:
    """Return all levels of a weight's grid, ascending, as float."""
    if weight.table is not None:
        return weight.table.float()
    top = largest_level(weight.bits, weight.limit)
    return torch.arange(-top, top + 1, spacing(weight.bits)).float()


def round_to_levels(ratio: Tensor, bits: int, table: Tensor | None = None, limit: int = LARGEST_LEVEL) -> Tensor:
    """Return the nearest level of each ratio of weight to step size, as float."""
    if table is not None:
        return nearest(ratio, table.to(ratio.device))
    top = largest_level(bits, limit)
    if spacing(bits) == 1:
        return ratio.round().clamp(-top, top)
    return (ratio * 0.5).floor_().mul_(2).add_(1).clamp_(-top, top)


def within_limit(stored: QuantizedWeight, weight: Tensor, mask: Tensor | None = None) -> QuantizedWeight:
    """Round a weight again on a grid without levels above the limit.

    Args:
        stored: The integer weight of an older file, whose levels may exceed its `limit`.
        weight: The float weight that it was rounded from.
        mask: Bool, of the weight's shape, False where a sparse weight is zero.
    """
    table, highest = stored.table, LARGEST_LEVEL if stored.bits >= 7 else 2**stored.bits - 1
    if table is not None:
        highest = int(table[-1])
        table = (table.float() * min(1.0, stored.limit / highest)).round().to(torch.int8)
    top = largest_level(stored.bits, stored.limit) if table is None else int(table[-1])
    if top == highest:
        return stored
    rescaled = replace(stored, scale=stored.scale * (highest / top), table=table)
    levels = round_to_levels(weight / rescaled.steps(), rescaled.bits, rescaled.table, rescaled.limit)
    return replace(rescaled, levels=(levels if mask is None else levels * mask).to(torch.int8))


def quantize_weight(weight: Tensor, bits: int, grid: str = "linear", group: int = 0,
                    importance: Tensor | None = None, mask: Tensor | None = None,
                    limit: int = LARGEST_LEVEL) -> QuantizedWeight:
    """Quantise a weight per output channel, or per group of weights, with scales of least squared error.

    Scales are found by a search over clipping points, then alternating refinement: for fixed levels the best scale is
    <w, levels> / <levels, levels>.

    Args:
        weight: The float weight `(C, …)`.
        bits: The bit-width.
        grid: `linear`, `pow2`, `whole` or `codebook`.
        group: The number of weights of a row that share a scale; 0 for whole rows.
        importance: Second moments `(groups, d, d)` of the input, which weigh the errors that a codebook is fitted to.
        mask: Bool, of the weight's shape. Where it is False the level is zero, which is not on the grid below 7 bits.
        limit: The largest magnitude of a level.

    Raises:
        ValueError: The weight has values that are not finite.
    """
    if not torch.isfinite(weight).all():
        raise ValueError("nan: weights that are not finite cannot be quantised")
    flat = weight.detach().float().flatten(1)
    columns = flat.shape[1]
    run = group or columns
    padding = -columns % run
    rows = F.pad(flat, (0, padding)).reshape(len(flat), -1, run)
    inside = flat.new_ones(1, columns) if mask is None else mask.flatten(1).float()
    counts = F.pad(inside, (0, padding)).reshape(len(inside), -1, run)
    table = None
    if grid == "pow2":
        table = power_levels(bits)
    elif grid == "whole":
        table = whole_levels(bits)
    elif grid == "codebook":
        error_weights = torch.ones_like(flat) if importance is None else _of_columns(importance, flat)
        table = codebook_levels(rows, F.pad(error_weights * inside, (0, padding)).reshape(rows.shape), bits,
                                limit)
    scale = _best_scale(rows, counts, bits, table, limit)
    if not group:
        levels = (round_to_levels(rows / scale, bits, table, limit) * counts).reshape(weight.shape).to(torch.int8)
        return QuantizedWeight(bits, levels, scale.flatten(), table, limit=limit)
    base = scale.amax(1, keepdim=True) / 255
    factors = (scale / base).round().clamp(1, 255)
    levels = (round_to_levels(rows / (base * factors), bits, table, limit) * counts).flatten(1)[:, :columns]
    return QuantizedWeight(bits, levels.reshape(weight.shape).to(torch.int8), base.flatten(), table, group,
                           factors.squeeze(2).to(torch.uint8), limit)


def _of_columns(second: Tensor, rows: Tensor) -> Tensor:
    """Return what a squared error of each of the weights `(C, n)` counts for, from second moments `(groups, d, d)`."""
    diagonal = second.diagonal(dim1=1, dim2=2)  # (groups, d)
    taps = rows.shape[1] // diagonal.shape[1]
    return diagonal.repeat_interleave(taps, 1).repeat_interleave(len(rows) // len(diagonal), 0).clamp_min(0.0)


def _best_scale(rows: Tensor, counts: Tensor, bits: int, table: Tensor | None, limit: int) -> Tensor:
    """Return the scales `(C, runs, 1)` of least squared error for rows `(C, runs, n)`.

    `counts` `(C or 1, runs, n)` is 0 where there is no weight.
    """
    unit = ordinary_unit(rows, by_row=True)
    if bool((unit != 1).any()):
        return _best_scale(rows / unit, counts, bits, table, limit) * unit
    top = largest_level(bits, limit) if table is None else int(table[-1])
    absmax = rows.abs().amax(2, keepdim=True).clamp_min(1e-12)
    everywhere = bool(counts.all())

    def fitted(scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best scale for the levels that `scale` rounds to, and the squared norm that they then explain."""
        levels = round_to_levels(rows * (1 / scale), bits, table, limit)
        if not everywhere:
            levels *= counts
        along, power = (rows * levels).sum(2, keepdim=True), levels.square_().sum(2, keepdim=True).clamp_min_(1.0)
        best = along / power
        return torch.where(best > 0, best, scale), along.square() / power

    best_scale, best_gain = absmax / top, torch.full_like(absmax, -torch.inf)
    for share in _CLIPS[bits]:
        scale, gain = fitted(absmax * (share / top))
        better = gain > best_gain
        best_scale, best_gain = torch.where(better, scale, best_scale), torch.where(better, gain, best_gain)
    for _ in range(2):
        best_scale, _ = fitted(best_scale)
    return best_scale


# Clipping points tried, as shares of the largest magnitude: the fewer the bits, the deeper it pays to clip.
_CLIPS: dict[int, tuple[float, ...]] = {
    bits: tuple(torch.linspace(low, 1.0, 12).tolist())
    for bits, low in {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4, 5: 0.5, 6: 0.6, 7: 0.65, 8: 0.7}.items()
}
