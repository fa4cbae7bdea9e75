"""Least squares on calibration moments: weights that make up for what was removed, and rounding that makes up for
what was rounded.

Sources: He et al., "Channel Pruning for Accelerating Very Deep Neural Networks" (ICCV 2017), for the regression of
a layer on its remaining inputs; Frantar et al., "GPTQ" (ICLR 2023), after Hassibi & Stork's optimal brain surgeon,
for rounding column by column; all in closed form from one covariance.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autocompress.backend.quantization import QuantizedWeight, round_to_levels
from autocompress.errors import TrialError

DAMPING = 0.01
"""Added to the diagonal, as a share of its mean: directions that calibration hardly excites must not blow up."""
BLOCK = 64


def damped(covariance: Tensor, damping: float = DAMPING) -> Tensor:
    """`(…, d, d)` made safely invertible. A column that is always constant gets the mean of the others."""
    diagonal = covariance.diagonal(dim1=-2, dim2=-1)
    extra = (damping * diagonal.mean(-1, keepdim=True)).clamp_min(1e-8).expand_as(diagonal)
    return covariance + torch.diag_embed(extra)


def cholesky(matrix: Tensor, what: str) -> Tensor:
    """Lower factor of `(…, d, d)`. TrialError when the statistics behind it are not finite or not definite."""
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(matrix)
    if info.any() or not torch.isfinite(factor).all():
        raise TrialError(f"the input covariance of {what} must be finite and positive, but is not: look for NaN or "
                         "infinite values in the network or in the calibration data")
    return factor


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
    whole = damped(covariance)
    factor = cholesky(whole[kept][:, kept], what)
    target = weight @ whole[:, kept]
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
    """`weight` `(C, …)` on the grid of `start`, each column's rounding error made up for by the columns after it.

    `covariance` `(groups, d, d)` of the input, in columns or (wide convolutions) in channels. Loudest columns first;
    scales are refitted at the end. Where `kept` (bool, of the weight's shape) is False the level is zero.
    """
    groups, d = covariance.shape[:2]
    taps = weight[0].numel() // d
    rows = by_taps(weight, d).reshape(groups, -1, d).clone()
    scale = start.scale.repeat_interleave(taps).reshape(groups, -1)
    hessian = damped(covariance)
    order = hessian.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True)  # (groups, d)
    hessian = hessian.take_along_dim(order[:, :, None], 1).take_along_dim(order[:, None, :], 2)
    rows = rows.take_along_dim(order[:, None, :], 2)
    target = rows.clone()
    inside = torch.ones_like(rows) if kept is None else \
        by_taps(kept.float(), d).reshape(groups, -1, d).take_along_dim(order[:, None, :], 2)
    inverse = torch.cholesky_inverse(cholesky(hessian, what))
    upper = torch.linalg.cholesky(inverse, upper=True)
    levels = torch.empty_like(rows)
    for begin in range(0, d, BLOCK):
        end = min(begin + BLOCK, d)
        errors = torch.empty(*rows.shape[:2], end - begin)
        for j in range(begin, end):
            levels[:, :, j] = round_to_levels(rows[:, :, j] / scale, start.bits) * inside[:, :, j]
            error = (rows[:, :, j] - levels[:, :, j] * scale) / upper[:, j, j, None]
            rows[:, :, j:end] -= error[:, :, None] * upper[:, None, j, j:end]
            errors[:, :, j - begin] = error
        rows[:, :, end:] -= errors @ upper[:, begin:end, end:]
    seen = levels @ hessian
    along, power = ((seen * other).sum(2).reshape(-1, taps).sum(1) for other in (target, levels))
    fitted = along / power.clamp_min(1e-12)
    levels = torch.empty_like(levels).scatter_(2, order[:, None, :].expand_as(levels), levels).flatten(0, 1)
    return QuantizedWeight(start.bits, from_taps(levels, tuple(weight.shape)).to(torch.int8),
                           torch.where(fitted > 0.5 * start.scale, fitted, start.scale))
