"""A space: the knobs of one network on one device, and the plan that a setting of the knobs means.

Every knob is always present, whatever the others say, because samplers model fixed spaces best: the rank of a
layer that is not decomposed is simply not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatch
from functools import cached_property

import msgspec

from autocompress.core.format_facts import FormatFacts
from autocompress.core.layer import Group, Layer, LayerTable, Part
from autocompress.core.plan import Plan, Scalar, Step
from autocompress.core.sparsity import UNSTRUCTURED, kept_weights, saves
from autocompress.errors import InputError
from autocompress.hardware.profile import HardwareProfile
from autocompress.space.spec import MAX_DENSITY, SpaceSpec, SparsifySpec
from autocompress.techniques import resolve, sparsify
from autocompress.techniques.base import whole
from autocompress.techniques.decompose import METHODS, methods_for, rank_args, split
from autocompress.techniques.prune import DEFAULT_CRITERION, legal_keep, widths_of
from autocompress.techniques.quantize import ACTIVATION_BITS, DEFAULTS, KINDS, WEIGHT_BITS, quantize_args

Value = float | int | str
Values = Mapping[str, Value]
ALL_LAYERS = "*"
WHOLE = "none"


class Knob(msgspec.Struct, frozen=True):
    """One dimension: a choice, or a number from `low` to `high`."""

    name: str
    choices: tuple[Value, ...] = ()
    low: float = 0.0
    high: float = 1.0


class Space(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Knobs by site. Names are `drop:SITE`, `criterion:*`, `prune:SITE`, `bits:SITE`, `act:SITE`, `method:SITE`,
    `share:SITE`, `sparse-criterion:*`, `pattern:SITE`, `density:SITE`, and `grid:*`, `group:*`, `rounding:*`,
    `range:*`, `equalize:*`. `criterion`, `sparse_criterion` and `settings` hold where there is no knob for them.
    `unpaying`: layers whose activations stay float, whatever the knob says, because 8 bits do not
    make them faster. `file_format`: what predicts the bytes of files and says what they can hold, where that is not the
    format that the profile names."""

    table: LayerTable
    profile: HardwareProfile
    knobs: tuple[Knob, ...]
    max_ratio: float
    min_share: float
    weight_bits: tuple[int, ...]
    criterion: str = DEFAULT_CRITERION
    settings: dict[str, Scalar] = msgspec.field(default_factory=lambda: dict(DEFAULTS))
    min_density: float = 0.1
    sparse_criterion: str = sparsify.DEFAULT_CRITERION
    unpaying: frozenset[str] = frozenset()
    file_format: FormatFacts | None = None

    @cached_property
    def by_name(self) -> dict[str, Knob]:
        """Knobs by name."""
        return {knob.name: knob for knob in self.knobs}

    def decode(self, values: Values, squeeze: float = 0.0, bits_cap: int = 32) -> Plan:
        """The plan of a setting. `squeeze` in [0, 1] moves every prune ratio that far towards its maximum,
        and `bits_cap` bounds weight bits: the two handles by which a plan is projected into a budget."""
        knobs = self.by_name
        steps = [Step(block.name, "drop", {}) for block in self.table.blocks if values.get(f"drop:{block.name}")]
        gone = self.table.gone(step.site for step in steps)
        criterion = str(values.get(f"criterion:{ALL_LAYERS}", self.criterion))
        named = {} if criterion == DEFAULT_CRITERION else {"criterion": criterion}
        steps_by_layer = {layer.name: self._quantize(layer, values, bits_cap) for layer in self.table.layers
                          if f"bits:{layer.name}" in knobs and layer.name not in gone}
        bits_by_layer = {name: int(step.args["weight_bits"]) for name, quantize in steps_by_layer.items()
                         for step in quantize}
        for group in self.table.groups:
            if f"prune:{group.name}" in knobs and any(member.layer not in gone for member in group.members):
                ratio = float(values[f"prune:{group.name}"])
                ratio += (self.max_ratio - ratio) * squeeze
                widths = widths_of(group, bits_by_layer, self.table)
                keep = legal_keep(group, group.channels * (1 - ratio), self.profile, widths)
                if keep < group.channels:
                    steps.append(Step(group.name, "prune", {"keep": keep, **named}))
        pruned = resolve(self.table, Plan.of(steps))
        for layer in self.table.layers:
            if layer.name in gone:
                continue
            parts = pruned.get(layer.name, ())  # a norm that folds has none
            if f"method:{layer.name}" in knobs:
                method = str(values[f"method:{layer.name}"])
                if method != WHOLE:
                    share = float(values[f"share:{layer.name}"])
                    share += (self.min_share - share) * squeeze
                    args = rank_args(parts[0], method, share, self.profile.rank_multiple)
                    if args is not None:
                        parts = split(parts[0], method, args)
                        steps.append(Step(layer.name, "decompose", {"method": method, **args}))
            if f"pattern:{layer.name}" in knobs:
                steps += self._sparsify(layer, values, squeeze, parts, bits_by_layer.get(layer.name, 32))
            steps += steps_by_layer.get(layer.name, [])
        return Plan.of(steps)

    def _sparsify(self, layer: Layer, values: Values, squeeze: float, parts: tuple[Part, ...], bits: int) -> list[Step]:
        """Nothing where the pattern does not fit the parts, or saves no bytes at their width."""
        pattern = str(values[f"pattern:{layer.name}"])
        if pattern == WHOLE or not all(sparsify.fits(part, pattern) for part in parts):
            return []
        args: dict[str, Scalar] = {"pattern": pattern}
        density = 1.0
        if pattern == UNSTRUCTURED:
            density = float(values[f"density:{layer.name}"])
            density = round(density + (self.min_density - density) * squeeze, 4)
            args["density"] = density
        if not all(saves(pattern, p.weights, kept_weights(p.weights, pattern, density), bits) for p in parts):
            return []
        criterion = str(values.get(f"sparse-criterion:{ALL_LAYERS}", self.sparse_criterion))
        named = {} if criterion == sparsify.DEFAULT_CRITERION else {"criterion": criterion}
        return [Step(layer.name, "sparsify", {**args, **named})]

    def _quantize(self, layer: Layer, values: Values, cap: int) -> list[Step]:
        bits = int(values[f"bits:{layer.name}"])
        if bits > cap:
            bits = max((b for b in self._legal_bits(layer) if b <= cap), default=min(self._legal_bits(layer)))
        activation = values.get(f"act:{layer.name}", values.get(f"act:{ALL_LAYERS}", 32))
        integer = bits <= 8 and not layer.float_activations and layer.name not in self.unpaying
        activation_bits = int(activation) if integer else 32
        if bits == 32:
            return []
        settings = {name: values.get(f"{name}:{ALL_LAYERS}", value) for name, value in self.settings.items()}
        return [Step(layer.name, "quantize", quantize_args(bits, activation_bits, settings, layer))]

    def _legal_bits(self, layer: Layer) -> tuple[int, ...]:
        return tuple(int(b) for b in self.by_name[f"bits:{layer.name}"].choices)

    def uniform(self, weight_bits: int | None = None) -> dict[str, Value]:
        """The plain setting: nothing pruned or decomposed, one width for all; projection turns it into a
        uniform ratio. The closest legal width is taken where `weight_bits` is not a choice."""
        values: dict[str, Value] = {}
        for knob in self.knobs:
            kind = knob.name.split(":", 1)[0]
            if kind == "bits":
                choices = [int(c) for c in knob.choices]
                values[knob.name] = max(choices) if weight_bits is None else min(
                    choices, key=lambda c: (abs(c - weight_bits), c))
            elif kind == "act":
                values[knob.name] = min(int(c) for c in knob.choices)
            elif kind in ("method", "pattern"):
                values[knob.name] = WHOLE
            elif kind in ("drop", "criterion", "sparse-criterion", *DEFAULTS):
                values[knob.name] = knob.choices[0]
            else:
                values[knob.name] = knob.low if kind == "prune" else knob.high
        return values


