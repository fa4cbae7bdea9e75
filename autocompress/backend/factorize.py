"""Low-rank factors of one weight, as modules that take the layer's place.

Truncated SVD (Linear, 1×1), spatial SVD (Jaderberg et al., BMVC 2014) and Tucker-2 by HOOI (Kim et al.,
ICLR 2016). With the covariance of the layer's input the error that is made small is that of the output, not of the
weight: the decomposition is done in whitened coordinates (Wang et al., "SVD-LLM", ICLR 2025), and the last factor
is refitted by least squares. All in float64 on the CPU, so that equal input gives equal factors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.backend.reconstruct import cholesky, damped

HOOI_SWEEPS = 3


def factorize(module: nn.Module, method: str, args: Mapping[str, int],
              covariance: Tensor | None = None) -> nn.Sequential:
    """The factors of `module` in execution order; the last one carries the bias.

    `covariance` `(d, d)` of the input, d columns of the weight as a matrix or, for wide convolutions, channels.
    `args` are those of the plan's decompose step. ValueError for weights that are not
    finite, TrialError for such moments.
    """
    assert isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d)
    weight = module.weight.detach().double().cpu()
    if not torch.isfinite(weight).all():
        raise ValueError("nan: weights that are not finite cannot be decomposed")
    known = None if covariance is None else damped(covariance.double(), 1e-3)
    if method == "svd":
        factors = _linear_factors(module, *_truncated(weight.flatten(1), args["rank"], known))
    elif method == "spatial-svd":
        factors = _spatial_factors(module, weight, args["rank"], known)
    else:
        factors = _tucker_factors(module, weight, args["rank_in"], args["rank_out"], known)
    if module.bias is not None:
        factors[-1].bias = nn.Parameter(module.bias.detach().clone())
    return nn.Sequential(*factors)


def _truncated(matrix: Tensor, rank: int, known: Tensor | None) -> tuple[Tensor, Tensor]:
    """`matrix` (out, in) ≈ second @ first with first (rank, in), second (out, rank), singular values shared."""
    whitening = None if known is None else cholesky(known, "a decomposed layer")
    u, s, vh = torch.linalg.svd(matrix if whitening is None else matrix @ whitening, full_matrices=False)
    right = vh[:rank]
    if whitening is not None:
        right = torch.linalg.solve_triangular(whitening, right, upper=False, left=False)
    root = s[:rank].sqrt()
    return root[:, None] * right, u[:, :rank] * root


def _refitted(weight: Tensor, known: Tensor | None, basis: Tensor, last: Tensor) -> Tensor:
    """The best last factor `(out, M)` behind `basis` (M, d), which maps the input to what it reads; `last` if the
    input's moments are not known."""
    if known is None or len(known) != basis.shape[1]:
        return last
    seen = basis @ known
    return torch.cholesky_solve(seen @ weight.T, cholesky(damped(seen @ basis.T, 1e-6), "a decomposed layer")).T


def _linear_factors(module: nn.Module, first: Tensor, second: Tensor) -> list[Any]:
    if isinstance(module, nn.Linear):
        factors: list[Any] = [nn.Linear(first.shape[1], first.shape[0], bias=False),
                              nn.Linear(first.shape[0], second.shape[0], bias=False)]
    else:
        assert isinstance(module, nn.Conv1d | nn.Conv2d)
        one = module.kernel_size
        kind: Any = type(module)
        factors = [kind(first.shape[1], first.shape[0], one, module.stride, module.padding, bias=False),
                   kind(first.shape[0], second.shape[0], one, bias=False)]
    for factor, value in zip(factors, (first, second), strict=True):
        factor.weight = nn.Parameter(value.float().reshape(factor.weight.shape).contiguous())
    return factors


