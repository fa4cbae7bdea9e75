"""GPTQ: weights rounded column by column, each error made up for by the columns that follow.

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

# Columns of a block and of a strip within it (lazy batch updates). Errors are passed on column by column inside a
# strip, in one product for each strip inside a block, and in one product for each block.
BLOCK, STRIP = 128, 16


@dataclass(frozen=True)
class Factor:
    """The Cholesky factor of the second moments of a layer's input, which serves every width of its weights.

    Attributes:
        order: The columns by their second moment, ascending, `(groups, d)` (GPTQ's act-order, from the end).
        pull: In that order, what the rounding error of a column (last axis) adds to the target of another column,
            `(groups, d, d)`; zero on the diagonal and below.
    """

    order: Tensor
    pull: Tensor


def factored(second: Tensor, what: str = "a layer") -> Factor:
    """Factor second moments `(groups, d, d)`; `what` names the layer in an error.

    Raises:
        TrialError: The moments are not finite or not definite.
    """
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
    """Return columns `(groups, n)` as indices `(groups * n,)` into `groups * d` rows."""
    return (order + d * torch.arange(len(order))[:, None]).flatten()


def as_columns(weight: Tensor, groups: int, d: int) -> Tensor:
    """Reshape a weight `(C, in / groups, …)` to `(groups, d, rows)`.

    A row is one output, or one output at one tap of the kernel where `d` counts channels alone.
    """
    return weight.reshape(groups, len(weight) // groups, d, -1).transpose(1, 2).reshape(groups, d, -1).contiguous()


def from_columns(columns: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Invert `as_columns`: return a weight of `shape` `(C, in / groups, …)`."""
    groups, d = columns.shape[:2]
    return columns.reshape(groups, d, shape[0] // groups, -1).transpose(1, 2).reshape(shape).contiguous()


def round_gptq(weight: Tensor, start: QuantizedWeight, second: Tensor, what: str = "a layer",
                        mask: Tensor | None = None, factor: Factor | None = None) -> QuantizedWeight:
    """Round a weight by GPTQ, the columns of the largest input first, and refit its scales at the end.

    Args:
        weight: The weight `(C, …)`.
        start: A quantised weight whose grid and scales are taken; its levels are not read.
        second: Second moments `(groups, d, d)` of the input, in columns or (wide convolutions) in channels.
        what: The layer, for an error.
        mask: A mask (bool, of the weight's shape); where it is False the level is zero.
        factor: The factor of `second`, where it has been computed already.

    Raises:
        TrialError: The moments are not finite or not definite.
    """
    shared = factored(second, what) if factor is None else factor
    columns = as_columns(weight, *shared.order.shape)
    inside = None if mask is None else as_columns(mask, *shared.order.shape)
    steps = start.scale.repeat_interleave(columns.shape[2] * len(columns) // len(weight)).reshape(len(columns), 1, -1)
    if start.table is None and start.factors is None:
        levels = _evenly(columns, steps, shared, start, inside)
    else:
        factors = None if start.factors is None else \
            as_columns(spread(start.factors, start.group, weight), *shared.order.shape)
        levels = _on_grid(columns / steps, shared, start, factors, inside)
    return refitted(weight, replace(start, levels=from_columns(levels, tuple(weight.shape))), second)


def _evenly(columns: Tensor, steps: Tensor, factor: Factor, grid: QuantizedWeight, inside: Tensor | None) -> Tensor:
    """Round to evenly spaced levels, which are numbered by consecutive integers for it."""
    top, apart = top_level(grid), spacing(grid.bits)
    low, high, none = (level / apart - 0.5 * (apart - 1) for level in (-top, top, 0))

    def nearest(target: Tensor, *inside: Tensor) -> Tensor:
        target.round_().clamp_(low, high)
        return torch.where(inside[0], target, none) if inside else target

    counts = _nearest_plane((columns / (apart * steps)).sub_(0.5 * (apart - 1)), factor, nearest,
                            () if inside is None else (inside,))
    return counts.mul_(apart).add_(apart - 1).round_().to(torch.int8)


def _on_grid(columns: Tensor, factor: Factor, grid: QuantizedWeight, factors: Tensor | None,
             inside: Tensor | None) -> Tensor:
    """Round to the levels of any grid; `factors` are those of runs of weights, of the shape of `columns`."""
    each = factors if inside is None else inside.float() if factors is None else factors * inside

    def nearest(target: Tensor, *each: Tensor) -> Tensor:
        if not each:
            return round_to_levels(target, grid.bits, grid.table, grid.limit)
        return round_to_levels(target / each[0].clamp_min(1e-12), grid.bits, grid.table, grid.limit) * each[0]

    values = _nearest_plane(columns, factor, nearest, () if each is None else (each,))
    return (values if factors is None else values / factors).round_().to(torch.int8)


def _nearest_plane(columns: Tensor, factor: Factor, nearest: Callable[..., Tensor], each: Sequence[Tensor]) -> Tensor:
    """Round `columns` `(groups, d, rows)` in place by Babai's nearest plane, the last column of the order first.

    Args:
        columns: The columns of the weight, in units of the grid.
        factor: The factor of the input's moments.
        nearest: Rounds targets `(groups, 1, rows)`, given the same columns of every tensor of `each`.
        each: Further operands of the rounding, of the shape of `columns`.
    """
    # What a strip needs is copied to one place: the views of single columns are made once, and fit the cache.
    groups, d, rows = columns.shape
    errors = torch.empty_like(columns)  # in the factor's order
    targets, originals, strip_errors = (columns.new_zeros(groups, STRIP, rows) for _ in range(3))
    pulls = columns.new_zeros(groups, STRIP, STRIP)
    target, original, error, pull = (torch.split(whole, 1, 1) for whole in (targets, originals, strip_errors, pulls))
    for begin in range((d - 1) // BLOCK * BLOCK, -1, -BLOCK):
        end = min(begin + BLOCK, d)
        flat = _flat(factor.order[:, begin:end], d)
        block_columns, *others = (whole.flatten(0, 1).index_select(0, flat).reshape(groups, -1, rows)
                                  for whole in (columns, *each))
        block = torch.baddbmm(block_columns, factor.pull[:, begin:end, end:], errors[:, end:])
        for low in range((end - begin - 1) // STRIP * STRIP, -1, -STRIP):
            high = min(low + STRIP, end - begin)
            here, after = slice(begin + low, begin + high), slice(begin + high, end)
            used = slice(STRIP - high + low, STRIP)
            targets[:, used] = torch.baddbmm(block[:, low:high], factor.pull[:, here, after], errors[:, after])
            originals[:, used], pulls[:, used, used] = block_columns[:, low:high], factor.pull[:, here, here]
            operands = [torch.split(other[:, low:high], 1, 1) for other in others]
            for i in range(STRIP - 1, used.start - 1, -1):
                corrected = target[i].baddbmm_(pull[i], strip_errors)
                value = nearest(corrected, *(operand[i - used.start] for operand in operands))
                torch.sub(original[i], value, out=error[i])
            errors[:, here] = strip_errors[:, used]
        columns.flatten(0, 1).index_copy_(0, flat, block_columns.sub_(errors[:, begin:end]).flatten(0, 1))
    return columns


def refitted(weight: Tensor, rounded: QuantizedWeight, second: Tensor) -> QuantizedWeight:
    """Refit the scales by least squares on the layer's outputs; the levels stay.

    Two or three taps of a kernel stand for all of them, other ones from one output to the next.

    Args:
        weight: The weight `(C, …)` before it was rounded.
        rounded: The rounded weight.
        second: Second moments `(groups, d, d)` of the input.
    """
    groups, d = second.shape[:2]
    taps = weight[0].numel() // d
    unit = rounded.levels if rounded.factors is None else \
        rounded.levels * spread(rounded.factors, rounded.group, rounded.levels)
    sample = torch.arange(0, len(weight) // groups * taps, max(1, (taps - 1) // 2))
    size = 2.0 ** rounded.scale.clamp_min(1e-37).log2().round()  # exact in floating point, and keeps products in range
    target, values = (as_columns(matrix, groups, d).index_select(2, sample).float()
                      for matrix in (weight / per_channel(size, weight), unit))
    weighted = torch.bmm(damped(second), values)
    channel = (sample // taps + len(weight) // groups * torch.arange(groups)[:, None]).flatten()
    along, power = (torch.zeros(len(weight)).index_add_(0, channel, (weighted * other).sum(1).flatten())
                    for other in (target, values))
    fitted = along / power.clamp_min(1e-12) * size
    usable = (fitted > 0.5 * rounded.scale) & fitted.isfinite()
    return replace(rounded, scale=torch.where(usable, fitted, rounded.scale))
