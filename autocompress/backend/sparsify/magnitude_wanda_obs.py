"""Which weights of a layer stay, and what the others' going does to them.

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

ROUNDS, FIT_STEPS = 6, 3
"""Rounds of the surgery, and steps of conjugate gradients in each: the error changes little beyond."""


def sparsify(weight: Tensor, pattern: str, density: float, criterion: str, second: Tensor | None,
             what: str = "a layer") -> tuple[Tensor, Mask]:
    """`weight` `(out, in / groups, …)` with zeros, and where they are.

    `second` `(groups, d, d)`: moments of the input in columns or (wide convolutions) in channels, None where unknown.
    ValueError for weights that are not finite, TrialError for moments that are not.
    """
    if not torch.isfinite(weight).all():
        raise ValueError(f"nan: weights that are not finite cannot be made sparse, but those of {what} are not")
    keep, of = (kept_weights(weight.numel(), pattern, density), 0) if pattern == UNSTRUCTURED else group_of(pattern)
    if second is None or criterion == "magnitude":
        kept = largest(weight.abs(), keep, of)
        return weight * kept, Mask(pattern, kept)
    groups, d = second.shape[:2]
    if not torch.isfinite(second).all():
        raise TrialError(f"the moments of the input of {what} must be finite, but are not: look for NaN or infinite "
                         "values in the network or in the calibration data")
    hessian, shape, unit = damped(second), tuple(weight.shape), ordinary_unit(weight)
    rows = as_matrix(weight / unit, d).reshape(groups, -1, d)
    if criterion == "wanda":
        loud = rows.abs() * hessian.diagonal(dim1=1, dim2=2).sqrt()[:, None]
        kept = largest(from_matrix(loud.flatten(0, 1), shape), keep, of)
        return weight * kept, Mask(pattern, kept)
    fitted, places = surgery(rows, hessian, shape, keep, of)
    return (from_matrix(fitted.flatten(0, 1), shape).contiguous() * unit,
            Mask(pattern, from_matrix(places.flatten(0, 1), shape).contiguous()))


def largest(score: Tensor, keep: int, of: int = 0) -> Tensor:
    """Where the `keep` largest are, of each `of` consecutive input channels or, at 0, of all: bool, of the shape of
    `score` `(out, in, …)`. Of equal ones the first stays."""
    if not of:
        least = score.flatten().kthvalue(score.numel() - keep + 1).values  # no sorting: layers have millions
        above, equal = score > least, score == least
        first = equal.flatten().cumsum(0).reshape(score.shape) <= keep - above.sum()
        return above | (equal & first)
    inner = score.movedim(1, -1)
    order = inner.reshape(-1, of).argsort(dim=1, descending=True, stable=True)[:, :keep]
    kept = torch.zeros(len(order), of, dtype=torch.bool).scatter_(1, order, True)
    return kept.reshape(inner.shape).movedim(-1, 1).contiguous()


def surgery(target: Tensor, hessian: Tensor, shape: tuple[int, ...], keep: int, of: int) -> tuple[Tensor, Tensor]:
    """`target` `(groups, rows, d)` of a weight of `shape` with zeros, and the places that stay, as in `largest`.

    In each of `ROUNDS` rounds the weights that are then worth least go, and the others are fitted to the outputs of
    `target`; the share that stays shrinks by equal factors.
    """
    loudness = hessian.diagonal(dim1=1, dim2=2).sqrt()[:, None]
    weight, kept = target, torch.ones_like(target, dtype=torch.bool)
    whole = of or target.numel()
    for turn in range(1, ROUNDS + 1):
        worth = (weight.abs() * loudness).masked_fill(~kept, -1)
        so_many = max(keep, round(whole * (keep / whole) ** (turn / ROUNDS)))
        chosen = largest(from_matrix(worth.flatten(0, 1), shape), so_many, of)
        kept = as_matrix(chosen, target.shape[2]).reshape(kept.shape)
        weight = fit(weight, target, hessian, kept, FIT_STEPS)
    return weight, kept


def fit(start: Tensor, target: Tensor, hessian: Tensor, kept: Tensor, steps: int) -> Tensor:
    """The weights on the places `kept` whose outputs come near to those of `target`; all `(groups, rows, d)`.

    Conjugate gradients from `start`, each row scaled by the diagonal of `hessian` `(groups, d, d)`.
    """
    inside = kept.float()
    weight = start * inside
    scale = 1 / hessian.diagonal(dim1=1, dim2=2)[:, None]
    residual = inside * ((target - weight) @ hessian)
    direction = scale * residual
    power = (residual * direction).sum(2, keepdim=True)
    for _ in range(steps):
        seen = inside * (direction @ hessian)
        step = power / (direction * seen).sum(2, keepdim=True).clamp_min(1e-30)
        weight = weight + step * direction
        residual = residual - step * seen
        scaled = scale * residual
        before, power = power, (residual * scaled).sum(2, keepdim=True)
        direction = scaled + power / before.clamp_min(1e-30) * direction
    return weight
