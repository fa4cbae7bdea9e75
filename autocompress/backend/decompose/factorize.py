"""Low-rank decomposition of one weight by SVD, Tucker-2 or CP into modules that take the layer's place.

Methods: truncated SVD (Linear, 1×1), the same of a wide kernel (Zhang et al., TPAMI 2016: k×k, then 1×1), spatial SVD
(Jaderberg et al., BMVC 2014), Tucker-2 by HOOI (Kim et al., ICLR 2016) and CP (`cp.py`). With the moments of the
layer's input the error of the output is minimised instead of the weight's. What "SVD-LLM" (Wang et al., ICLR 2025)
does by whitening, the SVDs do here by the principal directions of the output, which gives the same factors without an
inverse. The last factor is refitted by least squares, and the bias absorbs the mean of the remaining error. Equal
input gives equal factors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.backend.decompose.cp import cp_factors
from autocompress.backend.layers.kinds import Conv
from autocompress.backend.layers.transposed import TransposedConv
from autocompress.backend.statistics.reconstruct import cholesky, damped, unusable

# Damping of the input's covariance; see `damped`.
DAMPING = 1e-3
# Sweeps of higher-order orthogonal iteration.
HOOI_SWEEPS = 2
# Largest size of a square matrix all of whose eigenvectors are computed. Weights with no more elements than such a
# matrix are decomposed in float64.
EXACT = 512
# Subspace iterations for the leading eigenvectors of a larger matrix, and the number of spare vectors that they carry.
# One iteration is enough where a sweep of HOOI improves the vectors of the sweep before.
POWER_STEPS, SPARE = 3, 16

# Convolutions by the axes of their kernels.
_PLAIN = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class Factors(nn.Sequential):
    """The factors of one layer, in execution order.

    Networks read more of a layer than its output (the type of its `weight`, its `stride` to compute a length), so the
    factors have what the layer had: geometry as it was, features and weight as they are.

    Args:
        factors: The layers.
        layer: The layer in whose place they stand.
    """

    def __init__(self, *factors: nn.Module, layer: nn.Module) -> None:
        super().__init__(*factors)
        self.geometry = {name: getattr(layer, name) for name in _GEOMETRY if hasattr(layer, name)}

    def __getattr__(self, name: str) -> Any:
        """What a layer has: of the first factor what is read, of the last one what is written, else its geometry."""
        if name in _GEOMETRY and name in self.__dict__.get("geometry", ()):
            return self.geometry[name]
        if name in ("in_channels", "in_features"):
            return getattr(self[0], name)
        if name in ("out_channels", "out_features", "bias", "weight"):
            return getattr(self[-1], name)
        return super().__getattr__(name)


_GEOMETRY = ("kernel_size", "stride", "padding", "dilation", "padding_mode", "groups")


@dataclass(frozen=True)
class _Values:
    """The weights of a decomposition.

    Attributes:
        leading: The weights of all factors but the last.
        basis: The product of these factors as a matrix on the layer's input, `(M, d)`, with M / rank rows for each
            channel between the last two factors.
        last: The weight of the last factor, `(out, M)`.
    """

    leading: list[Tensor]
    basis: Tensor
    last: Tensor


def factorize(module: nn.Module, method: str, args: Mapping[str, int], covariance: Tensor | None = None,
              mean: Tensor | None = None, what: str = "a decomposed layer") -> nn.Sequential:
    """Decompose the weight of a layer.

    Args:
        module: The convolution or linear layer; it stays as it is.
        method: A method of `techniques.decompose.METHODS`.
        args: The arguments of the plan's decompose step, the ranks among them.
        covariance: The covariance `(d, d)` of the input, in columns of the weight as a matrix or, for wide
            convolutions, in channels; without it the error of the weight is minimised.
        mean: The mean `(d,)` of the input, likewise.
        what: The layer, for an error.

    Returns:
        The factors in execution order; the last one has the bias.

    Raises:
        ValueError: The weight is not finite.
        TrialError: The covariance is not finite, or CP does not converge.
    """
    weight = module.weight
    assert isinstance(weight, Tensor)
    weight = weight.detach().cpu()
    if not torch.isfinite(weight).all():
        raise ValueError("nan: weights that are not finite cannot be decomposed")
    weight = weight.double() if weight.numel() <= EXACT**2 else weight
    damped_covariance = None if covariance is None else damped(covariance.to(weight), DAMPING)
    # One sum takes a fifteenth of the time of `isfinite` over a large matrix.
    if damped_covariance is not None and not damped_covariance.sum().isfinite():
        raise unusable(what)
    values = _METHODS[method](weight, args, damped_covariance, what)
    matrix, basis, last = weight.flatten(1), values.basis, values.last
    if damped_covariance is not None and len(damped_covariance) == matrix.shape[1]:
        last = last + _correction(matrix - last @ basis, damped_covariance, basis, what)
    factors: Any = shapes(module, method, args)
    if mean is not None and factors[-1].bias is not None:
        each = mean.to(weight).repeat_interleave(matrix.shape[1] // len(mean))
        factors[-1].bias.data += matrix @ each - last @ (basis @ each)
    rank = len(values.leading[-1])
    last = last.reshape(len(last), rank, -1)
    leading_norms = values.leading[-1].flatten(1).norm(dim=1).clamp_min(1e-20)
    balance = (last.norm(dim=(0, 2)) / leading_norms).sqrt().clamp_min(1e-10)  # both sides of a channel get equal norms
    values.leading[-1] = values.leading[-1] * balance.reshape(-1, *[1] * (values.leading[-1].dim() - 1))
    for factor, tensor in zip(factors, (*values.leading, last / balance[:, None]), strict=True):
        factor.weight.data = tensor.float().reshape(factor.weight.shape).contiguous()
    result: nn.Sequential = factors
    return result


def shapes(module: nn.Module, method: str, args: Mapping[str, int]) -> nn.Sequential:
    """Build the factors of a layer with weights of zero; the last one has the layer's bias."""
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
    return Factors(*factors, layer=module)


