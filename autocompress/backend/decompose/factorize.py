"""Low-rank factors of one weight, as modules that take the layer's place.

Truncated SVD (Linear, 1×1), the same of a wide kernel (Zhang et al., TPAMI 2016: k×k, then 1×1), spatial SVD
(Jaderberg et al., BMVC 2014), Tucker-2 by HOOI (Kim et al., ICLR 2016) and CP (`cp.py`). With the moments of the
layer's input the error that is made small is that of the output, not of the weight: what "SVD-LLM" (Wang et al.,
ICLR 2025) does by whitening, SVDs do here by the principal directions of the output, which are the same factors
without inverting anything. The last factor is refitted by least squares, and the bias takes up the mean of what is
left. Equal input gives equal factors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.backend.decompose.cp import canonical
from autocompress.backend.layers.kinds import Conv
from autocompress.backend.layers.transposed import TransposedConv
from autocompress.backend.statistics.reconstruct import cholesky, damped, unusable

DAMPING = 1e-3
HOOI_SWEEPS = 2
EXACT = 512
"""Size of a square matrix up to which all its eigenvectors are computed; weights of no more elements are taken in
float64."""
POWER_STEPS, SPARE = 3, 16
"""Subspace iterations for the leading eigenvectors of a larger one, and how many more are carried along. One is enough
where a sweep improves what the sweep before found."""

_PLAIN = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
"""Convolutions by the axes of their kernels."""


class Factors(nn.Sequential):
    """The factors of one layer, in its place. `weight` is there for networks that ask a layer for the type or the
    device of its weight."""

    @property
    def weight(self) -> Tensor:
        """That of the last factor."""
        last: Tensor = self[-1].weight  # type: ignore[assignment]
        return last


@dataclass(frozen=True)
class _Values:
    """Weights of the factors but the last as `leading`, what they make of the layer's input as a matrix, `basis`
    (M, d), and the last factor behind it, `last` (out, M); M / rank columns for each channel between."""

    leading: list[Tensor]
    basis: Tensor
    last: Tensor


def factorize(module: nn.Module, method: str, args: Mapping[str, int], covariance: Tensor | None = None,
              mean: Tensor | None = None, what: str = "a decomposed layer") -> nn.Sequential:
    """The factors of `module` in execution order; the last one carries the bias.

    `covariance` `(d, d)` and `mean` `(d,)` of the input, d columns of the weight as a matrix or, for wide
    convolutions, channels. `args` are those of the plan's decompose step. ValueError for weights that are not
    finite, TrialError for such moments and where CP does not settle.
    """
    weight = module.weight
    assert isinstance(weight, Tensor)
    weight = weight.detach().cpu()
    if not torch.isfinite(weight).all():
        raise ValueError("nan: weights that are not finite cannot be decomposed")
    weight = weight.double() if weight.numel() <= EXACT**2 else weight
    known = None if covariance is None else damped(covariance.to(weight), DAMPING)
    if known is not None and not known.sum().isfinite():  # of a large matrix a fifteenth of the time of asking each
        raise unusable(what)
    found = _METHODS[method](weight, args, known, what)
    matrix, basis, last = weight.flatten(1), found.basis, found.last
    if known is not None and len(known) == matrix.shape[1]:
        last = last + _correction(matrix - last @ basis, known, basis, what)
    factors: Any = shapes(module, method, args)
    if mean is not None and factors[-1].bias is not None:
        each = mean.to(weight).repeat_interleave(matrix.shape[1] // len(mean))
        factors[-1].bias.data += matrix @ each - last @ (basis @ each)
    rank = len(found.leading[-1])
    last = last.reshape(len(last), rank, -1)
    own = found.leading[-1].flatten(1).norm(dim=1).clamp_min(1e-20)
    even = (last.norm(dim=(0, 2)) / own).sqrt().clamp_min(1e-10)  # both sides of a channel equally large
    found.leading[-1] = found.leading[-1] * even.reshape(-1, *[1] * (found.leading[-1].dim() - 1))
    for factor, value in zip(factors, (*found.leading, last / even[:, None]), strict=True):
        factor.weight.data = value.float().reshape(factor.weight.shape).contiguous()
    result: nn.Sequential = factors
    return result


def shapes(module: nn.Module, method: str, args: Mapping[str, int]) -> nn.Sequential:
    """The factors with weights of zero; the last has the layer's bias."""
    assert isinstance(module, nn.Linear | Conv)
    axes = 0 if isinstance(module, nn.Linear) else len(module.kernel_size)
    every, none = (True,) * axes, (False,) * axes
    if method in ("svd", "channel-svd"):
        spans, ranks = [every, none], [args["rank"]]
    elif method == "spatial-svd":
        spans, ranks = [(True, False), (False, True)], [args["rank"]]
    else:
        spans = [none, every, none]
        ranks = [args["rank"]] * 2 if method == "cp" else [args["rank_in"], args["rank_out"]]
    ends = [module.weight.shape[1], *ranks, module.weight.shape[0]]
    groups = [1, args["rank"], 1] if method == "cp" else [1] * len(spans)
    factors = [_factor(module, ends[i], ends[i + 1], span, groups[i]) for i, span in enumerate(spans)]
    for factor in factors:
        nn.init.zeros_(factor.weight)
    if module.bias is not None:
        factors[-1].bias = nn.Parameter(module.bias.detach().clone())
    return Factors(*factors)


