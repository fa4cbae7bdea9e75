"""Predicted sensitivity of a plan, from the sensitivity table: step by step, and as a whole."""

from __future__ import annotations

from autocompress.core.plan import Plan
from autocompress.core.sensitivity import Decision, SensitivityTable
from autocompress.space.space import Space
from autocompress.techniques.base import whole_parts


def step_sensitivities(space: Space, plan: Plan, sensitivity_table: SensitivityTable) -> dict[Decision,
                                                                                              float | None]:
    """Predict the sensitivity of each step, in nats, its numbers moved to the nearest ones in the table; None where the
    table has nothing of the kind: it has neither dropped blocks nor zeros."""
    parts, by_step = whole_parts(space.table), dict[Decision, float | None]()
    for name, row in space.techniques.items():
        steps = plan.find(name)
        for site, step in steps.items():
            by_step[name, site] = row.sensitivity(space, step, sensitivity_table.costs(name, site), parts)
        for step in steps.values():
            row.effect(step, space.table, parts)
    return {(step.technique, step.site): by_step.get((step.technique, step.site)) for step in plan.steps}


def plan_sensitivity(space: Space, plan: Plan, sensitivity_table: SensitivityTable) -> float | None:
    """The sum over the steps, in nats; None where the table has no prediction for one of them."""
    predicted = [nats for nats in step_sensitivities(space, plan, sensitivity_table).values() if nats is not None]
    return sum(predicted) if len(predicted) == len(plan.steps) else None
