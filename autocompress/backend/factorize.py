"""Low-rank factors of one weight, as modules that take the layer's place.

Truncated SVD (Linear, 1×1), spatial SVD (Jaderberg et al., BMVC 2014) and Tucker-2 by HOOI (Kim et al.,
ICLR 2016). All are computed in float64 on the CPU, so that equal input gives equal factors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

HOOI_SWEEPS = 3


def factorize(module: nn.Module, method: str, args: Mapping[str, int]) -> nn.Sequential:
    """The factors of `module` in execution order; the last one carries the bias.

    ValueError for weights that are not finite. `args` are those of the plan's decompose step.
    """
    assert isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d)
    weight = module.weight.detach().double().cpu()
    if not torch.isfinite(weight).all():
        raise ValueError("nan: weights that are not finite cannot be decomposed")
    if method == "svd":
        first, second = _truncated(weight.flatten(1), args["rank"])
        factors = _linear_factors(module, first, second)
    elif method == "spatial-svd":
        factors = _spatial_factors(module, weight, args["rank"])
    else:
        factors = _tucker_factors(module, weight, args["rank_in"], args["rank_out"])
    if module.bias is not None:
        factors[-1].bias = nn.Parameter(module.bias.detach().clone())
    return nn.Sequential(*factors)


def _truncated(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """`matrix` (out, in) ≈ second @ first with first (rank, in), second (out, rank), singular values shared."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    root = s[:rank].sqrt()
    return root[:, None] * vh[:rank], u[:, :rank] * root


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


def _spatial_factors(module: nn.Module, weight: Tensor, rank: int) -> list[Any]:
    assert isinstance(module, nn.Conv2d)
    n_out, n_in, rows, columns = weight.shape
    matrix = weight.permute(0, 3, 1, 2).reshape(n_out * columns, n_in * rows)
    first, second = _truncated(matrix, rank)
    (ph, pw), (sh, sw), (dh, dw) = _pair(module.padding), _pair(module.stride), _pair(module.dilation)
    vertical = nn.Conv2d(n_in, rank, (rows, 1), (sh, 1), (ph, 0), (dh, 1), bias=False)
    horizontal = nn.Conv2d(rank, n_out, (1, columns), (1, sw), (0, pw), (1, dw), bias=False)
    vertical.weight = nn.Parameter(first.float().reshape(rank, n_in, rows, 1).contiguous())
    across = second.reshape(n_out, columns, rank).permute(0, 2, 1)
    horizontal.weight = nn.Parameter(across.float().reshape(n_out, rank, 1, columns).contiguous())
    return [vertical, horizontal]


def _tucker_factors(module: nn.Module, weight: Tensor, rank_in: int, rank_out: int) -> list[Any]:
    assert isinstance(module, nn.Conv1d | nn.Conv2d)
    kernel = weight.flatten(2)  # (out, in, k)
    u_in = _leading(kernel.transpose(0, 1).flatten(1), rank_in)
    u_out = _leading(kernel.flatten(1), rank_out)
    for _ in range(HOOI_SWEEPS):
        u_out = _leading(torch.einsum("oik,ir->ork", kernel, u_in).flatten(1), rank_out)
        u_in = _leading(torch.einsum("oik,or->irk", kernel, u_out).flatten(1), rank_in)
    core = torch.einsum("oik,ir,os->srk", kernel, u_in, u_out)
    kind: Any = type(module)
    factors = [kind(weight.shape[1], rank_in, 1, bias=False),
               kind(rank_in, rank_out, module.kernel_size, module.stride, module.padding, module.dilation, bias=False),
               kind(rank_out, weight.shape[0], 1, bias=False)]
    for factor, value in zip(factors, (u_in.T, core, u_out), strict=True):
        factor.weight = nn.Parameter(value.float().reshape(factor.weight.shape).contiguous())
    return factors


def _leading(matrix: Tensor, rank: int) -> Tensor:
    """The leading left singular vectors, from the (small) Gram matrix."""
    _, vectors = torch.linalg.eigh(matrix @ matrix.T)
    leading: Tensor = vectors[:, -rank:].flip(1)
    return leading


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
