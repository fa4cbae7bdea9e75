"""Structured pruning: whole channels of a coupling group are removed.

`args = {"keep": channels kept}`, and `"criterion"`, one of `CRITERIA`, where it is not the default.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache

import msgspec

from autocompress.core.layer import Group, LayerTable
from autocompress.core.plan import Plan, Receipt, Scalar, Step
from autocompress.errors import InputError
from autocompress.hardware.profile import HardwareProfile, listed
from autocompress.techniques.base import Option, Parts, Technique, allowed, commonest, one_of, plural
from autocompress.techniques.knobs import ALL_LAYERS, Decisions, Knob, KnobKey, Setting, Value
from autocompress.techniques.quantize import weight_widths

# What decides which channels stay; sources stand in `autocompress.backend.prune.importance`.
CRITERIA = ("l1", "l2", "bn-scale", "lamp", "fpgm", "activation", "apoz", "taylor", "fisher", "reconstruction",
            "random")
DEFAULT_CRITERION = "l2"
# The kind of the knob that says, once for the network, what decides which channels stay.
CRITERION = "criterion"
# Numbers of channels, evenly spaced, that the sensitivity table has for each group.
LEVELS = 10


class PruneSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Largest share of a coupling group's channels that may be removed; what may decide which (one choice for the
    whole model); `skip` holds site patterns."""

    max_ratio: float = 0.9
    criteria: tuple[str, ...] = (DEFAULT_CRITERION,)
    skip: tuple[str, ...] = ()


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


def kept_channels(receipts: Iterable[Receipt]) -> dict[str, tuple[int, ...]]:
    """The channels that each pruned group has kept, from the receipts of a compressed network."""
    return {receipt.site: tuple(receipt.facts["kept"]) for receipt in receipts if receipt.technique == PRUNE.name}


