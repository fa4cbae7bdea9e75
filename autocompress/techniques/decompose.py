"""Low-rank factors in place of one weight.

* `svd` (Linear, 1×1 convolution): `{"method": "svd", "rank": r}`; two layers.
* `channel-svd` (wider kernels; Zhang et al. 2016): the kernel to `rank` channels, then 1×1.
* `spatial-svd` (k×k convolution; Jaderberg et al. 2014): k×1 then 1×k; `rank`.
* `tucker2` (convolution; Kim et al. 2016): 1×1, k×k core, 1×1; `rank_in`, `rank_out`.
  Both take transposed convolutions too: the kernel's factor is transposed, those beside it are plain.
* `cp` (convolution; Lebedev et al. 2015): 1×1, depthwise k×k, 1×1; `rank`. Only where a space asks for it: slower to
  compute, and worse than the others before training.

Shapes come from the layer as pruned. A rank that saves no parameters is never offered.
"""

from __future__ import annotations

from math import prod, sqrt

import msgspec

from autocompress.core.layer import Layer, LayerTable, Part
from autocompress.core.plan import Plan, Step
from autocompress.errors import InputError
from autocompress.hardware.profile import HardwareProfile
from autocompress.techniques.base import Parts, Technique, layer_at, present

METHODS = ("svd", "channel-svd", "spatial-svd", "tucker2", "cp")
DEFAULT_METHODS = ("svd", "channel-svd", "spatial-svd", "tucker2")


def methods_for(layer: Layer) -> tuple[str, ...]:
    """The decompositions that make sense for a layer; none for grouped ones."""
    if layer.not_compressible_reason or layer.kind not in ("conv", "linear") or layer.groups > 1:
        return ()
    if layer.transposed:
        return ("channel-svd", "tucker2") if prod(layer.kernel) > 1 else ()
    if layer.kind == "linear" or prod(layer.kernel) == 1:
        return ("svd",)
    if len(layer.kernel) == 2 and min(layer.kernel) > 1:
        return ("channel-svd", "spatial-svd", "tucker2", "cp")
    return ("channel-svd", "tucker2", "cp")


def rank_args(part: Part, method: str, share: float, multiple: int) -> dict[str, int] | None:
    """Ranks at which the factors hold about `share` of the part's weights; None when nothing is saved."""
    n_in, n_out, area = part.in_channels, part.out_channels, prod(part.kernel)
    if method == "tucker2":
        # rho scales both ranks: rho (in² + out²) + rho² in·out·k² = share · weights
        a, b = n_in * n_out * area, n_in**2 + n_out**2
        rho = (-b + sqrt(b * b + 4 * a * share * part.weights)) / (2 * a)
        args = {"rank_in": _legal_rank(n_in, rho * n_in, multiple),
                "rank_out": _legal_rank(n_out, rho * n_out, multiple)}
    else:
        full, each = _rank_facts(part, method)
        args = {"rank": _legal_rank(full, share * part.weights / each, multiple)}
    factors = split(part, method, args)
    return args if sum(factor.weights for factor in factors) < part.weights else None


def _legal_rank(full: int, wanted: float, multiple: int) -> int:
    """The multiple nearest to `wanted` in [1, full]; a small rank takes a smaller multiple."""
    while multiple > 1 and full < 2 * multiple:
        multiple //= 2
    return min(full, max(multiple, round(wanted / multiple) * multiple))


def _rank_facts(part: Part, method: str) -> tuple[int, int]:
    """The rank at which nothing is lost, and the weights that each unit of rank costs."""
    n_in, n_out, area = part.in_channels, part.out_channels, prod(part.kernel)
    if method == "spatial-svd":
        rows, columns = n_in * part.kernel[0], n_out * part.kernel[1]
        return min(rows, columns), rows + columns
    if method == "cp":
        return area * min(n_in, n_out), n_in + area + n_out
    return min(n_in * area, n_out), n_in * area + n_out


