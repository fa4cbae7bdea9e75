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

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from math import prod, sqrt

import msgspec

from autocompress.core.layer import Layer, LayerTable, Part
from autocompress.core.plan import Plan, Step
from autocompress.errors import InputError
from autocompress.hardware.profile import HardwareProfile
from autocompress.techniques.base import (
    Option,
    Parts,
    Technique,
    allowed,
    layer_at,
    one_of,
    plural,
    present,
    tally,
    whole,
)
from autocompress.techniques.knobs import WHOLE, Decisions, Knob, KnobKey, Setting, Value

METHODS = ("svd", "channel-svd", "spatial-svd", "tucker2", "cp")
DEFAULT_METHODS = ("svd", "channel-svd", "spatial-svd", "tucker2")
# Kinds of knobs: the decomposition of a layer, and the share of its weights that the factors hold.
METHOD, SHARE = "method", "share"
MAX_SHARE = 0.9
# Shares that the sensitivity table has for each method.
SHARES = (0.6, 0.4, 0.25, 0.15)
# Shares that are tried where the weights that factors hold do not lead back to their ranks.
TRIED_SHARES = 512


class DecomposeSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Methods to choose from beside leaving a layer whole, and the smallest share of weights to keep."""

    methods: tuple[str, ...] = DEFAULT_METHODS
    min_share: float = 0.1
    skip: tuple[str, ...] = ()


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


def _legal_rank(full: int, rank: float, multiple: int) -> int:
    """The multiple nearest to `rank` in [1, full]; a small rank takes a smaller multiple."""
    while multiple > 1 and full < 2 * multiple:
        multiple //= 2
    return min(full, max(multiple, round(rank / multiple) * multiple))


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


class Decompose(Technique):
    """Low-rank factors; a method and a share of the weights for each layer."""

    name = "decompose"
    Settings = DecomposeSpec
    solved = (METHOD, SHARE)

    def check_settings(self, settings: DecomposeSpec) -> None:
        """InputError for a share out of range or an unknown method."""
        if not 0 < settings.min_share < 1:
            raise InputError(f"min_share must be between 0 and 1, but got {settings.min_share}")
        one_of(settings.methods, METHODS, "methods")

    def knobs(self, space: Decisions, settings: DecomposeSpec) -> list[Knob]:
        """A method and a share for each layer that has a method."""
        knobs = []
        for layer in space.table.layers:
            methods = [m for m in METHODS if m in settings.methods and m in methods_for(layer)]
            if methods and allowed(layer.name, settings.skip):
                knobs += [Knob(kind=METHOD, site=layer.name, choices=(WHOLE, *methods), plain=WHOLE, saves=True),
                          Knob(kind=SHARE, site=layer.name, low=settings.min_share, high=MAX_SHARE, plain=MAX_SHARE)]
        return knobs

    def decode(self, setting: Setting, parts: Parts) -> list[Step]:
        """A step for each layer whose ranks save weights as pruned."""
        steps = []
        for knob in setting.space.of_kind(METHOD):
            method = str(setting[knob.key])
            if method == WHOLE or not parts[knob.site]:
                continue
            args = rank_args(parts[knob.site][0], method, setting.number(SHARE, knob.site),
                             setting.space.profile.rank_multiple)
            if args is not None:
                steps.append(Step(knob.site, self.name, {METHOD: method, **args}))
        return steps

    def encode(self, space: Decisions, steps: Mapping[str, Step], parts: Parts) -> dict[KnobKey, Value]:
        """Method and share of each step."""
        values: dict[KnobKey, Value] = {}
        for knob in space.of_kind(METHOD):
            if knob.site in steps and parts[knob.site]:
                values[knob.key] = str(steps[knob.site].args[METHOD])
                share = KnobKey(SHARE, knob.site)
                values[share] = _share(space, parts[knob.site][0], steps[knob.site], space.by_key[share])
        return values

    def options(self, space: Decisions) -> Iterator[tuple[Step, Option]]:
        """`SHARES` of each method of each layer."""
        for knob in space.of_kind(METHOD):
            least = space.by_key[KnobKey(SHARE, knob.site)].low
            part = whole(space.table.by_name[knob.site])
            for method in (str(choice) for choice in knob.choices if choice != WHOLE):
                for share in SHARES:
                    args = rank_args(part, method, share, space.profile.rank_multiple) if share >= least else None
                    if args is not None:
                        yield Step(knob.site, self.name, {METHOD: method, **args}), (method, share)

    def alternatives(self, space: Decisions, site: str, costs: Mapping[Option, float]) -> list[tuple[Option, float]]:
        """The whole layer, then the options of each method that the space has."""
        knob = space.by_key.get(KnobKey(METHOD, site))
        return [((WHOLE, 1.0), 0.0), *((option, cost) for method in (knob.choices if knob else ())
                                       for option, cost in costs.items() if option[0] == method)]

    def values(self, space: Decisions, site: str, option: Option) -> dict[str, Value]:
        """Method and share of an option."""
        return {METHOD: option[0]} | ({} if option[0] == WHOLE else {SHARE: option[1]})

    def narrowed(self, space: Decisions, site: str, option: Option, parts: tuple[Part, ...]) -> tuple[Part, ...]:
        """The factors of the layer's one part."""
        if option[0] == WHOLE:
            return parts
        args = rank_args(parts[0], str(option[0]), float(option[1]), space.profile.rank_multiple)
        return () if args is None else split(parts[0], str(option[0]), args)

    def sensitivity(self, space: Decisions, step: Step, costs: Mapping[Option, float], parts: Parts) -> float | None:
        """That of the option of the same method whose factors hold the nearest number of weights."""
        method, (part,) = str(step.args.get(METHOD)), parts[step.site]
        by_weights = {_weights(part, method, args): cost for (name, share), cost in costs.items() if name == method
                      if (args := rank_args(part, method, float(share), space.profile.rank_multiple)) is not None}
        held = _weights(part, method, _ranks(step))
        return by_weights[min(by_weights, key=lambda weights: abs(weights - held))] if by_weights else None

    def check(self, step: Step, plan: Plan, table: LayerTable, profile: HardwareProfile) -> None:
        """InputError for a method that is none of the layer's, and for ranks that are no whole numbers above 0."""
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

    def effect(self, step: Step, table: LayerTable, parts: Parts) -> None:
        """The factors take the layer's place. InputError for ranks that save nothing."""
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

    def describe(self, step: Step, table: LayerTable) -> str:
        """Method and ranks."""
        return f"{step.args.get(METHOD, '?')} {rank_text(step)}"

    def summary(self, steps: Iterable[Step], table: LayerTable) -> str:
        """How many layers each method decomposes."""
        methods = Counter(str(step.args.get(METHOD, "?")) for step in steps)
        return f"{self.name} {plural(methods.total(), 'layer')} ({tally(methods)})"


