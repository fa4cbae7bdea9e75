"""The way back from a plan to a setting of a space's knobs: how a plan of another study is tried in this one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from autocompress.core.layer import Part
from autocompress.core.plan import Plan, Scalar, Step
from autocompress.core.sparsity import UNSTRUCTURED
from autocompress.space.space import ALL_LAYERS, Knob, Space, Value
from autocompress.techniques import resolve, sparsify
from autocompress.techniques.decompose import rank_args, split
from autocompress.techniques.prune import DEFAULT_CRITERION
from autocompress.techniques.quantize import DEFAULTS

SHARES = 512
"""Shares that are tried where the weights that factors hold do not lead back to their ranks."""


def encode(space: Space, plan: Plan) -> dict[str, Value]:
    """A setting that decodes to `plan`, of any space of the same network, or to what is near it where the space cannot
    say it: numbers go to the nearest that is legal, choices that there are not to the uniform one.

    InputError when the plan is not one of this network.
    """
    steps = {technique: plan.find(technique) for technique in ("drop", "prune", "decompose", "sparsify", "quantize")}
    pruned = resolve(space.table, Plan((*steps["drop"].values(), *steps["prune"].values())))
    channels = {group.name: group.channels for group in space.table.groups}
    values = space.uniform()
    for knob in space.knobs:
        kind, site = knob.name.split(":", 1)
        wanted: Value | None = None
        if kind == "drop":
            wanted = int(site in steps["drop"])
        elif kind == "prune" and site in steps["prune"]:
            wanted = 1 - int(steps["prune"][site].args["keep"]) / channels[site]
        elif kind in ("method", "share") and site in steps["decompose"] and pruned[site]:
            step = steps["decompose"][site]
            wanted = str(step.args["method"]) if kind == "method" else _share(space, pruned[site][0], step, knob)
        elif kind in ("pattern", "density") and site in steps["sparsify"]:
            args = steps["sparsify"][site].args
            wanted = args.get(kind, None if args["pattern"] == UNSTRUCTURED else knob.high)
        elif kind == "bits":
            wanted = steps["quantize"][site].args["weight_bits"] if site in steps["quantize"] else 32
        elif kind == "act":
            read = [s for s in steps["quantize"].values() if not space.table.by_name[s.site].float_activations
                    and s.site not in space.unpaying]
            wanted = _activation_bits(read, site)
        elif kind == "criterion":
            wanted = _commonest((s.args for s in steps["prune"].values()), kind, DEFAULT_CRITERION)
        elif kind == "sparse-criterion":
            wanted = _commonest((s.args for s in steps["sparsify"].values()), "criterion", sparsify.DEFAULT_CRITERION)
        elif kind in DEFAULTS:
            # A step leaves out what does not matter at its width: those that say something speak for all.
            saying = [s.args for s in steps["quantize"].values() if kind in s.args]
            wanted = _commonest(saying, kind, DEFAULTS[kind])
        if wanted is not None:
            values[knob.name] = _legal(knob, wanted, values[knob.name])
    return values


def _legal(knob: Knob, wanted: Value, uniform: Value) -> Value:
    if not knob.choices:
        return min(max(float(wanted), knob.low), knob.high)
    if wanted in knob.choices:
        return wanted
    if knob.name.startswith(("bits:", "act:")):
        return min((int(choice) for choice in knob.choices), key=lambda bits: (abs(bits - int(wanted)), bits))
    return uniform


def _share(space: Space, part: Part, step: Step, knob: Knob) -> float:
    """The share of the weights at which the space gives the step's ranks, or the one that these hold."""
    method = str(step.args["method"])
    args = {name: value for name, value in step.args.items() if isinstance(value, int)}
    held = sum(factor.weights for factor in split(part, method, args)) / part.weights
    grid = (knob.low + (knob.high - knob.low) * i / SHARES for i in range(SHARES + 1))
    fits = (share for share in (held, *sorted(grid, key=lambda share: abs(share - held)))
            if knob.low <= share <= knob.high and rank_args(part, method, share, space.profile.rank_multiple) == args)
    return next(fits, held)


def _activation_bits(steps: Iterable[Step], site: str) -> Scalar | None:
    """Of one layer, or those that most layers with integer weights have; None where nothing tells."""
    asked = [s.args for s in steps if int(s.args["weight_bits"]) <= 8 and site in (ALL_LAYERS, s.site)]
    return _commonest(asked, "activation_bits", 32) if asked else None


def _commonest(args: Iterable[dict[str, Scalar]], name: str, default: Scalar) -> Scalar:
    counted = Counter(each.get(name, default) for each in args)
    return max(counted, key=lambda value: (counted[value], str(value)), default=default)