def _factor(module: nn.Module, n_in: int, n_out: int, spans: tuple[bool, ...], groups: int) -> Any:
    """A layer of the same kind that has the kernel, stride, padding and dilation of `module` along some axes."""
    if isinstance(module, nn.Linear):
        return nn.utils.skip_init(nn.Linear, n_in, n_out, bias=False)  # type: ignore[no-untyped-call]
    assert isinstance(module, Conv)

    def along(sizes: Any, otherwise: int) -> Any:
        return tuple(size if here else otherwise for size, here in zip(sizes, spans, strict=True))

    if isinstance(module, TransposedConv) and all(spans):
        return TransposedConv(n_in, n_out, module.kernel_size, module.stride, module.padding, module.output_padding,
                              module.dilation, groups, bias=False)
    padding = module.padding if isinstance(module.padding, str) else along(module.padding, 0)
    kind: Any = _PLAIN[len(spans)] if isinstance(module, TransposedConv) else type(module)
    return nn.utils.skip_init(  # type: ignore[no-untyped-call]
        kind, n_in, n_out, along(module.kernel_size, 1), along(module.stride, 1), padding, along(module.dilation, 1),
        groups=groups, bias=False)


def _correction(missing: Tensor, known: Tensor, basis: Tensor, what: str) -> Tensor:
    """What to add to the last factor `(out, M)` behind `basis` (M, d) to make up best for `missing` (out, d)."""
    seen = basis.double() @ known.double()
    own = cholesky(damped(seen @ basis.double().T, 1e-6), what)
    return torch.cholesky_solve(seen @ missing.double().T, own).T.to(missing)


def _svd(weight: Tensor, args: Mapping[str, int], known: Tensor | None, _what: str) -> _Values:
    matrix = weight.flatten(1)
    outputs = _directions(_seen(weight.flatten(2) if weight.dim() > 2 else matrix[:, :, None], known) @ matrix.T,
                          args["rank"])
    basis = outputs.T @ matrix
    return _Values([basis.reshape(-1, *weight.shape[1:])], basis, outputs)


def _spatial(weight: Tensor, args: Mapping[str, int], known: Tensor | None, _what: str) -> _Values:
    n_out, n_in, rows, columns = weight.shape
    matrix = weight.permute(0, 3, 1, 2).reshape(n_out * columns, n_in * rows)
    column = known
    if known is not None and len(known) != n_in:  # of one column of a patch: the mean over its columns
        blocks = known.reshape(n_in, rows, columns, n_in, rows, columns)
        column = blocks.diagonal(dim1=2, dim2=5).mean(-1).reshape(n_in * rows, n_in * rows)
    outputs = _directions(_seen(matrix.reshape(-1, n_in, rows), column) @ matrix.T, args["rank"])
    down = outputs.T @ matrix  # (rank, in · rows)
    across = outputs.reshape(n_out, columns, -1).transpose(1, 2)
    basis = torch.einsum("rci,jk->rjcik", down.reshape(-1, n_in, rows), torch.eye(columns).to(down))
    return _Values([down], basis.reshape(-1, n_in * rows * columns), across.flatten(1))