def _factor(module: nn.Module, n_in: int, n_out: int, spans: tuple[bool, ...], groups: int) -> Any:
    """Build a layer of the same kind with the kernel, stride, padding and dilation of `module` along some axes."""
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


def _correction(missing: Tensor, covariance: Tensor, basis: Tensor, what: str) -> Tensor:
    """Fit by least squares what a last factor `(out, M)` behind `basis` `(M, d)` adds towards `missing` `(out, d)`."""
    weighted = basis.double() @ covariance.double()
    gram_factor = cholesky(damped(weighted @ basis.double().T, 1e-6), what)
    return torch.cholesky_solve(weighted @ missing.double().T, gram_factor).T.to(missing)


def _svd(weight: Tensor, args: Mapping[str, int], covariance: Tensor | None, _what: str) -> _Values:
    matrix = weight.flatten(1)
    rows = weight.flatten(2) if weight.dim() > 2 else matrix[:, :, None]
    outputs = _leading_eigenvectors(_times_covariance(rows, covariance) @ matrix.T, args["rank"])
    basis = outputs.T @ matrix
    return _Values([basis.reshape(-1, *weight.shape[1:])], basis, outputs)


def _spatial(weight: Tensor, args: Mapping[str, int], covariance: Tensor | None, _what: str) -> _Values:
    n_out, n_in, rows, columns = weight.shape
    matrix = weight.permute(0, 3, 1, 2).reshape(n_out * columns, n_in * rows)
    column = covariance
    if covariance is not None and len(covariance) != n_in:  # of one column of a patch: the mean over columns
        blocks = covariance.reshape(n_in, rows, columns, n_in, rows, columns)
        column = blocks.diagonal(dim1=2, dim2=5).mean(-1).reshape(n_in * rows, n_in * rows)
    outputs = _leading_eigenvectors(_times_covariance(matrix.reshape(-1, n_in, rows), column) @ matrix.T, args["rank"])
    down = outputs.T @ matrix  # (rank, in · rows)
    across = outputs.reshape(n_out, columns, -1).transpose(1, 2)
    basis = torch.einsum("rci,jk->rjcik", down.reshape(-1, n_in, rows), torch.eye(columns).to(down))
    return _Values([down], basis.reshape(-1, n_in * rows * columns), across.flatten(1))


def _tucker(weight: Tensor, args: Mapping[str, int], covariance: Tensor | None, what: str) -> _Values:
    white, colour = _whitened(weight, covariance, what)
    u_in = _leading_eigenvectors(_gram(white.transpose(0, 1)), args["rank_in"])
    u_out = _leading_eigenvectors(_gram(white), args["rank_out"])
    for _ in range(HOOI_SWEEPS):
        u_out = _leading_eigenvectors(_gram(torch.einsum("oik,ir->ork", white, u_in)), args["rank_out"], u_out)
        u_in = _leading_eigenvectors(_gram(torch.einsum("oik,or->irk", white, u_out)), args["rank_in"], u_in)
    core = torch.einsum("oik,ir,os->srk", white, u_in, u_out)
    before = colour(u_in)
    return _Values([before, core], torch.einsum("srk,ri->sik", core, before).flatten(1), u_out)


def _cp(weight: Tensor, args: Mapping[str, int], covariance: Tensor | None, what: str) -> _Values:
    white, colour = _whitened(weight, covariance, what)
    u_out, u_in, taps = cp_factors(white, args["rank"], what)
    before = colour(u_in)
    return _Values([before, taps.T], (before[:, :, None] * taps.T[:, None]).flatten(1), u_out)


_METHODS: dict[str, Callable[[Tensor, Mapping[str, int], Tensor | None, str], _Values]] = {
    "svd": _svd, "channel-svd": _svd, "spatial-svd": _spatial, "tucker2": _tucker, "cp": _cp,
}


def _times_covariance(rows: Tensor, covariance: Tensor | None) -> Tensor:
    """Multiply `rows` `(n, in, taps)` by the covariance: `(n, in · taps)`. One of channels alone holds at every tap."""
    if covariance is None or len(covariance) == rows.shape[1] * rows.shape[2]:
        return rows.flatten(1) if covariance is None else rows.flatten(1) @ covariance
    return (rows.transpose(1, 2) @ covariance).transpose(1, 2).flatten(1)


def _whitened(weight: Tensor, covariance: Tensor | None, what: str) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Whiten the input channels of a weight.

    Returns:
        The weight `(out, in, taps)` on uncorrelated input channels, and the function that maps a factor `(in, rank)` of
        it to the weight `(rank, in)` of a layer on the channels themselves.
    """
    kernel = weight.flatten(2)
    n_in, area = kernel.shape[1:]
    if covariance is None:
        return kernel, lambda factor: factor.T
    channels = covariance if len(covariance) == n_in else \
        covariance.reshape(n_in, area, n_in, area).diagonal(dim1=1, dim2=3).mean(-1)  # mean over the kernel
    whitening = cholesky(channels, what)
    white = (kernel.transpose(1, 2) @ whitening).transpose(1, 2)
    return white, lambda factor: torch.linalg.solve_triangular(whitening.T, factor, upper=True).T


def _gram(rows: Tensor) -> Tensor:
    flat = rows.flatten(1)
    return flat @ flat.T


def _leading_eigenvectors(gram: Tensor, rank: int, start: Tensor | None = None) -> Tensor:
    """Approximate the leading eigenvectors `(n, rank)` of a positive matrix, from `start` where it is given."""
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