class Prune(Technique):
    """Structured pruning; a ratio of channels to remove for each coupling group."""

    name = "prune"
    acts_on = "group"
    Settings = PruneSpec
    solved = ("prune",)

    def check_settings(self, settings: PruneSpec) -> None:
        """InputError for a ratio out of range or an unknown criterion."""
        if not 0 < settings.max_ratio < 1:
            raise InputError(f"max_ratio must be between 0 and 1, but got {settings.max_ratio}")
        one_of(settings.criteria, CRITERIA, "criteria")

    def knobs(self, space: Decisions, settings: PruneSpec) -> list[Knob]:
        """A criterion for all, where there is a choice, and a ratio for each group that can be cut on the device."""
        def can_be_cut(group: Group) -> bool:
            least = group.channels * (1 - settings.max_ratio)
            return any(legal_keep(group, least, space.profile, (bits,)) < group.channels
                       for bits in space.profile.weight_bits)

        criterion = [Knob(kind=CRITERION, site=ALL_LAYERS, choices=settings.criteria, plain=settings.criteria[0])]
        return (criterion if len(settings.criteria) > 1 else []) + [
            Knob(kind=self.name, site=group.name, low=0.0, high=settings.max_ratio, plain=0.0)
            for group in space.table.groups if allowed(group.name, settings.skip) and can_be_cut(group)]

    def decode(self, setting: Setting, parts: Parts) -> list[Step]:
        """A step for each group that has a member left and keeps fewer channels than it has."""
        space, steps = setting.space, []
        bits = {layer: width for layer, width in setting.weight_bits.items() if parts[layer]}
        named = _named(str(setting.get(CRITERION, ALL_LAYERS, _criterion(space))))
        for group in space.table.groups:
            if (self.name, group.name) in space.by_key and any(parts[member.layer] for member in group.members):
                left = group.channels * (1 - setting.number(self.name, group.name))
                keep = legal_keep(group, left, space.profile, widths_of(group, bits, space.table))
                if keep < group.channels:
                    steps.append(Step(group.name, self.name, {"keep": keep, **named}))
        return steps

    def encode(self, space: Decisions, steps: Mapping[str, Step], parts: Parts) -> dict[KnobKey, Value]:
        """The ratio of each step, and the criterion of most of them."""
        channels = {group.name: group.channels for group in space.table.groups}
        values: dict[KnobKey, Value] = {
            knob.key: 1 - int(steps[knob.site].args["keep"]) / channels[knob.site]
            for knob in space.of_kind(self.name) if knob.site in steps}
        criteria = [step.args.get("criterion", DEFAULT_CRITERION) for step in steps.values()]
        return values | {KnobKey(CRITERION, ALL_LAYERS): commonest(criteria, DEFAULT_CRITERION)}

    def options(self, space: Decisions) -> Iterator[tuple[Step, Option]]:
        """`LEVELS` numbers of channels for each group."""
        named = _named(_criterion(space))
        common = 8 if 8 in space.weight_bits else min(space.weight_bits)  # a plan's widths may ask for coarser steps
        for group in space.table.groups:
            knob = space.by_key.get(KnobKey(self.name, group.name))
            if knob is None:
                continue
            evenly = (group.channels * (1 - knob.high * level / LEVELS) for level in range(1, LEVELS + 1))
            counts = {legal_keep(group, channels, space.profile, (common,)) for channels in evenly}
            for keep in sorted(counts - {group.channels}):
                yield Step(group.name, self.name, {"keep": keep, **named}), (keep,)

    def alternatives(self, space: Decisions, site: str, costs: Mapping[Option, float]) -> list[tuple[Option, float]]:
        """All channels, then fewer and fewer."""
        return [((groups_by_name(space.table)[site].channels,), 0.0),
                *((option, costs[option]) for option in sorted(costs, reverse=True))]

    def values(self, space: Decisions, site: str, option: Option) -> dict[str, Value]:
        """The ratio of an option, at most the largest of the space."""
        ratio = 1 - int(option[0]) / groups_by_name(space.table)[site].channels
        return {self.name: min(ratio, space.by_key[KnobKey(self.name, site)].high)}

    def sensitivity(self, space: Decisions, step: Step, costs: Mapping[Option, float], parts: Parts) -> float | None:
        """That of the nearest number of channels."""
        if not costs:
            return None
        by_keep = {groups_by_name(space.table)[step.site].channels: 0.0,
                   **{int(option[0]): cost for option, cost in costs.items()}}
        return by_keep[min(by_keep, key=lambda keep: abs(keep - float(step.args["keep"])))]

    def check(self, step: Step, plan: Plan, table: LayerTable, profile: HardwareProfile) -> None:
        """InputError for what is no group, and for a count of channels that the device does not run."""
        group = groups_by_name(table).get(step.site)
        if group is None:
            raise InputError(_no_group(step.site, table))
        keep = step.args.get("keep")
        if not isinstance(keep, int) or not 1 <= keep <= group.channels:
            raise InputError(f"`keep` must be a whole number from 1 to {group.channels} at {step.site}, but got "
                             f"{keep!r}")
        if step.args.get("criterion", DEFAULT_CRITERION) not in CRITERIA:
            raise InputError(f"`criterion` at {step.site} must be one of {CRITERIA}, but got "
                             f"{step.args['criterion']!r}")
        bits = weight_widths(plan)
        widths = widths_of(group, bits, table)
        legal = legal_keep(group, keep, profile, widths)
        if keep != legal and keep != group.channels:
            raise InputError(f"`keep` at {step.site} must fit the channel multiple of {profile.id} at "
                             f"{listed([str(bits) for bits in sorted(widths)])}-bit weights, but got {keep}; the "
                             f"nearest legal value is {legal}")

    def effect(self, step: Step, table: LayerTable, parts: Parts) -> None:
        """Every member of the group has fewer channels on its side."""
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

    def describe(self, step: Step, table: LayerTable) -> str:
        """Channels kept."""
        group = groups_by_name(table).get(step.site)
        return f"{step.args['keep']} of {group.channels if group else '?'} channels"

    def summary(self, steps: Iterable[Step], table: LayerTable) -> str:
        """The share of the channels that the groups keep together."""
        steps, channels = list(steps), {group.name: group.channels for group in table.groups}
        sizes = [(int(step.args["keep"]), channels[step.site]) for step in steps
                 if step.site in channels and "keep" in step.args]
        total = sum(size for _, size in sizes)
        share = f" to {sum(keep for keep, _ in sizes) / total:.0%} of their channels" if total else ""
        return f"{self.name} {plural(len(steps), 'group')}{share}"


def _criterion(space: Decisions) -> str:
    settings = space.settings.get(PRUNE.name)
    return settings.criteria[0] if isinstance(settings, PruneSpec) else DEFAULT_CRITERION


def _named(criterion: str) -> dict[str, Scalar]:
    """The argument of a step, which leaves the default out."""
    return {} if criterion == DEFAULT_CRITERION else {"criterion": criterion}


PRUNE = Prune()
