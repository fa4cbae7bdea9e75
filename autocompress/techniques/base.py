"""What a technique is, and how a plan turns the original's facts into a compressed network's.

`resolve` walks the techniques in the order of application, so prune → decompose → sparsify → quantise is fixed in one
place (`TECHNIQUES`). Everything here is arithmetic on facts: nothing is built, nothing needs torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autocompress.core.layer import Layer, LayerTable, Part
from autocompress.core.plan import Plan, Step
from autocompress.errors import InputError

if TYPE_CHECKING:
    from autocompress.hardware.profile import HardwareProfile

Parts = dict[str, tuple[Part, ...]]
"""The executed parts of each layer, by the layer's original name, in execution order."""


@dataclass(frozen=True)
class Technique:
    """A row of the table. The torch half has the same name in `autocompress.backend.compress`.

    `check` raises InputError when the step, one of those of the plan, cannot be applied to this table on this profile.
    `effect` changes `parts` in place as the real transformation changes the network.
    """

    name: str
    check: Callable[[Step, Plan, LayerTable, HardwareProfile], None]
    effect: Callable[[Step, LayerTable, Parts], None]


def whole(layer: Layer) -> Part:
    """The one part of an untouched layer."""
    if layer.kind == "other":
        return Part(name=layer.name, layer=layer.name, kind="other", in_channels=1,
                    out_channels=layer.params, positions=layer.positions, bias=False)
    return Part(
        name=layer.name, layer=layer.name, kind=layer.kind, in_channels=layer.in_channels,
        out_channels=layer.out_channels, groups=layer.groups, kernel=layer.kernel,
        positions=layer.positions, in_positions=layer.in_positions, bias=layer.bias, transposed=layer.transposed,
        out_positions=layer.out_positions if layer.transposed else 0,
        reads=layer.reads, writes=layer.writes,
    )


def resolve(table: LayerTable, plan: Plan) -> Parts:
    """The parts of the network that `plan` makes, by original layer. Folded norms have no part.

    InputError names a technique or site that does not exist.
    """
    from autocompress.techniques.table import TECHNIQUES

    folded = {layer.folds_into for layer in table.layers if layer.folds_into}
    parts: Parts = {}
    for layer in table.layers:
        part = whole(layer)
        if layer.name in folded and not part.bias:
            part = _with(part, bias=True)
        parts[layer.name] = (part,)
    by_technique: dict[str, list[Step]] = {name: [] for name in TECHNIQUES}
    for step in plan.steps:
        by_technique[_technique(step).name].append(step)
    for name, steps in by_technique.items():
        for step in steps:
            TECHNIQUES[name].effect(step, table, parts)
    for layer in table.layers:
        if layer.folds_into:
            del parts[layer.name]
    return parts


def check_plan(table: LayerTable, plan: Plan, profile: HardwareProfile) -> None:
    """InputError for the first step that is not legal here."""
    for step in plan.steps:
        _technique(step).check(step, plan, table, profile)
    resolve(table, plan)


def _technique(step: Step) -> Technique:
    from autocompress.techniques.table import TECHNIQUES

    if step.technique not in TECHNIQUES:
        raise InputError(f"a technique must be one of {', '.join(TECHNIQUES)}, but got {step.technique!r} "
                         f"at {step.site}")
    return TECHNIQUES[step.technique]


def untouched(table: LayerTable) -> dict[str, str]:
    """Layers that no technique can touch, with the reason: they are reported, never silently skipped."""
    return {
        layer.name: layer.not_compressible_reason
        for layer in table.layers
        if layer.not_compressible_reason and layer.params
    }


def layer_at(step: Step, table: LayerTable) -> Layer:
    """The layer a step names. InputError when there is none."""
    layer = table.by_name.get(step.site)
    if layer is None:
        raise InputError(f"a {step.technique} step must name a layer of the network, but {step.site!r} is none; "
                         "see `autocompress show` for the names")
    return layer


def present(step: Step, parts: Parts) -> tuple[Part, ...]:
    """The parts of the layer a step names. InputError when its block is dropped."""
    if not parts[step.site]:
        raise InputError(f"a {step.technique} step must name a layer that is still there, but the block of "
                         f"{step.site} is dropped: leave one of the two steps out")
    return parts[step.site]


def _with(part: Part, **changes: object) -> Part:
    import msgspec

    return msgspec.structs.replace(part, **changes)
