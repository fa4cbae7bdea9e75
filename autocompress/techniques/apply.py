"""Plans on facts: whether their steps are legal, and what they make of a network.

The techniques are walked in the order of the table, so drop → prune → decompose → sparsify → quantise is fixed in one
place; techniques of a user's own come before those that are carried out after training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autocompress.core.layer import LayerTable
from autocompress.core.plan import Plan, Step
from autocompress.errors import InputError
from autocompress.hardware.profile import HardwareProfile
from autocompress.techniques.base import Parts, Technique, whole_parts
from autocompress.techniques.table import TECHNIQUES

# Techniques by name, in the order in which they are applied.
Techniques = Mapping[str, Technique]


def with_own(rows: Sequence[Technique]) -> dict[str, Technique]:
    """The table of techniques with those of a user's own, in the order in which they are applied.

    Args:
        rows: objects of the user's own.

    Raises:
        InputError: for an object that is no technique, or whose name is taken.
    """
    named: dict[str, Technique] = {}
    for row in rows:
        if not isinstance(row, Technique):
            raise InputError("a technique must be an object of a class that inherits "
                             f"autocompress.techniques.base.Technique, but got {row!r}")
        if row.name in TECHNIQUES or row.name in named:
            raise InputError(f"a technique must have a name of its own, but {row.name!r} is taken; choose another one")
        named[row.name] = row
    before = {name: row for name, row in TECHNIQUES.items() if not row.after_training}
    return before | named | {name: row for name, row in TECHNIQUES.items() if row.after_training}


def technique_of(step: Step, techniques: Techniques = TECHNIQUES) -> Technique:
    """The technique of a step.

    Args:
        step: of any technique.
        techniques: those at hand, by name.

    Raises:
        InputError: where the technique is not at hand.
    """
    if step.technique not in techniques:
        raise InputError(f"a technique must be one of {', '.join(techniques)}, but got {step.technique!r} at "
                         f"{step.site}; one of your own is given as search(techniques=[…]) or --technique FILE.py:NAME")
    return techniques[step.technique]


def resolve(table: LayerTable, plan: Plan, techniques: Techniques = TECHNIQUES) -> Parts:
    """The parts of the network that a plan makes, by layer of the original. Folded norms have no part.

    Args:
        table: facts about the original.
        plan: legal for it.
        techniques: by name, in the order in which they are applied.

    Raises:
        InputError: for a technique or a site that does not exist.
    """
    parts = whole_parts(table)
    by_technique: dict[str, list[Step]] = {name: [] for name in techniques}
    for step in plan.steps:
        by_technique[technique_of(step, techniques).name].append(step)
    for name, steps in by_technique.items():
        for step in steps:
            techniques[name].effect(step, table, parts)
    for layer in table.layers:
        if layer.folds_into:
            del parts[layer.name]
    return parts


def check_plan(table: LayerTable, plan: Plan, profile: HardwareProfile, techniques: Techniques = TECHNIQUES) -> None:
    """Check that a plan is legal for a network on a device.

    Args:
        table: facts about the original.
        plan: any.
        profile: the device.
        techniques: by name, in the order in which they are applied.

    Raises:
        InputError: for the first step that is not legal.
    """
    for step in plan.steps:
        technique_of(step, techniques).check(step, plan, table, profile)
    resolve(table, plan, techniques)


def at_hand(plan: Plan, techniques: Techniques = TECHNIQUES) -> Plan:
    """A plan without the steps of techniques that are not at hand: a study can be shown without the file of a user's
    own technique.

    Args:
        plan: any.
        techniques: those at hand, by name.
    """
    return Plan(tuple(step for step in plan.steps if step.technique in techniques))


def before_training(plan: Plan, techniques: Techniques = TECHNIQUES) -> Plan:
    """The steps of a plan that are carried out before training: what decides which weights there are.

    Args:
        plan: any.
        techniques: by name.
    """
    return Plan(tuple(step for step in plan.steps
                      if step.technique not in techniques or not techniques[step.technique].after_training))


def untouched(table: LayerTable) -> dict[str, str]:
    """Layers that no technique can touch, by name, each with the reason: they are reported, never silently skipped.

    Args:
        table: facts about the original.
    """
    return {
        layer.name: layer.not_compressible_reason
        for layer in table.layers
        if layer.not_compressible_reason and layer.params
    }