def rank_text(step: Step | None) -> str:
    """`16`, or `16 × 24` for the two ranks of Tucker-2; nothing without a step."""
    if step is None:
        return ""
    return " × ".join(str(step.args[key]) for key in ("rank", "rank_in", "rank_out") if key in step.args)


def _ranks(step: Step) -> dict[str, int]:
    return {name: value for name, value in step.args.items() if isinstance(value, int)}


def _weights(part: Part, method: str, ranks: dict[str, int]) -> float:
    return float(sum(factor.weights for factor in split(part, method, ranks)))


def _share(space: Decisions, part: Part, step: Step, knob: Knob) -> float:
    """The share of the weights at which the space gives the step's ranks, or the one that these hold."""
    method, args = str(step.args[METHOD]), _ranks(step)
    held = sum(factor.weights for factor in split(part, method, args)) / part.weights
    grid = (knob.low + (knob.high - knob.low) * i / TRIED_SHARES for i in range(TRIED_SHARES + 1))
    fits = (share for share in (held, *sorted(grid, key=lambda share: abs(share - held)))
            if knob.low <= share <= knob.high and rank_args(part, method, share, space.profile.rank_multiple) == args)
    return next(fits, held)


def reason(layer: Layer) -> str:
    """Why a layer has no decomposition."""
    return layer.not_compressible_reason or ("grouped convolutions are not decomposed" if layer.groups > 1 else
                            "transposed convolutions of one position are not decomposed" if layer.transposed else
                            f"{layer.kind} layers are not decomposed")


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


DECOMPOSE = Decompose()
