"""Sparsification by magnitude, by Wanda's score, or by the optimal brain surgeon (OBS).

* `magnitude`: the largest (Janowsky, "Pruning versus clipping in neural networks", Phys. Rev. A 39, 1989).
* `wanda`: the largest times the root mean square of the input they meet (Sun et al., ICLR 2024), compared within the
  layer: within rows, as for language models, was worse on convolutions.
* `obs`: weights go in rounds, and those that stay make up for them, after the optimal brain surgeon (Hassibi & Stork,
  NIPS 1992). As in Boža, "Fast and effective weight update for pruned large language models" (TMLR 2024), Wanda's
  score chooses, and all rows are fitted at once without inverting; SparseGPT's column by column lost more here.

Where a layer's input was not measured (factors, groups cut by pruning), magnitude decides.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autocompress.backend.network.grids import ordinary_unit
from autocompress.backend.network.mask import Mask
from autocompress.backend.statistics.reconstruct import as_matrix, damped, from_matrix
from autocompress.core.sparsity import UNSTRUCTURED, group_of, kept_weights
from autocompress.errors import TrialError

# Rounds of OBS, and steps of conjugate gradients in each. More of either change the error little.
ROUNDS, FIT_STEPS = 6, 3


def sparsify(weight: Tensor, pattern: str, density: float, criterion: str, second: Tensor | None,
             what: str = "a layer") -> tuple[Tensor, Mask]:
    """Set weights of a layer to zero.

    Args:
        weight: The weight `(out, in / groups, …)`.
        pattern: `"unstructured"`, or `"N:M"` along input channels.
        density: The share of weights that stay, for the unstructured pattern.
        criterion: `"magnitude"`, `"wanda"` or `"obs"`.
        second: Second moments `(groups, d, d)` of the input, in columns or (wide convolutions) in channels; None where
            they were not measured.
        what: The layer, for an error.

    Returns:
        The sparse weight, and the mask of the weights that stay.

    Raises:
        ValueError: The weight is not finite.
        TrialError: The moments are not finite.
    """
    if not torch.isfinite(weight).all():
        raise ValueError(f"nan: weights that are not finite cannot be made sparse, but those of {what} are not")
    keep, of = (kept_weights(weight.numel(), pattern, density), 0) if pattern == UNSTRUCTURED else group_of(pattern)
    if second is None or criterion == "magnitude":
        nonzero = largest(weight.abs(), keep, of)
        return weight * nonzero, Mask(pattern, nonzero)
    groups, d = second.shape[:2]
    if not torch.isfinite(second).all():
        raise TrialError(f"the moments of the input of {what} must be finite, but are not: look for NaN or infinite "
                         "values in the network or in the calibration data")
    hessian, shape, unit = damped(second), tuple(weight.shape), ordinary_unit(weight)
    rows = as_matrix(weight / unit, d).reshape(groups, -1, d)
    if criterion == "wanda":
        score = rows.abs() * hessian.diagonal(dim1=1, dim2=2).sqrt()[:, None]
        nonzero = largest(from_matrix(score.flatten(0, 1), shape), keep, of)
        return weight * nonzero, Mask(pattern, nonzero)
    fitted, mask = surgery(rows, hessian, shape, keep, of)
    return (from_matrix(fitted.flatten(0, 1), shape).contiguous() * unit,
            Mask(pattern, from_matrix(mask.flatten(0, 1), shape).contiguous()))


def largest(score: Tensor, keep: int, of: int = 0) -> Tensor:
    """Mark the largest scores.

    Args:
        score: Scores `(out, in, …)`.
        keep: The number of scores to mark in each group.
        of: The number of consecutive input channels that form a group; all scores form one at 0.

    Returns:
        A mask (bool, of the shape of `score`). Among equal scores the first is marked.
    """
    if not of:
        least = score.flatten().kthvalue(score.numel() - keep + 1).values  # no sorting: layers have millions
        above, equal = score > least, score == least
        first = equal.flatten().cumsum(0).reshape(score.shape) <= keep - above.sum()
        return above | (equal & first)
    inner = score.movedim(1, -1)
    order = inner.reshape(-1, of).argsort(dim=1, descending=True, stable=True)[:, :keep]
    marks = torch.zeros(len(order), of, dtype=torch.bool).scatter_(1, order, True)
    return marks.reshape(inner.shape).movedim(-1, 1).contiguous()


def surgery(target: Tensor, hessian: Tensor, shape: tuple[int, ...], keep: int, of: int) -> tuple[Tensor, Tensor]:
    """Prune by OBS in rounds: the weights of least score are set to zero, and the others fitted to the outputs.

    The share of weights that stay shrinks by an equal factor in each of `ROUNDS` rounds.

    Args:
        target: The weight as `(groups, rows, d)`.
        hessian: Damped second moments `(groups, d, d)` of the input.
        shape: The shape of the weight as the layer has it.
        keep: See `largest`.
        of: See `largest`.

    Returns:
        The sparse weight, and the mask of the weights that stay, both of the shape of `target`.
    """
    input_scale = hessian.diagonal(dim1=1, dim2=2).sqrt()[:, None]
    weight, nonzero = target, torch.ones_like(target, dtype=torch.bool)
    whole = of or target.numel()
    for round_number in range(1, ROUNDS + 1):
        score = (weight.abs() * input_scale).masked_fill(~nonzero, -1)
        count = max(keep, round(whole * (keep / whole) ** (round_number / ROUNDS)))
        stay = largest(from_matrix(score.flatten(0, 1), shape), count, of)
        nonzero = as_matrix(stay, target.shape[2]).reshape(nonzero.shape)
        weight = fit(weight, target, hessian, nonzero, FIT_STEPS)
    return weight, nonzero


def fit(start: Tensor, target: Tensor, hessian: Tensor, mask: Tensor, steps: int) -> Tensor:
    """Fit the weights inside a mask to the outputs of `target` by conjugate gradients with a diagonal preconditioner.

    Args:
        start: The first weights `(groups, rows, d)`.
        target: The weights whose outputs are approached, of the same shape.
        hessian: Damped second moments `(groups, d, d)` of the input.
        mask: The mask (bool, of the same shape).
        steps: The number of steps.
    """
    inside = mask.float()
    weight = start * inside
    scale = 1 / hessian.diagonal(dim1=1, dim2=2)[:, None]
    residual = inside * ((target - weight) @ hessian)
    direction = scale * residual
    power = (residual * direction).sum(2, keepdim=True)
    for _ in range(steps):
        product = inside * (direction @ hessian)
        step = power / (direction * product).sum(2, keepdim=True).clamp_min(1e-30)
        weight = weight + step * direction
        residual = residual - step * product
        scaled = scale * residual
        before, power = power, (residual * scaled).sum(2, keepdim=True)
        direction = scaled + power / before.clamp_min(1e-30) * direction
    return weight
