"""The Technique protocol: what one way of compressing must say of itself, and nothing else has to know.

A technique is a row. Its pure half is arithmetic on facts: nothing is built, nothing needs torch.

* `knobs`: what there is to decide, for one network on one device.
* `decode`, `encode`: from values of its knobs to the steps of a plan, and back.
* `options`, `alternatives`, `values`, `narrowed`: which options the sensitivity table has, what the solver may choose,
  and what that makes of a layer. A technique without options is left to the sampler.
* `check`, `effect`: whether a step is legal, and what it makes of the network's parts: sizes, MACs and memory follow.
* `describe`, `summary`: what reports say.

Its torch half has the same name: those that ship stand in `autocompress.backend.compress`; a technique of a user's own
has it as `apply`.

Requires: a step is applied to a network to which the steps of the techniques before it have been applied; `parts` are
always of that network. Ensures: equal steps give equal results; `effect` changes nothing but `parts`, `apply` nothing
but the network that it is given, and the shapes of the one are those of the other. `TechniqueContract` in
`autocompress.testing` checks that.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

import msgspec

from autocompress.core.layer import Layer, LayerTable, Part
from autocompress.core.plan import Plan, Receipt, Scalar, Step
from autocompress.core.sparsity import UNSTRUCTURED
from autocompress.errors import InputError
from autocompress.hardware.profile import HardwareProfile
from autocompress.techniques.knobs import ALL_LAYERS, WHOLE, Decisions, Knob, KnobKey, Setting, Value

__all__ = ["ALL_LAYERS", "UNSTRUCTURED", "WHOLE", "Decisions", "InputError", "Knob", "KnobKey", "LayerTable", "Part",
           "Parts", "Plan", "Receipt", "Scalar", "Setting", "Step", "Technique", "Value", "layer_at", "present",
           "whole"]

# The executed parts of each layer, by the layer's original name, in execution order; none where its block is gone.
Parts: TypeAlias = dict[str, tuple[Part, ...]]
# An option of one site in the sensitivity table. Its last number says how much is left: of options that are alike
# before it, a smaller one is never predicted to cost less.
Option: TypeAlias = tuple[Scalar, ...]
UNTOUCHED: Option = ()


class NoSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table in the space file of a technique that has nothing to set."""


@runtime_checkable
class Technique(Protocol):
    """One way of compressing; inherit, and override what differs. Instances hold no state and can be pickled.

    Attributes:
        name: what steps, receipts, reports and the table in the space file call it.
        acts_on: what its sites are: layers, coupling groups of channels, or residual blocks.
        Settings: a msgspec struct, the technique's table in the space file; its defaults hold where there is no table.
        solved: kinds of its knobs that the solver decides, through `alternatives`.
        after_training: whether it is carried out on what training leaves, as rounding is.
    """

    name: ClassVar[str]
    acts_on: ClassVar[Literal["layer", "group", "block"]] = "layer"
    Settings: ClassVar[type[msgspec.Struct]] = NoSettings
    solved: ClassVar[tuple[str, ...]] = ()
    after_training: ClassVar[bool] = False

    def check_settings(self, settings: Any) -> None:
        """Check the technique's table of the space file.

        Args:
            settings: an instance of `Settings`.

        Raises:
            InputError: for settings that are not legal; the message begins with the name of the field.
        """
        return

    @abstractmethod
    def knobs(self, space: Decisions, settings: Any) -> list[Knob]:
        """What there is to decide, as knobs of kinds that no other technique has.

        Args:
            space: the network's facts and the device; it has no knobs yet.
            settings: the technique's table of the space file, an instance of `Settings`.
        """

    def widths(self, setting: Setting) -> dict[str, int]:
        """The weight width of each layer in bits, by the layer's name, where this technique decides it.

        Args:
            setting: values of all knobs.
        """
        return {}

    @abstractmethod
    def decode(self, setting: Setting, parts: Parts) -> list[Step]:
        """The steps that a setting means; a site whose parts are gone takes none.

        Args:
            setting: values of all knobs.
            parts: those that the steps of the techniques before this one left.
        """

    def encode(self, space: Decisions, steps: Mapping[str, Step], parts: Parts) -> dict[KnobKey, Value]:
        """Values of its knobs that decode to given steps, or come near; what is left out stays plain. The caller moves
        them to legal ones.

        Args:
            space: the network's facts, the device and all knobs.
            steps: those of this technique, by site.
            parts: those to which the steps are applied.
        """
        return {}

    def options(self, space: Decisions) -> Iterator[tuple[Step, Option]]:
        """Steps whose cost is to be predicted, each alone on the original, and their place in the sensitivity table.

        Args:
            space: the network's facts, the device and all knobs.
        """
        return iter(())

    def alternatives(self, space: Decisions, site: str, costs: Mapping[Option, float]) -> list[tuple[Option, float]]:
        """What the solver may choose at a site: each option with its predicted cost in nats.

        Args:
            space: the network's facts, the device and all knobs.
            site: the name of a layer, group or block.
            costs: nats by option, what the sensitivity table has for the site.
        """
        return [(UNTOUCHED, 0.0), *costs.items()]

    def values(self, space: Decisions, site: str, option: Option) -> dict[str, Value]:
        """Values of its knobs at a site, by kind, that mean an option; what is left out stays plain.

        Args:
            space: the network's facts, the device and all knobs.
            site: the name of a layer, group or block.
            option: one of those that `alternatives` gave for the site.
        """
        return {}

    def weight_bits(self, option: Option) -> int | None:
        """The weight width of an option in bits, where options are widths, else None.

        Args:
            option: one of those that `alternatives` gives.
        """
        return None

    def narrowed(self, space: Decisions, site: str, option: Option, parts: tuple[Part, ...]) -> tuple[Part, ...]:
        """What the parts of a layer become at an option; none where it would save nothing.

        Args:
            space: the network's facts, the device and all knobs.
            site: the name of the layer.
            option: one of those that `alternatives` gave for the site.
            parts: of the layer, as the techniques before this one left them.
        """
        if option == UNTOUCHED:
            return parts
        values = {KnobKey(kind, site): value for kind, value in self.values(space, site, option).items()}
        plain = {knob.key: knob.plain for knob in space.knobs if knob.kind in self.solved}
        of_site = {site: parts}
        for step in self.decode(Setting(space, plain | values), of_site):
            self.effect(step, space.table, of_site)
        return of_site[site] if of_site[site] != parts else ()

    def sensitivity(self, space: Decisions, step: Step, costs: Mapping[Option, float], parts: Parts) -> float | None:
        """The predicted cost of a step in nats, that of the nearest option at its site; None where there is none.

        Args:
            space: the network's facts, the device and all knobs.
            step: one of this technique.
            costs: nats by option, what the sensitivity table has for the step's site.
            parts: those to which the step is applied.
        """
        return None

    @abstractmethod
    def check(self, step: Step, plan: Plan, table: LayerTable, profile: HardwareProfile) -> None:
        """Check that a step can be applied to this network on this device.

        Args:
            step: one of this technique.
            plan: the plan that the step is of.
            table: facts about the network.
            profile: the device.

        Raises:
            InputError: where it cannot.
        """

    @abstractmethod
    def effect(self, step: Step, table: LayerTable, parts: Parts) -> None:
        """Change parts as the real transformation changes the network: bytes, MACs and memory follow from them.

        Args:
            step: one of this technique, which has been checked.
            table: facts about the original.
            parts: of the network to which the step is applied; changed in place.
        """

    @abstractmethod
    def describe(self, step: Step, table: LayerTable) -> str:
        """What a step does, in a few words for a table.

        Args:
            step: one of this technique.
            table: facts about the original.
        """

    def summary(self, steps: Iterable[Step], table: LayerTable) -> str:
        """What all steps of the technique do, in one phrase.

        Args:
            steps: of one plan, of this technique alone.
            table: facts about the original.
        """
        return f"{self.name} {plural(len(list(steps)), self.acts_on)}"

    def apply(self, network: Any, steps: list[Step]) -> list[Receipt]:
        """The torch half: change a network in place as the steps say.

        Args:
            network: an `autocompress.backend.network.compressed.Compressed`; its `model` is the torch module.
            steps: of one plan, of this technique alone.

        Returns:
            A receipt for each step: what came of it.

        Raises:
            InputError: where a technique has no torch half.
        """
        raise InputError(f"the technique {self.name!r} must have a torch half: define apply(network, steps)")


