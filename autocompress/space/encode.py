"""The way back from a plan to a setting of a space's knobs: how a plan of another study is tried in this one."""

from __future__ import annotations

from autocompress.core.plan import Plan
from autocompress.space.space import KnobKey, Space, Value
from autocompress.techniques.apply import technique_of
from autocompress.techniques.base import whole_parts


def encode(space: Space, plan: Plan) -> dict[KnobKey, Value]:
    """A setting that decodes to `plan`, of any space of the same network, or to what is near it where the space cannot
    say it: numbers go to the nearest that is legal, choices that there are not to the uniform one.

    InputError when the plan is not one of this network.
    """
    for step in plan.steps:
        technique_of(step, space.techniques)
    parts, values = whole_parts(space.table), space.uniform()
    for name, row in space.techniques.items():
        steps = plan.find(name)
        if name in space.settings:
            for key, value in row.encode(space, steps, parts).items():
                if key in space.by_key:
                    values[key] = space.by_key[key].legal(value)
        for step in steps.values():
            row.effect(step, space.table, parts)
    return values
