"""Predicted sensitivity of a plan, from the sensitivity table: step by step, and as a whole."""

from __future__ import annotations

from collections.abc import Mapping

from autocompress.core.layer import Part
from autocompress.core.plan import Plan, Step
from autocompress.core.sensitivity import SensitivityTable
from autocompress.space.space import Space
from autocompress.techniques import Parts, resolve
from autocompress.techniques.decompose import rank_args, split

Key = tuple[str, str]
"""Technique and site."""


def step_sensitivities(space: Space, plan: Plan, sensitivity_table: SensitivityTable) -> dict[Key, float | None]:
    """Harm of each step, in nats, its numbers moved to the nearest ones in the table. None where the table has nothing
    of the kind: it knows neither dropped blocks nor zeros."""
    structure = [step for step in plan.steps if step.technique in ("drop", "prune")]
    parts = resolve(space.table, Plan.of(structure))
    return {(step.technique, step.site): _sensitivity(step, space, parts, sensitivity_table) for step in plan.steps}


def plan_sensitivity(space: Space, plan: Plan, sensitivity_table: SensitivityTable) -> float | None:
    """The sum over the steps; None where the table does not know one of them."""
    known = [
        sensitivity
        for sensitivity in step_sensitivities(space, plan, sensitivity_table).values()
        if sensitivity is not None
    ]
    return sum(known) if len(known) == len(plan.steps) else None


def _sensitivity(step: Step, space: Space, parts: Parts, sensitivity_table: SensitivityTable) -> float | None:
    if step.technique == "prune" and step.site in sensitivity_table.prune:
        channels = next(group.channels for group in space.table.groups if group.name == step.site)
        return _nearest({channels: 0.0, **sensitivity_table.prune[step.site]}, float(step.args["keep"]))
    if step.technique == "quantize":
        bits = int(step.args["weight_bits"])
        return 0.0 if bits >= 16 else sensitivity_table.bits.get(step.site, {}).get(bits)
    method = str(step.args.get("method"))
    known = sensitivity_table.share.get(step.site, {}).get(method)
    if step.technique != "decompose" or not known:
        return None
    (part,) = parts[step.site]
    ranks = {name: value for name, value in step.args.items() if isinstance(value, int)}
    by_weights = {_weights(part, method, args): sensitivity for share, sensitivity in known.items()
                  if (args := rank_args(part, method, share, space.profile.rank_multiple)) is not None}
    return _nearest(by_weights, _weights(part, method, ranks)) if by_weights else None


def _weights(part: Part, method: str, ranks: dict[str, int]) -> float:
    return float(sum(factor.weights for factor in split(part, method, ranks)))


def _nearest(sensitivities: Mapping[int, float] | Mapping[float, float], wanted: float) -> float:
    return sensitivities[min(sensitivities, key=lambda known: abs(known - wanted))]  # type: ignore[index]
