"""CP decomposition of a convolution: a sum of `rank` products of an output, an input and a kernel vector.

Source: Lebedev et al. (ICLR 2015), with the kernel's axes as one, as Astrid and Lee (BigComp 2017): 1×1, depthwise k×k,
1×1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autocompress.backend.statistics.reconstruct import damped
from autocompress.errors import TrialError

# Largest number of sweeps of alternating least squares.
SWEEPS = 12
# Fall of the squared error in one sweep, as a share of the weight's square, below which the sweeps end.
TOLERANCE = 1e-3
# Ridge of the least squares. It keeps components from growing against one another (CP degeneracy).
RIDGE = 1e-4


def cp_factors(kernel: Tensor, rank: int, what: str) -> tuple[Tensor, Tensor, Tensor]:
    """Decompose a kernel by alternating least squares, from the leading singular vectors of the taps' matrices.

    Args:
        kernel: The weight `(out, in, taps)`.
        rank: The number of products.
        what: The layer, for an error.

    Returns:
        Factors `(out, rank)`, `(in, rank)` and `(taps, rank)` whose products sum to about `kernel`.

    Raises:
        TrialError: The factors are not finite, or no nearer to the kernel than zero is.
    """
    total = float(kernel.square().sum())
    n_in, taps = kernel.shape[1:]
    squares = torch.einsum("oit,ojt->tij", kernel, kernel)
    values, vectors = torch.linalg.eigh(squares)  # (taps, in), (taps, in, in)
    leading = values.flatten().topk(min(rank, values.numel())).indices
    by_tap = torch.nn.functional.one_hot(leading // n_in, taps).T.to(kernel)  # (taps, rank)
    inner = vectors.transpose(1, 2).flatten(0, 1)[leading].T  # (in, rank)
    factors = [torch.empty(0), inner, by_tap]
    unfolded = [kernel.movedim(axis, 0).flatten(1) for axis in range(3)]
    error = total
    for _ in range(SWEEPS):
        for axis in range(3):
            first, second = (factors[other] for other in range(3) if other != axis)
            product = (first[:, None] * second).flatten(0, 1)  # (…, rank), rows as in `unfolded`
            gram = (first.T @ first) * (second.T @ second)
            solved, info = torch.linalg.cholesky_ex(damped(gram.double(), RIDGE))
            projected = unfolded[axis] @ product
            if info:
                raise TrialError(f"the CP factors of {what} must settle, but their products became singular: "
                                 "choose another rank or method")
            factors[axis] = torch.cholesky_solve(projected.double().T, solved).T.to(kernel)
            if axis < 2:  # the last of a sweep carries the size
                factors[axis] = factors[axis] / factors[axis].norm(dim=0).clamp_min(1e-20)
        fit = (factors[2].T @ factors[2]) * gram
        before, error = error, total - 2 * float((projected * factors[2]).sum()) + float(fit.sum())
        if not before - error > TOLERANCE * total:
            break
    if not all(torch.isfinite(factor).all() for factor in factors) or not error < total:
        raise TrialError(f"the CP factors of {what} must come nearer to its weight than nothing does, but ended with "
                         f"{error / max(total, 1e-30):.2g} of its square left over: choose another rank or method")
    return factors[0], factors[1], factors[2]
