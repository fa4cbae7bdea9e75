"""Rounding that makes up for what was rounded.

Source: Frantar et al., "GPTQ" (ICLR 2023), after Hassibi & Stork's optimal brain surgeon, in the form of Babai's
nearest plane (Chen et al., "The Geometry of LLM Quantization", 2025): with covariance = RᵀR the columns are rounded
from the last to the first, so one Cholesky factor serves and nothing is inverted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from autocompress.backend.network.quantized_weight import (
    QuantizedWeight,
    per_channel,
    round_to_levels,
    spacing,
    spread,
    top_level,
)
from autocompress.backend.statistics.reconstruct import cholesky, damped

BLOCK, STRIP = 128, 16
"""Columns rounded before what they owe to the next ones is made up for in one product: among those of a strip one by
one, among the strips of a block strip by strip."""


@dataclass(frozen=True)
class Factor:
    """Of the second moments of a layer's input; whatever the width, the same.

    `order` (groups, d): columns by loudness, the loudest last. `pull` (groups, d, d): in that order, what the error of
    a column (last axis) adds to the wish of another one; zero on the diagonal and below.
    """

    order: Tensor
    pull: Tensor


def factored(second: Tensor, what: str = "a layer") -> Factor:
    """Of moments `(groups, d, d)`. TrialError when they are not finite or not definite."""
    hessian = damped(second)
    order = hessian.diagonal(dim1=1, dim2=2).argsort(dim=1)
    flat = _flat(order, order.shape[1])
    for _ in range(2):  # rows, then columns: the matrix is symmetric
        hessian = hessian.flatten(0, 1).index_select(0, flat).reshape(second.shape).transpose(1, 2)
    factor = cholesky(hessian, what).transpose(1, 2).contiguous()
    factor /= factor.diagonal(dim1=1, dim2=2)[:, :, None].clone()
    factor.diagonal(dim1=1, dim2=2).zero_()
    return Factor(order, factor)


def _flat(order: Tensor, d: int) -> Tensor:
    """Columns `(groups, n)` as indices into `groups * d` rows."""
    return (order + d * torch.arange(len(order))[:, None]).flatten()


def as_columns(weight: Tensor, groups: int, d: int) -> Tensor:
    """A weight `(C, in / groups, …)` as `(groups, d, rows)`: a row for each output, and for each tap of the kernel
    where `d` counts channels alone."""
    return weight.reshape(groups, len(weight) // groups, d, -1).transpose(1, 2).reshape(groups, d, -1).contiguous()


def from_columns(columns: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `as_columns`: a weight of `shape` `(C, in / groups, …)`."""
    groups, d = columns.shape[:2]
    return columns.reshape(groups, d, shape[0] // groups, -1).transpose(1, 2).reshape(shape).contiguous()


def round_gptq(weight: Tensor, start: QuantizedWeight, second: Tensor, what: str = "a layer",
                        kept: Tensor | None = None, factor: Factor | None = None) -> QuantizedWeight:
    """`weight` `(C, …)` on the grid of `start` (its scales; its levels are not read), each column's rounding error
    made up for by the columns after it.

    `second` moments `(groups, d, d)` of the input, in columns or (wide convolutions) in channels; `factor` is theirs
    where it is known already. Loudest columns first; scales are refitted at the end. Where `kept` (bool, of the
    weight's shape) is False the level is zero.
    """
    shared = factored(second, what) if factor is None else factor
    columns = as_columns(weight, *shared.order.shape)
    inside = None if kept is None else as_columns(kept, *shared.order.shape)
    steps = start.scale.repeat_interleave(columns.shape[2] * len(columns) // len(weight)).reshape(len(columns), 1, -1)
    if start.table is None and start.factors is None:
        levels = _evenly(columns, steps, shared, start, inside)
    else:
        factors = None if start.factors is None else \
            as_columns(spread(start.factors, start.group, weight), *shared.order.shape)
        levels = _on_grid(columns / steps, shared, start, factors, inside)
    return refitted(weight, replace(start, levels=from_columns(levels, tuple(weight.shape))), second)


def _evenly(columns: Tensor, steps: Tensor, factor: Factor, grid: QuantizedWeight, inside: Tensor | None) -> Tensor:
    """On evenly spaced levels, counted for that so that they are consecutive integers."""
    top, apart = top_level(grid), spacing(grid.bits)
    low, high, none = (level / apart - 0.5 * (apart - 1) for level in (-top, top, 0))

    def nearest(wish: Tensor, *inside: Tensor) -> Tensor:
        wish.round_().clamp_(low, high)
        return torch.where(inside[0], wish, none) if inside else wish

    counts = _nearest_plane((columns / (apart * steps)).sub_(0.5 * (apart - 1)), factor, nearest,
                            () if inside is None else (inside,))
    return counts.mul_(apart).add_(apart - 1).round_().to(torch.int8)


def _on_grid(columns: Tensor, factor: Factor, grid: QuantizedWeight, factors: Tensor | None,
             inside: Tensor | None) -> Tensor:
    """On any grid."""
    each = factors if inside is None else inside.float() if factors is None else factors * inside

    def nearest(wish: Tensor, *each: Tensor) -> Tensor:
        if not each:
            return round_to_levels(wish, grid.bits, grid.table, grid.limit)
        return round_to_levels(wish / each[0].clamp_min(1e-12), grid.bits, grid.table, grid.limit) * each[0]

    values = _nearest_plane(columns, factor, nearest, () if each is None else (each,))
    return (values if factors is None else values / factors).round_().to(torch.int8)


def _nearest_plane(columns: Tensor, factor: Factor, nearest: Callable[..., Tensor], each: Sequence[Tensor]) -> Tensor:
    """`columns` `(groups, d, rows)` on a grid, in place: `nearest` puts some `(groups, 1, rows)` on it, given those of
    `each`, of the shape of `columns`.

    What a strip needs is copied to one place: views of single columns are made once, and fit the cache.
    """
    groups, d, rows = columns.shape
    errors = torch.empty_like(columns)  # in the factor's order
    wishes, aims, owed = (columns.new_zeros(groups, STRIP, rows) for _ in range(3))
    near = columns.new_zeros(groups, STRIP, STRIP)
    wish, aim, owe, row = (torch.split(whole, 1, 1) for whole in (wishes, aims, owed, near))
    for begin in range((d - 1) // BLOCK * BLOCK, -1, -BLOCK):
        end = min(begin + BLOCK, d)
        flat = _flat(factor.order[:, begin:end], d)
        target, *others = (whole.flatten(0, 1).index_select(0, flat).reshape(groups, -1, rows)
                           for whole in (columns, *each))
        block = torch.baddbmm(target, factor.pull[:, begin:end, end:], errors[:, end:])
        for low in range((end - begin - 1) // STRIP * STRIP, -1, -STRIP):
            high = min(low + STRIP, end - begin)
            here, after = slice(begin + low, begin + high), slice(begin + high, end)
            used = slice(STRIP - high + low, STRIP)
            wishes[:, used] = torch.baddbmm(block[:, low:high], factor.pull[:, here, after], errors[:, after])
            aims[:, used], near[:, used, used] = target[:, low:high], factor.pull[:, here, here]
            own = [torch.split(other[:, low:high], 1, 1) for other in others]
            for i in range(STRIP - 1, used.start - 1, -1):
                value = nearest(wish[i].baddbmm_(row[i], owed), *(of[i - used.start] for of in own))
                torch.sub(aim[i], value, out=owe[i])
            errors[:, here] = owed[:, used]
        columns.flatten(0, 1).index_copy_(0, flat, target.sub_(errors[:, begin:end]).flatten(0, 1))
    return columns


def refitted(weight: Tensor, rounded: QuantizedWeight, second: Tensor) -> QuantizedWeight:
    """With the scales that bring the outputs of `rounded` nearest to those of `weight`, its levels being what they are.

    Of the taps of a kernel two or three speak for all: they change from one output to the next.
    """
    groups, d = second.shape[:2]
    taps = weight[0].numel() // d
    unit = rounded.levels if rounded.factors is None else \
        rounded.levels * spread(rounded.factors, rounded.group, rounded.levels)
    chosen = torch.arange(0, len(weight) // groups * taps, max(1, (taps - 1) // 2))
    size = 2.0 ** rounded.scale.clamp_min(1e-37).log2().round()  # rounds nothing, and keeps products in range
    target, values = (as_columns(matrix, groups, d).index_select(2, chosen).float()
                      for matrix in (weight / per_channel(size, weight), unit))
    seen = torch.bmm(damped(second), values)
    channel = (chosen // taps + len(weight) // groups * torch.arange(groups)[:, None]).flatten()
    along, power = (torch.zeros(len(weight)).index_add_(0, channel, (seen * other).sum(1).flatten())
                    for other in (target, values))
    fitted = along / power.clamp_min(1e-12) * size
    usable = (fitted > 0.5 * rounded.scale) & fitted.isfinite()
    return replace(rounded, scale=torch.where(usable, fitted, rounded.scale))
