"""Predicted harm of a plan, from the sensitivity table: step by step, and as a whole."""

from __future__ import annotations

from collections.abc import Mapping

from autocompress.core.layer import Part
from autocompress.core.plan import Plan, Step
from autocompress.core.sensitivity import Damages
from autocompress.space.space import Space
from autocompress.techniques import Parts, resolve
from autocompress.techniques.decompose import rank_args, split

Key = tuple[str, str]
"""Technique and site."""


def step_harms(space: Space, plan: Plan, damages: Damages) -> dict[Key, float | None]:
    """Harm of each step, in nats, its numbers moved to the nearest ones in the table. None where the table has nothing
    of the kind: it knows neither dropped blocks nor zeros."""
    structure = [step for step in plan.steps if step.technique in ("drop", "prune")]
    parts = resolve(space.table, Plan.of(structure))
    return {(step.technique, step.site): _harm(step, space, parts, damages) for step in plan.steps}


def plan_harm(space: Space, plan: Plan, damages: Damages) -> float | None:
    """The sum over the steps; None where the table does not know one of them."""
    known = [harm for harm in step_harms(space, plan, damages).values() if harm is not None]
    return sum(known) if len(known) == len(plan.steps) else None


def _harm(step: Step, space: Space, parts: Parts, damages: Damages) -> float | None:
    if step.technique == "prune" and step.site in damages.prune:
        channels = next(group.channels for group in space.table.groups if group.name == step.site)
        return _nearest({channels: 0.0, **damages.prune[step.site]}, float(step.args["keep"]))
    if step.technique == "quantize":
        bits = int(step.args["weight_bits"])
        return 0.0 if bits >= 16 else damages.bits.get(step.site, {}).get(bits)
    method = str(step.args.get("method"))
    known = damages.share.get(step.site, {}).get(method)
    if step.technique != "decompose" or not known:
        return None
    (part,) = parts[step.site]
    ranks = {name: value for name, value in step.args.items() if isinstance(value, int)}
    by_weights = {_weights(part, method, args): harm for share, harm in known.items()
                  if (args := rank_args(part, method, share, space.profile.rank_multiple)) is not None}
    return _nearest(by_weights, _weights(part, method, ranks)) if by_weights else None


def _weights(part: Part, method: str, ranks: dict[str, int]) -> float:
    return float(sum(factor.weights for factor in split(part, method, ranks)))


def _nearest(harms: Mapping[int, float] | Mapping[float, float], wanted: float) -> float:
    return harms[min(harms, key=lambda known: abs(known - wanted))]  # type: ignore[index]
