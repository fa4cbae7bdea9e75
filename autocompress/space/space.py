"""A space: the knobs of one network on one device, and the plan that a setting of the knobs means.

Every knob is always present, whatever the others say, because samplers model fixed spaces best: the rank of a
layer that is not decomposed is simply not read.
"""

from __future__ import annotations

from collections import Counter
from functools import cached_property

import msgspec

from autocompress.core.format_facts import FormatFacts
from autocompress.core.layer import LayerTable
from autocompress.core.plan import Plan, Step
from autocompress.errors import InputError
from autocompress.hardware.profile import HardwareProfile
from autocompress.space.spec import SpaceSpec
from autocompress.space.whole_layers import untouched_layers
from autocompress.techniques.apply import Techniques
from autocompress.techniques.base import Parts, Technique, whole_parts
from autocompress.techniques.knobs import (
    ACTIVATION_BITS,
    ALL_LAYERS,
    WEIGHT_BITS,
    WHOLE,
    Decisions,
    Knob,
    KnobKey,
    Setting,
    Value,
    Values,
)
from autocompress.techniques.table import TECHNIQUES

__all__ = ["ALL_LAYERS", "WHOLE", "Knob", "KnobKey", "Space", "Value", "Values", "build_space"]


class Space(Decisions, frozen=True, kw_only=True, dict=True):
    """What may be decided for one network on one device, and by which techniques.

    Attributes:
        techniques: all that are at hand, by name, in the order of application; those in use have `settings`.
        file_format: what predicts the bytes of files and says what they can hold, where that is not the format that the
            profile names.
    """

    techniques: Techniques = msgspec.field(default_factory=lambda: TECHNIQUES)
    file_format: FormatFacts | None = None

    @cached_property
    def used(self) -> tuple[Technique, ...]:
        """The techniques in use, in the order of application."""
        return tuple(row for name, row in self.techniques.items() if name in self.settings)

    @cached_property
    def solved_kinds(self) -> frozenset[str]:
        """Kinds of knobs that a solver decides; of the others it takes the plain value, or what it is given."""
        return frozenset(kind for row in self.techniques.values() for kind in row.solved)

    def decode(self, values: Values, squeeze: float = 0.0, bits_cap: int = 32) -> Plan:
        """The plan of a setting.

        Args:
            values: by knob.
            squeeze: how far every number is moved towards the end where plans are smallest, 0 to 1.
            bits_cap: the largest weight width in bits.
        """
        return self.plan_of(Setting(self, values, squeeze, bits_cap))

    def plan_of(self, setting: Setting) -> Plan:
        """The plan of a `setting`: each technique in turn sees what those before it make of the parts."""
        for row in self.used:
            setting.weight_bits.update(row.widths(setting))
        parts, steps = dict(self._whole_parts), list[Step]()
        for row in self.used:
            of_row = row.decode(setting, parts)
            steps += of_row
            if row is not self.used[-1]:
                for step in of_row:
                    row.effect(step, self.table, parts)
        return Plan.of(steps)

    @cached_property
    def _whole_parts(self) -> Parts:
        return whole_parts(self.table)

    def uniform(self, weight_bits: int | None = None) -> dict[KnobKey, Value]:
        """The plain setting: nothing pruned or decomposed, one width for all; projection turns it into a uniform ratio.

        Args:
            weight_bits: the width; the nearest legal one is taken. None for the plain one.
        """
        return {knob.key: knob.plain if weight_bits is None or knob.unit != WEIGHT_BITS else knob.legal(weight_bits)
                for knob in self.knobs}


def build_space(table: LayerTable, spec: SpaceSpec, profile: HardwareProfile,
                unpaying: frozenset[str] = frozenset(), file_format: FormatFacts | None = None,
                techniques: Techniques = TECHNIQUES) -> Space:
    """Collect the knobs of every site that the network has, the space file allows and the device can run.

    Args:
        table: facts about the network.
        spec: the space file.
        profile: the device.
        unpaying: layers whose activations stay float where the space leaves the choice.
        file_format: the format of the files, where it is not the one that `profile` names.
        techniques: by name, in the order of application.

    Returns:
        The space.

    Raises:
        InputError: when a width that the file asks for is not legal on the device, or when nothing is left to decide.
    """
    settings = spec.settings(techniques)
    subject = Decisions(table=table, profile=profile, unpaying=unpaying)
    knobs = tuple(knob for name in settings for knob in techniques[name].knobs(subject, settings[name]))
    repeated = [key for key, count in Counter(knob.key for knob in knobs).items() if count > 1]
    if repeated:
        raise InputError(f"a knob must belong to one technique, but two have {repeated[0].kind!r} at "
                         f"{repeated[0].site}: give the knobs of a technique kinds of their own")
    if not any(len(knob.choices) > 1 or not knob.choices or knob.changes for knob in knobs):
        raise InputError(f"the space {spec.name!r} must leave something to decide on {profile.id}, but it has no "
                         f"site in this network. {untouched_layers(table)}")
    if not any(32 in knob.choices for knob in knobs if knob.unit == ACTIVATION_BITS):
        unpaying = frozenset()
    return Space(table=table, profile=profile, knobs=knobs, settings=settings, unpaying=unpaying,
                 techniques=techniques, file_format=file_format)
