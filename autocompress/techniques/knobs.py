"""Knobs: the dimensions of a search space, their values, and the names under which Optuna stores them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import msgspec

from autocompress.core.layer import LayerTable
from autocompress.hardware.profile import HardwareProfile

Value = float | int | str
# The site of a knob that decides once for the whole network.
ALL_LAYERS = "*"
# The choice that leaves a site as it is.
WHOLE = "none"


class KnobKey(NamedTuple):
    """The identity of a knob: what it decides, and the site where it decides it."""

    kind: str
    site: str


Values = Mapping[KnobKey, Value]
# Units of knobs.
WEIGHT_BITS, ACTIVATION_BITS = "weight bits", "activation bits"


class Knob(msgspec.Struct, frozen=True, kw_only=True):
    """One dimension of a space: a choice among `choices`, or a number from `low` to `high`.

    Attributes:
        kind: what it decides; no other technique has knobs of the same kind. It holds no colon.
        site: the name of a layer, group or block of the original network, or `ALL_LAYERS`.
        plain: its value in a plan that leaves the site as it is; of a number, one of its ends: a squeeze moves it to
            the other one.
        choices: legal values; none where the knob is a number.
        low: the least value of a number.
        high: the largest value of a number.
        unit: what its choices count, such as bits: a value that is no choice is replaced by the nearest one.
        saves: whether one choice may make a plan smaller than another.
    """

    kind: str
    site: str
    plain: Value
    choices: tuple[Value, ...] = ()
    low: float = 0.0
    high: float = 1.0
    unit: str = ""
    saves: bool = False

    @property
    def key(self) -> KnobKey:
        """The knob's identity."""
        return KnobKey(self.kind, self.site)

    @property
    def changes(self) -> bool:
        """Whether a weight width that leaves no choice still changes the network: a fixed int8 recipe is a space."""
        return self.unit == WEIGHT_BITS and self.choices != (32,)

    @property
    def squeezed_end(self) -> float:
        """The end of the range at which a plan is smallest."""
        return self.high if self.plain == self.low else self.low

    def among(self, choices: Iterable[Value]) -> Knob:
        """The knob with some of its choices alone. A plain value that is not among them gives way to the widest of
        weights, the narrowest of activations, or the first.

        Args:
            choices: those that stay, in order.
        """
        left = tuple(choices)
        plain = self.plain
        if left and plain not in left:
            plain = left[0] if not self.unit else (max if self.unit == WEIGHT_BITS else min)(left, key=float)
        return msgspec.structs.replace(self, choices=left, plain=plain)

    def legal(self, value: Value) -> Value:
        """The legal value nearest to `value`; the plain one where no choice is near."""
        if not self.choices:
            return min(max(float(value), self.low), self.high)
        if value in self.choices:
            return value
        if not self.unit:
            return self.plain
        return min((int(choice) for choice in self.choices), key=lambda choice: (abs(choice - int(value)), choice))


def stored_name(key: KnobKey) -> str:
    """The name of a knob as a study's database has it: `prune:layer1.0.conv1`.

    Args:
        key: the knob's kind and site.
    """
    return f"{key[0]}:{key[1]}"


def stored(values: Values) -> dict[str, Value]:
    """A setting by the names under which a study's database has it.

    Args:
        values: by knob.
    """
    return {stored_name(key): value for key, value in values.items()}


def from_stored(values: Mapping[str, Value]) -> dict[KnobKey, Value]:
    """A setting read from a study's database: the inverse of `stored`.

    Args:
        values: by stored name.
    """
    return {KnobKey(*name.partition(":")[::2]): value for name, value in values.items()}


class Decisions(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """What is to be decided for one network on one device.

    Attributes:
        table: the facts about the network.
        profile: the device.
        knobs: all dimensions; none yet while the techniques are asked for theirs.
        settings: what the space file says of each technique in use, by the technique's name.
        unpaying: layers whose activations stay float, because 8 bits do not make them faster.
    """

    table: LayerTable
    profile: HardwareProfile
    knobs: tuple[Knob, ...] = ()
    settings: dict[str, msgspec.Struct] = {}
    unpaying: frozenset[str] = frozenset()

    @cached_property
    def by_key(self) -> dict[KnobKey, Knob]:
        """The knobs by their keys."""
        return {knob.key: knob for knob in self.knobs}

    def of_kind(self, kind: str) -> Iterator[Knob]:
        """The knobs of one `kind`, in order."""
        return (knob for knob in self.knobs if knob.kind == kind)

    @cached_property
    def weight_bits(self) -> tuple[int, ...]:
        """The weight widths in bits that plans may have; 32 alone where nothing decides them."""
        widths = next((knob.choices for knob in self.knobs if knob.unit == WEIGHT_BITS), (32,))
        return tuple(int(bits) for bits in widths)


@dataclass(frozen=True)
class Setting:
    """Values of all knobs of a space, as techniques read them.

    Attributes:
        space: whose knobs they are.
        values: by knob.
        squeeze: how far every number is moved towards the end of its range where plans are smallest, 0 to 1.
        bits_cap: the largest weight width in bits.
        weight_bits: the width in bits of each layer that is to have fewer than 32, known before any technique decodes.
    """

    space: Decisions
    values: Values
    squeeze: float = 0.0
    bits_cap: int = 32
    weight_bits: dict[str, int] = field(default_factory=dict)

    def __getitem__(self, key: tuple[str, str]) -> Value:
        return self.values[key]  # type: ignore[index]

    def get(self, kind: str, site: str, default: Value) -> Value:
        """The value of a knob.

        Args:
            kind: of the knob.
            site: of the knob.
            default: what is returned where the space has no such knob.
        """
        return self.values.get((kind, site), default)  # type: ignore[call-overload,no-any-return]

    def number(self, kind: str, site: str) -> float:
        """The squeezed value of a numeric knob, of a `kind` at a `site`."""
        value = float(self[kind, site])
        return value + (self.space.by_key[KnobKey(kind, site)].squeezed_end - value) * self.squeeze

    def capped(self, knob: Knob) -> int:
        """The weight width in bits that a `knob` means under the cap: the largest legal one below it."""
        bits, legal = int(self.values[knob.key]), [int(choice) for choice in knob.choices]
        if bits <= self.bits_cap:
            return bits
        return max((width for width in legal if width <= self.bits_cap), default=min(legal))