def split(part: Part, method: str, args: dict[str, int]) -> tuple[Part, ...]:
    """The factors, in execution order; only the last keeps the bias."""
    def factor(index: int, n_in: int, n_out: int, kernel: tuple[int, ...], positions: int, source: int,
               groups: int = 1) -> Part:
        return msgspec.structs.replace(part, name=f"{part.name}.{index}", in_channels=n_in, out_channels=n_out,
                                       kernel=kernel, positions=positions, in_positions=source, groups=groups,
                                       transposed=part.transposed and kernel == part.kernel,
                                       out_positions=part.out_positions if kernel == part.kernel else 0, bias=False)

    before, after = part.in_positions, part.positions
    last = part.out_positions if part.transposed else after
    ones = (1,) * len(part.kernel)
    if method in ("svd", "channel-svd"):
        # The first factor strides, so both run at output positions.
        factors = [factor(0, part.in_channels, args["rank"], part.kernel, after, before),
                   factor(1, args["rank"], part.out_channels, ones, last, last)]
    elif method == "spatial-svd":
        middle = _middle_positions(part)
        factors = [factor(0, part.in_channels, args["rank"], (part.kernel[0], 1), middle, before),
                   factor(1, args["rank"], part.out_channels, (1, part.kernel[1]), after, middle)]
    elif method == "cp":
        factors = [factor(0, part.in_channels, args["rank"], ones, before, before),
                   factor(1, args["rank"], args["rank"], part.kernel, after, before, args["rank"]),
                   factor(2, args["rank"], part.out_channels, ones, after, after)]
    else:
        factors = [factor(0, part.in_channels, args["rank_in"], ones, before, before),
                   factor(1, args["rank_in"], args["rank_out"], part.kernel, after, before),
                   factor(2, args["rank_out"], part.out_channels, ones, last, last)]
    ends = [part.reads, *(factor.name for factor in factors[:-1]), part.writes]
    return tuple(msgspec.structs.replace(factor, reads=ends[i], writes=ends[i + 1],
                                         bias=part.bias and factor is factors[-1])
                 for i, factor in enumerate(factors))


def _middle_positions(part: Part) -> int:
    """Positions between the k×1 and the 1×k factor: rows already strided, columns not yet."""
    return round(sqrt(part.positions * part.in_positions))


def _check(step: Step, plan: Plan, table: LayerTable, profile: HardwareProfile) -> None:
    layer = layer_at(step, table)
    legal = methods_for(layer)
    if step.args.get("method") not in legal:
        raise InputError(f"`method` at {step.site} must be one of {legal or '(none: ' + reason(layer) + ')'}, "
                         f"but got {step.args.get('method')!r}")
    names = ("rank_in", "rank_out") if step.args["method"] == "tucker2" else ("rank",)
    for name in names:
        rank = step.args.get(name)
        if not isinstance(rank, int) or rank < 1:
            raise InputError(f"`{name}` at {step.site} must be a whole number of at least 1, but got {rank!r}")


def reason(layer: Layer) -> str:
    """Why a layer has no decomposition."""
    return layer.not_compressible_reason or ("grouped convolutions are not decomposed" if layer.groups > 1 else
                            "transposed convolutions of one position are not decomposed" if layer.transposed else
                            f"{layer.kind} layers are not decomposed")


def _effect(step: Step, table: LayerTable, parts: Parts) -> None:
    layer_at(step, table)
    (part,) = present(step, parts)
    args = {name: value for name, value in step.args.items() if isinstance(value, int)}
    method = str(step.args["method"])
    for name, most in (("rank_in", part.in_channels), ("rank_out", part.out_channels)):
        if args.get(name, 0) > most:
            raise InputError(f"`{name}` at {step.site} may be at most {most}, the channels of the layer as pruned, "
                             f"but got {args[name]}")
    factors = split(part, method, args)
    if sum(factor.weights for factor in factors) >= part.weights:
        raise InputError(_too_high(step.site, part, method, args, sum(factor.weights for factor in factors)))
    parts[step.site] = factors


def _too_high(site: str, part: Part, method: str, args: dict[str, int], weights: int) -> str:
    """What must hold for ranks that save nothing at the layer as pruned, with the largest that do."""
    name, fixed = ("rank_out", f" beside a `rank_in` of {args['rank_in']}") if method == "tucker2" else ("rank", "")
    low, high = 0, args[name]
    while high - low > 1:
        middle = (low + high) // 2
        saves = sum(f.weights for f in split(part, method, {**args, name: middle})) < part.weights
        low, high = (middle, high) if saves else (low, middle)
    legal = f"`{name}` may be at most {low}{fixed}" if low else "no rank of this method does"
    return (f"{method} at {site} must leave fewer weights than the {part.weights:,} of the layer as pruned, but "
            f"{', '.join(f'`{key}` {value}' for key, value in args.items())} makes {weights:,}: {legal}")


DECOMPOSE = Technique("decompose", _check, _effect)