def _tucker(weight: Tensor, args: Mapping[str, int], known: Tensor | None, what: str) -> _Values:
    white, colour = _whitened(weight, known, what)
    u_in = _directions(_gram(white.transpose(0, 1)), args["rank_in"])
    u_out = _directions(_gram(white), args["rank_out"])
    for _ in range(HOOI_SWEEPS):
        u_out = _directions(_gram(torch.einsum("oik,ir->ork", white, u_in)), args["rank_out"], u_out)
        u_in = _directions(_gram(torch.einsum("oik,or->irk", white, u_out)), args["rank_in"], u_in)
    core = torch.einsum("oik,ir,os->srk", white, u_in, u_out)
    before = colour(u_in)
    return _Values([before, core], torch.einsum("srk,ri->sik", core, before).flatten(1), u_out)


def _cp(weight: Tensor, args: Mapping[str, int], known: Tensor | None, what: str) -> _Values:
    white, colour = _whitened(weight, known, what)
    u_out, u_in, taps = canonical(white, args["rank"], what)
    before = colour(u_in)
    return _Values([before, taps.T], (before[:, :, None] * taps.T[:, None]).flatten(1), u_out)


_METHODS: dict[str, Callable[[Tensor, Mapping[str, int], Tensor | None, str], _Values]] = {
    "svd": _svd, "channel-svd": _svd, "spatial-svd": _spatial, "tucker2": _tucker, "cp": _cp,
}


def _seen(rows: Tensor, known: Tensor | None) -> Tensor:
    """`rows` (n, in, taps) times the covariance, `(n, in · taps)`; that of channels alone holds at every tap."""
    if known is None or len(known) == rows.shape[1] * rows.shape[2]:
        return rows.flatten(1) if known is None else rows.flatten(1) @ known
    return (rows.transpose(1, 2) @ known).transpose(1, 2).flatten(1)


def _whitened(weight: Tensor, known: Tensor | None, what: str) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """`(out, in, taps)` in coordinates of input channels that are unrelated, and the way back for factors
    `(in, rank)` of it, `(rank, in)`."""
    kernel = weight.flatten(2)
    n_in, area = kernel.shape[1:]
    if known is None:
        return kernel, lambda factor: factor.T
    channels = known if len(known) == n_in else \
        known.reshape(n_in, area, n_in, area).diagonal(dim1=1, dim2=3).mean(-1)  # mean over the kernel
    whitening = cholesky(channels, what)
    white = (kernel.transpose(1, 2) @ whitening).transpose(1, 2)
    return white, lambda factor: torch.linalg.solve_triangular(whitening.T, factor, upper=True).T


def _gram(rows: Tensor) -> Tensor:
    flat = rows.flatten(1)
    return flat @ flat.T


def _directions(gram: Tensor, rank: int, start: Tensor | None = None) -> Tensor:
    """The leading eigenvectors `(n, rank)` of a positive matrix, about, or improved from `start`."""
    if start is None and (len(gram) <= EXACT or rank + SPARE > len(gram) // 2):
        exact: Tensor = torch.linalg.eigh(gram).eigenvectors[:, -rank:].flip(1)
        return exact
    steps = POWER_STEPS if start is None else 1
    if start is None:
        start = torch.randn(len(gram), rank + SPARE, generator=torch.Generator().manual_seed(0)).to(gram)
    for _ in range(steps):
        start = torch.linalg.qr(gram @ start).Q
    inner: Tensor = torch.linalg.eigh(start.T @ gram @ start).eigenvectors[:, -rank:].flip(1)
    return start @ inner
