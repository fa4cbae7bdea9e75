"""Least squares on calibration moments: weights that make up for what was removed.

Source: He et al., "Channel Pruning for Accelerating Very Deep Neural Networks" (ICCV 2017), for the regression of a
layer on its remaining inputs, in closed form from one covariance.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autocompress.errors import TrialError

DAMPING = 0.01
"""Added to the diagonal, as a share of its mean: directions that calibration hardly excites must not blow up."""


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
    # What is not finite reaches the diagonal of its row.
    if info.any() or not torch.isfinite(factor.diagonal(dim1=-2, dim2=-1)).all():
        raise unusable(what)
    return factor


def unusable(what: str) -> TrialError:
    """Moments that nothing can be computed from."""
    return TrialError(f"the input covariance of {what} must be finite and positive, but is not: look for NaN or "
                      "infinite values in the network or in the calibration data")


def as_matrix(weight: Tensor, d: int) -> Tensor:
    """A weight `(out, in, …)` as a matrix of `d` columns: all of `in * taps`, or one row for each output and tap."""
    rows = weight.flatten(1)
    if rows.shape[1] != d:
        rows = weight.flatten(2).movedim(1, -1).reshape(-1, d)
    return rows


def from_matrix(rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `as_matrix`: a weight of `shape` `(out, in, …)`."""
    if len(rows) == shape[0]:
        return rows.reshape(shape)
    return rows.reshape(shape[0], -1, shape[1]).movedim(1, -1).reshape(shape)


def on_remaining(weight: Tensor, covariance: Tensor, kept: Tensor, what: str = "a layer") -> Tensor:
    """The matrix `(out, M)` on the columns `kept` (M,) whose outputs come nearest to those of `weight` (out, d)."""
    stays = torch.zeros(weight.shape[1], dtype=torch.bool).index_fill_(0, kept, True)
    gone = (~stays).nonzero()[:, 0]
    seen = damped(covariance).index_select(1, kept)
    factor = cholesky(seen.index_select(0, kept), what)
    across, lost = seen.index_select(0, gone), weight.index_select(1, gone)  # what stays stands for itself
    if len(weight) < len(gone):
        return weight.index_select(1, kept) + torch.cholesky_solve((lost @ across).T, factor).T
    return torch.addmm(weight.index_select(1, kept), lost, torch.cholesky_solve(across.T, factor).T)


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