def whole(layer: Layer) -> Part:
    """The one part of an untouched layer.

    Args:
        layer: facts about a layer of the original.
    """
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


def whole_parts(table: LayerTable) -> Parts:
    """The parts of the untouched network, by layer; a layer that a norm folds into has a bias.

    Args:
        table: facts about the original.
    """
    folded = {layer.folds_into for layer in table.layers if layer.folds_into}
    parts: Parts = {}
    for layer in table.layers:
        part = whole(layer)
        if layer.name in folded and not part.bias:
            part = msgspec.structs.replace(part, bias=True)
        parts[layer.name] = (part,)
    return parts


def layer_at(step: Step, table: LayerTable) -> Layer:
    """The layer that a step names.

    Args:
        step: of a technique that acts on layers.
        table: facts about the original.

    Raises:
        InputError: where there is no such layer.
    """
    layer = table.by_name.get(step.site)
    if layer is None:
        raise InputError(f"a {step.technique} step must name a layer of the network, but {step.site!r} is none; "
                         "see `autocompress show` for the names")
    return layer


def present(step: Step, parts: Parts) -> tuple[Part, ...]:
    """The parts of the layer that a step names.

    Args:
        step: of a technique that acts on layers.
        parts: those to which the step is applied.

    Raises:
        InputError: where the layer's block is dropped.
    """
    if not parts[step.site]:
        raise InputError(f"a {step.technique} step must name a layer that is still there, but the block of "
                         f"{step.site} is dropped: leave one of the two steps out")
    return parts[step.site]


def plural(count: int, noun: str) -> str:
    """`1 layer`, `2 layers`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def tally(counts: Mapping[str, int]) -> str:
    """`8 bit × 12, 4 bit × 8`, the most frequent first."""
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} × {count}" for name, count in ranked)


def commonest(values: Iterable[Scalar], default: Scalar) -> Scalar:
    """The most frequent of several values; `default` where there are none."""
    counted: dict[Scalar, int] = {}
    for value in values:
        counted[value] = counted.get(value, 0) + 1
    return max(counted, key=lambda value: (counted[value], str(value)), default=default)


def allowed(site: str, skip: Iterable[str]) -> bool:
    """Whether no pattern of `skip` (as in file names) names a site."""
    return not any(fnmatch(site, pattern) for pattern in skip)


def one_of(values: Iterable[object] | str, legal: tuple[object, ...], what: str) -> None:
    """InputError unless each of `values` is legal and there is one; the word "profile" stands for what the device
    allows."""
    if values == "profile":
        return
    for value in values:
        if value not in legal:
            raise InputError(f"{what} must be taken from {legal}, but got {value!r}")
    if not values:
        raise InputError(f"{what} must not be empty")