def _spatial_factors(module: nn.Module, weight: Tensor, rank: int, known: Tensor | None) -> list[Any]:
    assert isinstance(module, nn.Conv2d)
    n_out, n_in, rows, columns = weight.shape
    matrix = weight.permute(0, 3, 1, 2).reshape(n_out * columns, n_in * rows)
    first, second = _truncated(matrix, rank, None if known is None else _one_column(known, n_in, rows, columns))
    across = second.reshape(n_out, columns, rank).permute(0, 2, 1)
    basis = torch.einsum("rci,jk->rjcik", first.reshape(rank, n_in, rows), torch.eye(columns, dtype=first.dtype))
    across = _refitted(weight.flatten(1), known, basis.reshape(rank * columns, -1), across.flatten(1))
    (ph, pw), (sh, sw), (dh, dw) = _pair(module.padding), _pair(module.stride), _pair(module.dilation)
    vertical = nn.Conv2d(n_in, rank, (rows, 1), (sh, 1), (ph, 0), (dh, 1), bias=False)
    horizontal = nn.Conv2d(rank, n_out, (1, columns), (1, sw), (0, pw), (1, dw), bias=False)
    vertical.weight = nn.Parameter(first.float().reshape(rank, n_in, rows, 1).contiguous())
    horizontal.weight = nn.Parameter(across.float().reshape(n_out, rank, 1, columns).contiguous())
    return [vertical, horizontal]


def _one_column(known: Tensor, n_in: int, rows: int, columns: int) -> Tensor:
    """Covariance `(in · rows, in · rows)` of one column of a patch: the mean over the patch's columns."""
    if len(known) == n_in:  # in channels alone: rows of a column are taken for unrelated
        return torch.kron(known, torch.eye(rows, dtype=known.dtype))
    blocks = known.reshape(n_in, rows, columns, n_in, rows, columns)
    return blocks.diagonal(dim1=2, dim2=5).mean(-1).reshape(n_in * rows, n_in * rows)


def _tucker_factors(module: nn.Module, weight: Tensor, rank_in: int, rank_out: int,
                    known: Tensor | None) -> list[Any]:
    assert isinstance(module, nn.Conv1d | nn.Conv2d)
    kernel = weight.flatten(2)  # (out, in, k)
    n_in, area = kernel.shape[1:]
    whitening = torch.eye(n_in, dtype=kernel.dtype)
    if known is not None:  # of the input channels alone, mean over the kernel
        alike = len(known) == n_in
        channels = known if alike else known.reshape(n_in, area, n_in, area).diagonal(dim1=1, dim2=3).mean(-1)
        whitening = cholesky(channels, "a decomposed layer")
    white = torch.einsum("oik,ij->ojk", kernel, whitening)
    u_in = _leading(white.transpose(0, 1).flatten(1), rank_in)
    u_out = _leading(white.flatten(1), rank_out)
    for _ in range(HOOI_SWEEPS):
        u_out = _leading(torch.einsum("oik,ir->ork", white, u_in).flatten(1), rank_out)
        u_in = _leading(torch.einsum("oik,or->irk", white, u_out).flatten(1), rank_in)
    core = torch.einsum("oik,ir,os->srk", white, u_in, u_out)
    before = torch.linalg.solve_triangular(whitening.T, u_in, upper=True).T  # (rank_in, in), colours taken out
    basis = torch.einsum("srk,ri->sik", core, before).flatten(1)
    after = _refitted(weight.flatten(1), known, basis, u_out)
    kind: Any = type(module)
    factors = [kind(weight.shape[1], rank_in, 1, bias=False),
               kind(rank_in, rank_out, module.kernel_size, module.stride, module.padding, module.dilation, bias=False),
               kind(rank_out, weight.shape[0], 1, bias=False)]
    for factor, value in zip(factors, (before, core, after), strict=True):
        factor.weight = nn.Parameter(value.float().reshape(factor.weight.shape).contiguous())
    return factors


def _leading(matrix: Tensor, rank: int) -> Tensor:
    """The leading left singular vectors, from the (small) Gram matrix."""
    _, vectors = torch.linalg.eigh(matrix @ matrix.T)
    leading: Tensor = vectors[:, -rank:].flip(1)
    return leading


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
