"""Least squares on calibration moments: weights that make up for what was removed, and rounding that makes up for
what was rounded.

Sources: He et al., "Channel Pruning for Accelerating Very Deep Neural Networks" (ICCV 2017), for the regression of
a layer on its remaining inputs; Frantar et al., "GPTQ" (ICLR 2023), after Hassibi & Stork's optimal brain surgeon,
for rounding column by column; all in closed form from one covariance.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from autocompress.backend.quantization import QuantizedWeight, round_to_levels, spread
from autocompress.errors import TrialError

DAMPING = 0.01
"""Added to the diagonal, as a share of its mean: directions that calibration hardly excites must not blow up."""
BLOCK = 32
"""Columns rounded one by one before what they owe to the next ones is made up for in one product."""


def damped(covariance: Tensor, damping: float = DAMPING) -> Tensor:
    """`(…, d, d)` made safely invertible. A column that is always constant gets the mean of the others."""
    diagonal = covariance.diagonal(dim1=-2, dim2=-1)
    result = covariance.clone()
    result.diagonal(dim1=-2, dim2=-1).add_((damping * diagonal.mean(-1, keepdim=True)).clamp_min(1e-8))
    return result


def cholesky(matrix: Tensor, what: str) -> Tensor:
    """Lower factor of `(…, d, d)`. TrialError when the statistics behind it are not finite or not definite."""
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(matrix)
    if info.any() or not torch.isfinite(factor).all():
        raise unusable(what)
    return factor


def unusable(what: str) -> TrialError:
    """Moments that nothing can be computed from."""
    return TrialError(f"the input covariance of {what} must be finite and positive, but is not: look for NaN or "
                      "infinite values in the network or in the calibration data")


def by_taps(weight: Tensor, d: int) -> Tensor:
    """A weight `(out, in, …)` as a matrix of `d` columns: all of `in * taps`, or one row for each output and tap."""
    rows = weight.flatten(1)
    if rows.shape[1] != d:
        rows = weight.flatten(2).movedim(1, -1).reshape(-1, d)
    return rows


def from_taps(rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `by_taps`: a weight of `shape` `(out, in, …)`."""
    if len(rows) == shape[0]:
        return rows.reshape(shape)
    return rows.reshape(shape[0], -1, shape[1]).movedim(1, -1).reshape(shape)


def on_remaining(weight: Tensor, covariance: Tensor, kept: Tensor, what: str = "a layer") -> Tensor:
    """The matrix `(out, M)` on the columns `kept` (M,) whose outputs come nearest to those of `weight` (out, d)."""
    seen = damped(covariance)[:, kept]
    factor = cholesky(seen[kept], what)
    target = weight @ seen
    return torch.cholesky_solve(target.T, factor).T


def removal_damage(weight: Tensor, covariance: Tensor, area: int, what: str = "a layer") -> Tensor:
    """Output variance lost for good when one input channel goes and the others make up for it: `(channels,)`.

    For the columns c of a channel, tr(W_c ((H⁻¹)_cc)⁻¹ W_cᵀ): optimal brain surgeon, by blocks of `area` columns.
    """
    inverse = torch.cholesky_inverse(cholesky(damped(covariance), what))
    channels = weight.shape[1] // area
    blocks = inverse.reshape(channels, area, channels, area)
    own = blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1)  # (channels, area, area)
    columns = weight.reshape(len(weight), channels, area).permute(1, 2, 0)  # (channels, area, out)
    damage: Tensor = (columns * torch.linalg.solve(own, columns)).sum((1, 2))
    return damage


def round_with_feedback(weight: Tensor, start: QuantizedWeight, covariance: Tensor,
                        what: str = "a layer", kept: Tensor | None = None) -> QuantizedWeight:
    """`weight` `(C, …)` on the grid of `start` (its scales; its levels are not read), each column's rounding error
    made up for by the columns after it.

    `covariance` `(groups, d, d)` of the input, in columns or (wide convolutions) in channels. Loudest columns first;
    scales are refitted at the end. Where `kept` (bool, of the weight's shape) is False the level is zero. In the form
    of Babai's nearest plane (Chen et al., "The Geometry of LLM Quantization", 2025): with covariance = RᵀR the columns
    are rounded from the last to the first, so one Cholesky factor serves and nothing is inverted. In units of the
    scale, columns as rows in memory.
    """
    groups, d = covariance.shape[:2]
    taps = weight[0].numel() // d
    hessian = damped(covariance)
    group, order = torch.arange(groups)[:, None], hessian.diagonal(dim1=1, dim2=2).argsort(dim=1)  # loudest last
    hessian = hessian[group[:, :, None], order[:, :, None], order[:, None]]
    factor = cholesky(hessian, what)
    pull = (factor / factor.diagonal(dim1=1, dim2=2)[:, None]).transpose(1, 2).contiguous()  # unit upper triangle

    def ordered(matrix: Tensor) -> Tensor:
        """`(groups, d, rows)`."""
        return by_taps(matrix, d).reshape(groups, -1, d).transpose(1, 2)[group, order]

    target = ordered(weight) / start.scale.repeat_interleave(taps).reshape(groups, 1, -1)
    factors = None if start.factors is None else ordered(spread(start.factors, start.group, weight))
    inside = None if kept is None else ordered(kept.float())
    values, errors = torch.empty_like(target), torch.empty_like(target)
    for begin in range((d - 1) // BLOCK * BLOCK, -1, -BLOCK):
        end = min(begin + BLOCK, d)
        wished = torch.baddbmm(target[:, begin:end], pull[:, begin:end, end:], errors[:, end:])
        for j in range(end - 1, begin - 1, -1):
            wish = torch.baddbmm(wished[:, j - begin, None], pull[:, j, None, j + 1:end], errors[:, j + 1:end])[:, 0]
            if factors is None:
                values[:, j] = round_to_levels(wish, start.bits, start.table)
            else:
                values[:, j] = round_to_levels(wish / factors[:, j], start.bits, start.table) * factors[:, j]
            if inside is not None:
                values[:, j] *= inside[:, j]
            torch.sub(target[:, j], values[:, j], out=errors[:, j])
    seen = hessian @ values
    along, power = ((seen * other).sum(1).reshape(-1, taps).sum(1) for other in (target, values))
    fitted = along / power.clamp_min(1e-12)
    levels = values if factors is None else values / factors
    back = levels[group, order.argsort(dim=1)].round().to(torch.int8).transpose(1, 2).flatten(0, 1)
    return replace(start, levels=from_taps(back, tuple(weight.shape)).contiguous(),
                   scale=torch.where(fitted > 0.5, fitted, 1.0) * start.scale)
