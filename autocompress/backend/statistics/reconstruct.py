"""Least-squares reconstruction on calibration moments: weights that stay make up for those that go.

Source: He et al., "Channel Pruning for Accelerating Very Deep Neural Networks" (ICCV 2017), for the regression of a
layer on its remaining inputs, in closed form from one covariance.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autocompress.errors import TrialError

# Addition to a covariance's diagonal, as a share of its mean. It bounds what is solved along directions in which the
# calibration data hardly vary.
DAMPING = 0.01


def damped(covariance: Tensor, damping: float = DAMPING) -> Tensor:
    """Add to the diagonal of covariances `(…, d, d)` so that they can be inverted; see `DAMPING`."""
    diagonal = covariance.diagonal(dim1=-2, dim2=-1)
    result = covariance.clone()
    result.diagonal(dim1=-2, dim2=-1).add_((damping * diagonal.mean(-1, keepdim=True)).clamp_min(1e-8))
    return result


def cholesky(matrix: Tensor, what: str) -> Tensor:
    """Return the lower Cholesky factor of `(…, d, d)`; `what` names the layer in an error.

    Raises:
        TrialError: The matrix is not finite or not positive definite.
    """
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(matrix)
    # A value that is not finite makes the diagonal of its row so.
    if info.any() or not torch.isfinite(factor.diagonal(dim1=-2, dim2=-1)).all():
        raise unusable(what)
    return factor


def unusable(what: str) -> TrialError:
    """Build the error for moments that are not finite or not positive."""
    return TrialError(f"the input covariance of {what} must be finite and positive, but is not: look for NaN or "
                      "infinite values in the network or in the calibration data")


def as_matrix(weight: Tensor, d: int) -> Tensor:
    """Reshape a weight `(out, in, …)` to `d` columns: of `in * taps`, or of `in` with a row for each output and tap."""
    rows = weight.flatten(1)
    if rows.shape[1] != d:
        rows = weight.flatten(2).movedim(1, -1).reshape(-1, d)
    return rows


def from_matrix(rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Invert `as_matrix`: return a weight of `shape` `(out, in, …)`."""
    if len(rows) == shape[0]:
        return rows.reshape(shape)
    return rows.reshape(shape[0], -1, shape[1]).movedim(1, -1).reshape(shape)


def on_remaining(weight: Tensor, covariance: Tensor, columns: Tensor, what: str = "a layer") -> Tensor:
    """Regress a layer on its remaining inputs.

    Args:
        weight: The weight as a matrix `(out, d)`.
        covariance: The covariance `(d, d)` of the input.
        columns: The remaining columns, `(M,)`.
        what: The layer, for an error.

    Returns:
        The matrix `(out, M)` on the remaining columns whose outputs are nearest to those of `weight`.
    """
    remains = torch.zeros(weight.shape[1], dtype=torch.bool).index_fill_(0, columns, True)
    gone = (~remains).nonzero()[:, 0]
    kept_columns = damped(covariance).index_select(1, columns)
    factor = cholesky(kept_columns.index_select(0, columns), what)
    # Only the removed columns need a regression: the remaining ones reproduce themselves.
    across, lost = kept_columns.index_select(0, gone), weight.index_select(1, gone)
    if len(weight) < len(gone):
        return weight.index_select(1, columns) + torch.cholesky_solve((lost @ across).T, factor).T
    return torch.addmm(weight.index_select(1, columns), lost, torch.cholesky_solve(across.T, factor).T)


def removal_damage(weight: Tensor, covariance: Tensor, area: int, what: str = "a layer") -> Tensor:
    """Compute the output variance that is lost when one input channel goes and the others are refitted (OBS).

    For the columns c of a channel it is tr(W_c ((H⁻¹)_cc)⁻¹ W_cᵀ).

    Args:
        weight: The weight W as a matrix `(out, channels * area)`.
        covariance: The covariance of the input; H is it after damping.
        area: The number of columns of a channel.
        what: The layer, for an error.

    Returns:
        The loss of each channel, `(channels,)`.
    """
    inverse = torch.cholesky_inverse(cholesky(damped(covariance), what))
    channels = weight.shape[1] // area
    blocks = inverse.reshape(channels, area, channels, area)
    diagonal_blocks = blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1)  # (channels, area, area)
    columns = weight.reshape(len(weight), channels, area).permute(1, 2, 0)  # (channels, area, out)
    lost: Tensor = (columns * torch.linalg.solve(diagonal_blocks, columns)).sum((1, 2))
    return lost
