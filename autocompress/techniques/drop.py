"""Depth: a residual block is left out, its shortcut stays. `args = {}`; the site is the block's name."""

from __future__ import annotations

from autocompress.core.layer import Block, LayerTable
from autocompress.core.plan import Plan, Step
from autocompress.errors import InputError
from autocompress.hardware.profile import HardwareProfile
from autocompress.techniques.base import Parts, Technique


def block_at(step: Step, table: LayerTable) -> Block:
    """The block a step names. InputError when there is none."""
    blocks = {block.name: block for block in table.blocks}
    if step.site not in blocks:
        raise InputError(f"a drop step must name a residual block whose shortcut keeps the shape, but {step.site!r} "
                         f"is none of {', '.join(blocks) or '(this network has none)'}")
    return blocks[step.site]


def _check(step: Step, plan: Plan, table: LayerTable, profile: HardwareProfile) -> None:
    block_at(step, table)
    if step.args:
        raise InputError(f"a drop step takes no arguments, but at {step.site} got {step.args}")


def _effect(step: Step, table: LayerTable, parts: Parts) -> None:
    for layer in block_at(step, table).layers:
        parts[layer] = ()


DROP = Technique("drop", _check, _effect)
