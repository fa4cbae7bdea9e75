"""Which weights of a layer stay, and what the others' going does to them.

* `magnitude`: the largest (Janowsky, "Pruning versus clipping in neural networks", Phys. Rev. A 39, 1989).
* `wanda`: the largest times the root mean square of the input they meet (Sun et al., ICLR 2024), compared within the
  layer: within rows, as for language models, was worse on convolutions.
* `obs`: those whose going, made up for by those behind them, costs the output least (Hassibi & Stork's optimal brain
  surgeon, column by column as in Frantar & Alistarh, "SparseGPT", ICML 2023); then all that stay are fitted once more,
  by conjugate gradients.

Where a layer's input was not measured (factors, groups cut by pruning), magnitude decides.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autocompress.backend.reconstruct import BLOCK, by_taps, cholesky, damped, from_taps
from autocompress.core.sparsity import UNSTRUCTURED, group_of, kept_weights

FIT_STEPS = 10
"""Steps of conjugate gradients: the error changes little after that."""


@dataclass(frozen=True)
class Mask:
    """`kept`: bool, of the weight's shape; False where the weight is zero."""

    pattern: str
    kept: Tensor


class Masked(nn.Module):
    """Parametrisation of a weight that is zero where it was taken out."""

    def __init__(self, mask: Mask) -> None:
        super().__init__()
        self.register_buffer("kept", mask.kept, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """Weight → weight with zeros; no gradient reaches those."""
        assert isinstance(self.kept, Tensor)
        return weight * self.kept


def sparsify(weight: Tensor, pattern: str, density: float, criterion: str, second: Tensor | None,
             what: str = "a layer") -> tuple[Tensor, Mask]:
    """`weight` `(out, in / groups, …)` with zeros, and where they are.

    `second` `(groups, d, d)`: moments of the input in columns or (wide convolutions) in channels, None where unknown.
    ValueError for weights that are not finite, TrialError for moments that are not.
    """
    if not torch.isfinite(weight).all():
        raise ValueError(f"nan: weights that are not finite cannot be made sparse, but those of {what} are not")
    count = kept_weights(weight.numel(), pattern, density)
    if second is None or criterion == "magnitude":
        kept = largest(weight.abs(), pattern, count)
        return weight * kept, Mask(pattern, kept)
    groups, d = second.shape[:2]
    hessian, shape = damped(second), tuple(weight.shape)
    rows = by_taps(weight, d).reshape(groups, -1, d)
    if criterion == "wanda":
        loud = rows.abs() * hessian.diagonal(dim1=1, dim2=2).sqrt()[:, None]
        kept = largest(from_taps(loud.flatten(0, 1), shape), pattern, count)
        return weight * kept, Mask(pattern, kept)
    places = largest_in_turn(rows, hessian, pattern, count, shape, what)
    fitted = fit(rows, hessian, places, FIT_STEPS)
    return (from_taps(fitted.flatten(0, 1), shape).contiguous(),
            Mask(pattern, from_taps(places.flatten(0, 1), shape).contiguous()))


def largest(score: Tensor, pattern: str, count: int) -> Tensor:
    """Where the `count` largest of the layer are, or of each group of input channels the n largest: bool, of the
    shape of `score`. Of equal ones the first stays."""
    if pattern == UNSTRUCTURED:
        order = score.flatten().argsort(descending=True, stable=True)[:count]
        return torch.zeros(score.numel(), dtype=torch.bool).index_fill_(0, order, True).reshape(score.shape)
    n, m = group_of(pattern)
    inner = score.movedim(1, -1)
    order = inner.reshape(-1, m).argsort(dim=1, descending=True, stable=True)[:, :n]
    kept = torch.zeros(len(order), m, dtype=torch.bool).scatter_(1, order, True)
    return kept.reshape(inner.shape).movedim(-1, 1).contiguous()


def largest_in_turn(rows: Tensor, hessian: Tensor, pattern: str, count: int, shape: tuple[int, ...],
                    what: str) -> Tensor:
    """Places `(groups, rows, d)` that stay when columns go block by block, each block chosen after the columns behind
    took up what went before. An equal share stays in each block."""
    d = hessian.shape[1]
    taps = d // shape[1]
    order = torch.arange(d).reshape(-1, taps).T.flatten()  # channels innermost: groups of n:m are neighbours
    rows, hessian = rows[:, :, order], hessian[:, order][:, :, order]
    inverse = torch.cholesky_inverse(cholesky(hessian, what))
    upper = torch.linalg.cholesky(inverse, upper=True)
    block = BLOCK if pattern == UNSTRUCTURED else BLOCK // group_of(pattern)[1] * group_of(pattern)[1]
    kept, done = torch.zeros(rows.shape, dtype=torch.bool), 0
    for begin in range(0, d, block):
        end = min(begin + block, d)
        share = round(count * end / d) - done
        done += share
        damage = (rows[:, :, begin:end] / upper.diagonal(dim1=1, dim2=2)[:, None, begin:end]).square()
        kept[:, :, begin:end] = largest(damage.flatten(0, 1), pattern, share).reshape(damage.shape)
        errors = torch.empty(damage.shape)
        for j in range(begin, end):
            error = rows[:, :, j].masked_fill(kept[:, :, j], 0) / upper[:, j, j, None]
            rows[:, :, j:end] -= error[:, :, None] * upper[:, None, j, j:end]
            errors[:, :, j - begin] = error
        rows[:, :, end:] -= errors @ upper[:, begin:end, end:]
    return torch.empty_like(kept).index_copy_(2, order, kept)


def fit(target: Tensor, hessian: Tensor, kept: Tensor, steps: int) -> Tensor:
    """The weights on the places `kept` whose outputs come near to those of `target`; all `(groups, rows, d)`."""
    inside = kept.float()
    weight = target * inside
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