def build_space(table: LayerTable, spec: SpaceSpec, profile: HardwareProfile,
                unpaying: frozenset[str] = frozenset(), file_format: FormatFacts | None = None) -> Space:
    """Knobs for every site that the network has, the file allows and the device can run. `unpaying`: layers whose
    activations stay float where the space leaves the choice. `file_format`: the format of the files, where it is
    not the one that `profile` names.

    InputError when a width that the file asks for is not legal on the device, or when nothing is left.
    """
    knobs: list[Knob] = []
    weight_bits: tuple[int, ...] = (32,)
    if spec.drop:
        knobs += [Knob(f"drop:{b.name}", choices=(0, 1)) for b in table.blocks if _allowed(b.name, spec.drop.skip)
                  and not any(table.by_name[layer].not_compressible_reason for layer in b.layers)]
    if spec.prune and len(spec.prune.criteria) > 1:
        knobs.append(Knob(f"criterion:{ALL_LAYERS}", choices=spec.prune.criteria))
    if spec.prune:
        knobs += [Knob(f"prune:{g.name}", low=0.0, high=spec.prune.max_ratio)
                  for g in table.groups if _allowed(g.name, spec.prune.skip) and _can_be_cut(g, spec, profile)]
    open_layers = [layer for layer in table.layers if layer.kind in ("conv", "linear") and layer.compressible]
    if spec.decompose:
        for layer in open_layers:
            methods = [m for m in METHODS if m in spec.decompose.methods and m in methods_for(layer)]
            if methods and _allowed(layer.name, spec.decompose.skip):
                knobs.append(Knob(f"method:{layer.name}", choices=(WHOLE, *methods)))
                knobs.append(Knob(f"share:{layer.name}", low=spec.decompose.min_share, high=0.9))
    if spec.sparsify:
        knobs += _sparsity(open_layers, spec.sparsify)
    if spec.quantize:
        weight_bits = _widths(spec.quantize.weight_bits, WEIGHT_BITS, profile.weight_bits, "weight_bits", profile.id)
        activations = _widths(spec.quantize.activation_bits, ACTIVATION_BITS, profile.activation_bits,
                              "activation_bits", profile.id)
        quantized = [layer for layer in table.layers if layer.kind in KINDS and layer.compressible
                     and _allowed(layer.name, spec.quantize.skip)]
        knobs += [Knob(f"bits:{layer.name}", choices=weight_bits) for layer in quantized]
        sites = [ALL_LAYERS] if spec.quantize.activation_scope == "model" else [x.name for x in quantized
                                                                                         if not x.float_activations]
        if 32 not in activations:
            unpaying = frozenset()
        settled = set(unpaying)
        if all(x.float_activations or x.name in unpaying for x in quantized):
            settled.add(ALL_LAYERS)
        knobs += [Knob(f"act:{site}", choices=(32,) if site in settled else activations) for site in sites
                  if quantized]
        knobs += [Knob(f"{name}:{ALL_LAYERS}", choices=choices) for name, choices in spec.quantize.settings.items()
                  if len(choices) > 1 and (name != "equalize" or any(layer.scales_with for layer in quantized))]
    if not any(len(knob.choices) > 1 or not knob.choices for knob in knobs) and not _changes(knobs):
        locked = (
            "; ".join(
                f"{layer.name}: {layer.not_compressible_reason}"
                for layer in table.layers
                if layer.not_compressible_reason
            )
            or "none"
        )
        raise InputError(f"the space {spec.name!r} must leave something to decide on {profile.id}, but it has no "
                         f"site in this network. Layers that cannot be touched: {locked}")
    return Space(table=table, profile=profile, knobs=tuple(knobs), weight_bits=weight_bits,
                 criterion=spec.prune.criteria[0] if spec.prune else DEFAULT_CRITERION,
                 settings={name: choices[0] for name, choices in spec.quantize.settings.items()} if spec.quantize
                 else DEFAULTS,
                 max_ratio=spec.prune.max_ratio if spec.prune else 0.0,
                 min_share=spec.decompose.min_share if spec.decompose else 0.1,
                 sparse_criterion=spec.sparsify.criteria[0] if spec.sparsify else sparsify.DEFAULT_CRITERION,
                 min_density=spec.sparsify.min_density if spec.sparsify else 0.1,
                 unpaying=unpaying if spec.quantize else frozenset(), file_format=file_format)


