"""Depth: a residual block is left out, its shortcut stays. `args = {}`; the site is the block's name."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from autocompress.core.layer import Block, LayerTable
from autocompress.core.plan import Plan, Step
from autocompress.errors import InputError
from autocompress.hardware.profile import HardwareProfile
from autocompress.techniques.base import Parts, Technique, allowed
from autocompress.techniques.knobs import Decisions, Knob, KnobKey, Setting, Value


def block_at(step: Step, table: LayerTable) -> Block:
    """The block a step names. InputError when there is none."""
    blocks = {block.name: block for block in table.blocks}
    if step.site not in blocks:
        raise InputError(f"a drop step must name a residual block whose shortcut keeps the shape, but {step.site!r} "
                         f"is none of {', '.join(blocks) or '(this network has none)'}")
    return blocks[step.site]


def dropped_layers(table: LayerTable, plan: Plan) -> frozenset[str]:
    """The layers, norms among them, of the blocks that a plan leaves out."""
    return table.gone(plan.find(DROP.name))


class DropSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Residual blocks may be left out; `skip` holds block patterns."""

    skip: tuple[str, ...] = ()


class Drop(Technique):
    """Leaving residual blocks out; one knob for each block."""

    name = "drop"
    acts_on = "block"
    Settings = DropSpec

    def knobs(self, space: Decisions, settings: DropSpec) -> list[Knob]:
        """A yes or no for each block whose layers can all be touched."""
        table = space.table
        return [Knob(kind=self.name, site=block.name, choices=(0, 1), plain=0, saves=True) for block in table.blocks
                if allowed(block.name, settings.skip)
                and not any(table.by_name[layer].not_compressible_reason for layer in block.layers)]

    def decode(self, setting: Setting, parts: Parts) -> list[Step]:
        """A step for each block whose knob says so."""
        return [Step(block.name, self.name, {}) for block in setting.space.table.blocks
                if setting.get(self.name, block.name, 0)]

    def encode(self, space: Decisions, steps: Mapping[str, Step], parts: Parts) -> dict[KnobKey, Value]:
        """Yes where there is a step."""
        return {knob.key: int(knob.site in steps) for knob in space.of_kind(self.name)}

    def check(self, step: Step, plan: Plan, table: LayerTable, profile: HardwareProfile) -> None:
        """InputError where there is no such block."""
        block_at(step, table)
        if step.args:
            raise InputError(f"a drop step takes no arguments, but at {step.site} got {step.args}")

    def effect(self, step: Step, table: LayerTable, parts: Parts) -> None:
        """The block's layers have no parts."""
        for layer in block_at(step, table).layers:
            parts[layer] = ()

    def describe(self, step: Step, table: LayerTable) -> str:
        """The same for all steps."""
        return "left out"


DROP = Drop()
