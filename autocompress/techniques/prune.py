"""Structured pruning: whole channels of a coupling group are removed.

`args = {"keep": channels kept}`, and `"criterion"`, one of `CRITERIA`, where it is not the default.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache

import msgspec

from autocompress.core.layer import Group, LayerTable
from autocompress.core.plan import Plan, Step
from autocompress.errors import InputError
from autocompress.hardware.profile import HardwareProfile, listed
from autocompress.techniques.base import Parts, Technique

CRITERIA = ("l1", "l2", "bn-scale", "lamp", "fpgm", "activation", "apoz", "taylor", "fisher", "reconstruction",
            "random")
"""What decides which channels stay; sources stand in `autocompress.backend.prune.importance`."""
DEFAULT_CRITERION = "l2"


@lru_cache(maxsize=8)
def groups_by_name(table: LayerTable) -> dict[str, Group]:
    """The coupling groups of a table by name."""
    return {group.name: group for group in table.groups}


def legal_keep(group: Group, keep: float, profile: HardwareProfile, widths: Collection[int] = (32,)) -> int:
    """The legal channel count nearest to `keep`: every member keeps a multiple that the profile likes at the weight
    `widths` of the members in bits, equally many in each block, at least one; of attention heads any whole number."""
    if group.heads:
        return max(1, min(group.channels, round(keep)))
    per_block = profile.legal_channels(group.channels // group.blocks, max(1, round(keep / group.blocks)), widths,
                                       group.blocks * group.unit)
    return per_block * group.blocks


def widths_of(group: Group, plan_bits: Mapping[str, int], table: LayerTable) -> set[int]:
    """Weight widths of the layers that a group cuts; `plan_bits` by layer, 32 where it says nothing."""
    return {plan_bits.get(member.layer, 32) for member in group.members if table.by_name[member.layer].kind != "norm"}


def _no_group(site: str, table: LayerTable) -> str:
    """Why there is nothing to prune at `site`, and what can be pruned."""
    cut = ", ".join(groups_by_name(table)) or "none (this network has no such group)"
    layer = table.by_name.get(site)
    if layer is None:
        why = "it is no layer of this network"
    elif any(member.layer == site and member.side == "out" for group in table.groups for member in group.members):
        why = "its channels go with those of " + ", ".join(
            group.name for group in table.groups if any(m.layer == site and m.side == "out" for m in group.members))
    else:
        why = layer.not_prunable_reason or layer.not_compressible_reason or "it has no channels of its own"
    return f"a prune step must name a coupling group, but {site!r} is none: {why}. Groups that can be pruned: {cut}"


def _check(step: Step, plan: Plan, table: LayerTable, profile: HardwareProfile) -> None:
    group = groups_by_name(table).get(step.site)
    if group is None:
        raise InputError(_no_group(step.site, table))
    keep = step.args.get("keep")
    if not isinstance(keep, int) or not 1 <= keep <= group.channels:
        raise InputError(f"`keep` must be a whole number from 1 to {group.channels} at {step.site}, but got {keep!r}")
    if step.args.get("criterion", DEFAULT_CRITERION) not in CRITERIA:
        raise InputError(f"`criterion` at {step.site} must be one of {CRITERIA}, but got {step.args['criterion']!r}")
    bits = {site: int(quantized.args["weight_bits"]) for site, quantized in plan.find("quantize").items()}
    widths = widths_of(group, bits, table)
    legal = legal_keep(group, keep, profile, widths)
    if keep != legal and keep != group.channels:
        raise InputError(f"`keep` at {step.site} must fit the channel multiple of {profile.id} at "
                         f"{listed([str(bits) for bits in sorted(widths)])}-bit weights, but got {keep}; the nearest "
                         f"legal value is {legal}")


def _effect(step: Step, table: LayerTable, parts: Parts) -> None:
    group = groups_by_name(table).get(step.site)
    if group is None:
        raise InputError(_no_group(step.site, table))
    cut = group.channels - int(step.args["keep"])
    for member in group.members:
        if not parts[member.layer]:
            continue  # its block was dropped
        (part,) = parts[member.layer]
        gone = cut * member.per_channel
        if part.kind == "norm" or (part.groups > 1 and part.groups == part.in_channels == part.out_channels):
            left = part.out_channels - gone
            depthwise = part.groups > 1
            part = msgspec.structs.replace(part, in_channels=left, out_channels=left,
                                           groups=left if depthwise else part.groups)
        elif member.side == "out":
            part = msgspec.structs.replace(part, out_channels=part.out_channels - gone)
        else:
            part = msgspec.structs.replace(part, in_channels=part.in_channels - gone)
        parts[member.layer] = (part,)


PRUNE = Technique("prune", _check, _effect)