def _sparsity(layers: list[Layer], spec: SparsifySpec) -> list[Knob]:
    """A pattern and a density for each layer; patterns that do not fit the whole layer are not offered."""
    knobs = [Knob(f"sparse-criterion:{ALL_LAYERS}", choices=spec.criteria)] if len(spec.criteria) > 1 else []
    for layer in layers:
        patterns = tuple(p for p in spec.patterns if sparsify.fits(whole(layer), p))
        if patterns and _allowed(layer.name, spec.skip):
            knobs.append(Knob(f"pattern:{layer.name}", choices=(WHOLE, *patterns)))
            if UNSTRUCTURED in patterns:
                knobs.append(Knob(f"density:{layer.name}", low=spec.min_density, high=MAX_DENSITY))
    return knobs


def _allowed(site: str, skip: tuple[str, ...]) -> bool:
    return not any(fnmatch(site, pattern) for pattern in skip)


def _can_be_cut(group: Group, spec: SpaceSpec, profile: HardwareProfile) -> bool:
    """Whether the device, at some width, and the largest ratio leave anything to remove."""
    assert spec.prune is not None
    least = group.channels * (1 - spec.prune.max_ratio)
    return any(legal_keep(group, least, profile, (bits,)) < group.channels for bits in profile.weight_bits)


def _changes(knobs: list[Knob]) -> bool:
    """Whether a space of single choices still changes the network (a fixed int8 recipe is a legal space)."""
    return any(knob.name.startswith("bits:") and knob.choices != (32,) for knob in knobs)


def _widths(asked: tuple[int, ...] | str, known: tuple[int, ...], legal: tuple[int, ...], what: str,
            profile: str) -> tuple[int, ...]:
    if asked == "profile":
        return tuple(bits for bits in known if bits in legal)
    illegal = [bits for bits in asked if bits not in legal]
    if illegal:
        raise InputError(f"`{what}` must be taken from {legal} on {profile}, but the space asks for {illegal}; "
                         'write "profile" for all that the device allows')
    return tuple(int(bits) for bits in asked)
