"""What a file format can hold, asked before anything is built: of plans, and of every choice of a space."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

import msgspec

from autocompress.core.format_facts import FormatFacts
from autocompress.core.layer import Layer, LayerTable
from autocompress.core.plan import Plan, Step
from autocompress.core.warnings import Warned
from autocompress.errors import InputError
from autocompress.hardware.profile import HardwareProfile
from autocompress.space.space import KnobKey, Space, Value, Values, build_space
from autocompress.space.spec import SpaceSpec
from autocompress.techniques.apply import Techniques
from autocompress.techniques.knobs import ALL_LAYERS, Knob
from autocompress.techniques.quantize import ACTIVATIONS, BITS
from autocompress.techniques.table import TECHNIQUES

log = logging.getLogger(__name__)

# Kinds of knobs that choose a width; a step of one technique has both.
WIDTHS = (BITS, ACTIVATIONS)
MOST_INTEGER_BITS = 8  # of a weight


def check_format(plan: Plan, table: LayerTable, file_format: FormatFacts) -> None:
    """Refuse a plan that the format cannot hold.

    Raises:
        InputError: for the first such step, with the format's reason.
    """
    for step in plan.steps:
        reason = refusal(step, table, file_format)
        if reason:
            raise InputError(f"a plan must be one that {file_format.name} files can hold, but {step.technique} at "
                             f"{step.site}: {reason}")


def refusal(step: Step, table: LayerTable, file_format: FormatFacts) -> str:
    """The format's reason against one step; an empty text where there is none."""
    layer = _layer_at(step.site, table)
    return "" if layer is None else file_format.legal(step, layer)


def space_of(table: LayerTable, spec: SpaceSpec, profile: HardwareProfile, file_format: FormatFacts,
             unpaying: frozenset[str] = frozenset(), techniques: Techniques = TECHNIQUES,
             further: Sequence[FormatFacts] = ()) -> Space:
    """Build the space of a network on a device, with the choices alone that the format can hold, and `further` ones in
    which the best candidate is to ship.

    Widths that the space leaves to the profile are those of the device and of the formats. What one format leaves out
    can take from another all that it holds a choice beside, so the formats are asked until none leaves out more.

    Raises:
        InputError: as `build_space`, and when the space lists a choice that the format can hold at no site.
    """
    space = build_space(table, spec, profile, unpaying, file_format, techniques)
    left = {BITS: spec.quantize.weight_bits, ACTIVATIONS: spec.quantize.activation_bits} if spec.quantize else {}
    left_open = [kind for kind, widths in left.items() if widths == "profile"]
    knobs: tuple[Knob, ...] = ()
    while knobs != space.knobs:
        knobs = space.knobs
        for each in (file_format, *further):
            space = inside_format(space, each, left_open)
    return space


def offers_integers(space: Space) -> bool:
    """Whether weights of some layer may be integers."""
    return any(isinstance(choice, int) and choice <= MOST_INTEGER_BITS
               for knob in space.knobs if knob.kind == BITS for choice in knob.choices)


def floats_alone(formats: Sequence[FormatFacts]) -> Warned:
    """What to know of formats that hold integers, and none together."""
    names = " and ".join(each.name for each in formats)
    return Warned("formats-share-no-integers",
                  f"{names} can hold no integer weights in common, so all weights stay float: for integers search in "
                  "each of them by itself")


def inside_format(space: Space, file_format: FormatFacts, left_open: Collection[str] = ()) -> Space:
    """Take the choices that the format cannot hold out of a space.

    A choice is judged by the steps that it makes at a site; a width by those that it makes beside every width of the
    other kind, all of which the format must refuse.

    Args:
        space: the space of a network on a device.
        file_format: the format of the files.
        left_open: kinds of knobs, such as `bits`, whose choices the space does not list: these may be left out.

    Raises:
        InputError: when a choice of another kind can be held at no site.
    """
    choices_of = {knob.key: list(knob.choices) for knob in space.knobs}
    technique_of = {knob.kind: row.name for row in space.used for knob in row.knobs(space, space.settings[row.name])}
    for kind in dict.fromkeys(knob.kind for knob in space.knobs if knob.choices):
        knobs = [knob for knob in space.knobs if knob.kind == kind]
        for choice in dict.fromkeys(choice for knob in knobs for choice in knob.choices):
            setting: dict[KnobKey, Value] = {knob.key: choice for knob in knobs if choice in knob.choices}
            reasons = _reasons(space, kind, technique_of[kind], setting, file_format)
            refused = {key: reasons[key.site] for key in setting if key.site in reasons}
            for key in refused:
                choices_of[key].remove(choice)
            if refused and len(refused) == len(setting):
                _say(file_format, kind, choice, next(iter(refused.values())), kind not in left_open)
    return msgspec.structs.replace(space, knobs=tuple(
        knob.among(choices_of[knob.key]) for knob in space.knobs if choices_of[knob.key] or not knob.choices))


def _reasons(space: Space, kind: str, technique: str, setting: Values, file_format: FormatFacts) -> dict[str, str]:
    """The format's reasons by site against the steps of a technique that `setting` makes of a plain plan, beside every
    width of the other kind; of activations, beside integer weights where there are some."""
    plain, held, refused = space.uniform(), set[str](), dict[str, str]()
    others = [knob for knob in space.knobs if knob.kind in WIDTHS and kind in WIDTHS and knob.kind != kind]
    widths = list(dict.fromkeys(choice for knob in others for choice in knob.choices))
    if kind == ACTIVATIONS:  # float weights compute in float, whatever the width of activations
        widths = [width for width in widths if isinstance(width, int) and width <= MOST_INTEGER_BITS] or widths
    for width in widths or (None,):
        beside = {knob.key: width for knob in others if width in knob.choices and width is not None}
        for step in space.decode({**plain, **beside, **setting}).find(technique).values():
            reason = refusal(step, space.table, file_format)
            if reason:
                refused[step.site] = reason
            else:
                held.add(step.site)
    reasons = {site: reason for site, reason in refused.items() if site not in held}
    if reasons and not held:
        reasons[ALL_LAYERS] = next(iter(reasons.values()))
    return reasons


def _say(file_format: FormatFacts, kind: str, choice: Value, reason: str, listed: bool) -> None:
    if listed:
        raise InputError(f"the space must ask for what {file_format.name} files can hold, but of {kind} it lists "
                         f"{choice}: {reason}. Leave that out of the space, or choose another format")
    log.info("%s files cannot hold %s %s: %s", file_format.name, kind, choice, reason)


def _layer_at(site: str, table: LayerTable) -> Layer | None:
    """The layer of a site: of a group the layer after which it is named, of a block its last one."""
    if site in table.by_name:
        return table.by_name[site]
    block = next((block for block in table.blocks if block.name == site), None)
    return table.by_name.get(block.layers[-1] if block is not None else site.partition("/")[0])
