"""Weight and activation bit-widths of a layer: `args = {"weight_bits": b, "activation_bits": 8, 16 or 32}`.

Weights of 8 bits and less are integers with one scale per output channel; 16 is float16, 32 float32. With integer
activations no level is greater than 64, so that the file answers the same on every CPU. A layer with
float weights has float activations: between quantised activations a runtime may quantise float weights on its own,
silently. So has an embedding, whatever its weights: it reads tokens, and its output is rows of its table; and so have
transposed convolutions and recurrent layers, for which runtimes have no integer kernels. 16-bit activations are
stored in integers but computed with in float.

Further args, left out where they are the default:
* `grid`: "linear"; "codebook", the levels of a layer fitted to its weights (2 to 6 bits); "pow2", signed powers of
  two (2 to 4 bits); "whole", evenly spaced with zero among the levels, as kernels for 4-bit weights want them (3, 4).
* `group`: that many weights of a row share a scale, instead of the whole row. With float activations only: integer
  kernels know one scale per channel.
* `rounding`: "gptq", each error made up for by the weights that follow; "nearest"; or "adaround", up or
  down as learned from the moments of the input. Where those are not known, all round to nearest.
* `range`: how the range of a quantised activation is chosen, one way for the whole network.
* `equalize`: the channels that this layer reads are rescaled against the layer that writes them, so that the network
  computes the same with more even channels: "weights", by what both layers' weights show, or "activations", by what
  calibration data show between them. All layers that read the same channels are rescaled with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import msgspec

from autocompress.core.layer import Layer, LayerTable
from autocompress.core.plan import Plan, Scalar, Step
from autocompress.errors import InputError
from autocompress.hardware.profile import HardwareProfile
from autocompress.techniques import knobs
from autocompress.techniques.base import (
    Option,
    Parts,
    Technique,
    allowed,
    commonest,
    layer_at,
    one_of,
    plural,
    present,
    tally,
)
from autocompress.techniques.knobs import ALL_LAYERS, Decisions, Knob, KnobKey, Setting, Value

WEIGHT_BITS = (1, 2, 3, 4, 5, 6, 7, 8, 16, 32)
KINDS = ("conv", "linear", "embedding", "recurrent")
ACTIVATION_BITS = (8, 16, 32)
# Widths of each grid: one bit is two levels however they are placed; where levels are many, even ones are as good, and
# further powers of two too small to matter; from 7 bits on linear levels are whole numbers.
GRIDS = {"linear": (1, 2, 3, 4, 5, 6, 7, 8), "codebook": (2, 3, 4, 5, 6), "pow2": (2, 3, 4), "whole": (3, 4)}
# What else a step may say beside its widths; the first of each is the default and is left out of `args`.
SETTINGS: dict[str, tuple[Scalar, ...]] = {
    "grid": tuple(GRIDS), "group": (0, 32, 64, 128), "rounding": ("gptq", "nearest", "adaround"),
    "range": ("minmax", "mse", "percentile", "percentile-99.9", "entropy"),
    "equalize": ("none", "weights", "activations"),
}
DEFAULTS = {name: legal[0] for name, legal in SETTINGS.items()}
# What a space says in place of a range and an equalization that are to be measured on the original, and those two.
MEASURED, MEASURABLE = "measured", ("range", "equalize")
# Kinds of knobs: weight widths, and activation widths of a layer or of the network.
BITS, ACTIVATIONS = "bits", "act"
# Greatest magnitude of an 8-bit integer weight whose sign can move.
LARGEST_LEVEL = 127
# Greatest magnitude of an integer weight that no kernel can saturate. Where a CPU has no dot-product instructions, ONNX
# Runtime adds two products of an 8-bit activation and an 8-bit weight in 16 bits: 255 * (64 + 64) fits, 255 * (64 + 65)
# does not.
LARGEST_EXACT_LEVEL = 64


def quantize_args(weight_bits: int, activation_bits: int, settings: Mapping[str, Scalar],
                  layer: Layer | None = None) -> dict[str, Scalar]:
    """The args of a step that follows `settings` as far as they are legal and matter at these widths, and for this
    layer where one is given."""
    grid = settings["grid"] if weight_bits in GRIDS[str(settings["grid"])] else DEFAULTS["grid"]
    matters = {"grid": weight_bits <= 8, "group": weight_bits <= 8 and activation_bits == 32,
               "rounding": weight_bits < 8 or (weight_bits == 8 and activation_bits != 32),
               "range": activation_bits != 32,
               "equalize": weight_bits <= 8 and layer is not None and bool(layer.scales_with)}
    used = {name: value for name, value in {**settings, "grid": grid}.items()
            if matters[name] and value != DEFAULTS[name]}
    return {"weight_bits": weight_bits, "activation_bits": activation_bits, **used}


def level_limit(args: Mapping[str, Scalar]) -> int:
    """The greatest magnitude that the levels of a quantize step may have: exact in every kernel where activations are
    integers, all that 8 bits hold where they are float."""
    return LARGEST_LEVEL if args["activation_bits"] == 32 else LARGEST_EXACT_LEVEL


def range_method(plan: Plan) -> str:
    """How the plan chooses ranges of activations. InputError when its steps disagree: layers share tensors."""
    methods = {str(step.args.get("range", DEFAULTS["range"])) for step in steps_of(plan).values()
               if step.args["activation_bits"] != 32}
    if len(methods) > 1:
        raise InputError(f"`range` must be the same at every layer, because layers share tensors, but the plan has "
                         f"{', '.join(sorted(methods))}")
    return methods.pop() if methods else str(DEFAULTS["range"])


def equalized(table: LayerTable, plan: Plan) -> dict[str, str]:
    """How the plan evens out the channels that a module writes, by its name: see `Layer.scales_with`.

    InputError when layers that read the same channels ask for different ways.
    """
    ways: dict[str, str] = {}
    for site, step in steps_of(plan).items():
        way, source = str(step.args.get("equalize", DEFAULTS["equalize"])), layer_at(step, table).scales_with
        if way == DEFAULTS["equalize"] or not source:
            continue
        if ways.setdefault(source, way) != way:
            raise InputError(f"`equalize` must be the same at all layers that read what {source} writes, but the plan "
                             f"has {way!r} at {site} and {ways[source]!r} at another")
    return ways


def _check_equalize(layer: Layer, table: LayerTable) -> None:
    if not layer.scales_with:
        can = [other.name for other in table.layers if other.scales_with]
        why = f": {layer.not_rescalable_reason}" if layer.not_rescalable_reason else ""
        raise InputError(f"`equalize` at {layer.name} must be left out, because what it reads cannot be rescaled{why}; "
                         + (f"it can at {', '.join(can)}" if can else "it cannot at any layer of this network"))


class QuantizeSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bit-widths to choose from; "profile" means all that the profile allows.

    `activation_scope`: one choice for the whole model, or one for each layer. Of `grids`, `groups`, `roundings`,
    `ranges` and `equalizes` one is chosen for the whole model, and followed wherever it is legal; `measured`, alone,
    stands for what harms the original least.
    """

    weight_bits: tuple[int, ...] | Literal["profile"] = "profile"
    activation_bits: tuple[int, ...] | Literal["profile"] = "profile"
    activation_scope: Literal["model", "layer"] = "model"
    grids: tuple[str, ...] = ("linear",)
    groups: tuple[int, ...] = (0,)
    roundings: tuple[str, ...] = ("gptq",)
    ranges: tuple[str, ...] = (MEASURED,)
    equalizes: tuple[str, ...] = (MEASURED,)
    skip: tuple[str, ...] = ()

    @property
    def choices(self) -> dict[str, tuple[int | str, ...]]:
        """What may be chosen for the whole model, by the name of the step's argument."""
        return {"grid": self.grids, "group": self.groups, "rounding": self.roundings, "range": self.ranges,
                "equalize": self.equalizes}

    @property
    def open_choices(self) -> tuple[str, ...]:
        """Names of the choices that are to be measured."""
        return tuple(name for name in MEASURABLE if self.choices[name] == (MEASURED,))

    def with_measured(self, choices: Mapping[str, str]) -> QuantizeSpec:
        """Itself with `choices`, by name, in place of what was to be measured; of one that is left out, the default."""
        settled = {f"{name}s": (choices.get(name, str(DEFAULTS[name])),) for name in self.open_choices}
        return msgspec.structs.replace(self, **settled)


class Quantize(Technique):
    """Rounding to fewer bits; a weight width for each layer, activation widths for each or all, and how to round."""

    name = "quantize"
    Settings = QuantizeSpec
    solved = (BITS,)
    after_training = True

    def check_settings(self, settings: QuantizeSpec) -> None:
        """InputError for widths and choices that no device has."""
        one_of(settings.weight_bits, WEIGHT_BITS, "weight_bits")
        one_of(settings.activation_bits, ACTIVATION_BITS, "activation_bits")
        for name, choices in settings.choices.items():
            if name not in settings.open_choices:
                one_of(choices, SETTINGS[name], f"{name}s")

    def knobs(self, space: Decisions, settings: QuantizeSpec) -> list[Knob]:
        """Widths that the space and the device allow. InputError for a width that the device does not have."""
        profile = space.profile
        weight_bits = _legal_widths(settings.weight_bits, WEIGHT_BITS, profile.weight_bits, "weight_bits", profile.id)
        activations = _legal_widths(settings.activation_bits, ACTIVATION_BITS, profile.activation_bits,
                                    "activation_bits", profile.id)
        layers = [layer for layer in space.table.layers if layer.kind in KINDS and layer.compressible
                  and allowed(layer.name, settings.skip)]
        sites = [ALL_LAYERS] if settings.activation_scope == "model" else [
            layer.name for layer in layers if not layer.float_activations]
        kept_float = space.unpaying if 32 in activations else frozenset()
        settled = set(kept_float)
        if all(layer.float_activations or layer.name in kept_float for layer in layers):
            settled.add(ALL_LAYERS)
        width_knobs = [Knob(kind=BITS, site=layer.name, choices=weight_bits, plain=max(weight_bits),
                            unit=knobs.WEIGHT_BITS) for layer in layers]
        for site in sites if layers else ():
            choices = (32,) if site in settled else activations
            width_knobs.append(Knob(kind=ACTIVATIONS, site=site, choices=choices, plain=min(choices),
                                    unit=knobs.ACTIVATION_BITS, saves=True))
        return width_knobs + [
            Knob(kind=name, site=ALL_LAYERS, choices=choices, plain=choices[0], saves=name in ("grid", "group"))
            for name, choices in settings.choices.items()
            if len(choices) > 1 and (name != "equalize" or any(layer.scales_with for layer in layers))]

    def widths(self, setting: Setting) -> dict[str, int]:
        """The width of each layer that is rounded."""
        capped = {knob.site: setting.capped(knob) for knob in setting.space.of_kind(BITS)}
        return {site: bits for site, bits in capped.items() if bits != 32}

    def decode(self, setting: Setting, parts: Parts) -> list[Step]:
        """A step for each layer of fewer than 32 bits; layers that cannot be computed in integers keep float
        activations."""
        space, settled, steps = setting.space, settled_choices(setting.space), []
        settings = {name: setting.get(name, ALL_LAYERS, value) for name, value in settled.items()}
        common = setting.get(ACTIVATIONS, ALL_LAYERS, 32)
        for site, bits in setting.weight_bits.items():
            if not parts[site]:
                continue
            layer = space.table.by_name[site]
            integer = bits <= 8 and not layer.float_activations and site not in space.unpaying
            activation_bits = int(setting.get(ACTIVATIONS, site, common)) if integer else 32
            steps.append(Step(site, self.name, quantize_args(bits, activation_bits, settings, layer)))
        return steps

    def encode(self, space: Decisions, steps: Mapping[str, Step], parts: Parts) -> dict[KnobKey, Value]:
        """The widths of each step, and of what is chosen for the whole model what most steps say."""
        values: dict[KnobKey, Value] = {
            knob.key: steps[knob.site].args["weight_bits"] if knob.site in steps else 32
            for knob in space.of_kind(BITS)}
        integer = [step for site, step in steps.items() if not space.table.by_name[site].float_activations
                   and site not in space.unpaying and int(step.args["weight_bits"]) <= 8]
        for knob in space.of_kind(ACTIVATIONS):
            widths = [step.args.get("activation_bits", 32) for step in integer if knob.site in (ALL_LAYERS, step.site)]
            if widths:  # else nothing tells
                values[knob.key] = commonest(widths, 32)
        for name, default in DEFAULTS.items():
            # A step leaves out what does not matter at its width: those that say something speak for all.
            values[KnobKey(name, ALL_LAYERS)] = commonest(
                [step.args[name] for step in steps.values() if name in step.args], default)
        return values

    def options(self, space: Decisions) -> Iterator[tuple[Step, Option]]:
        """Every integer width of each layer, with float activations."""
        settings = settled_choices(space)
        for knob in space.of_kind(BITS):
            for bits in (int(choice) for choice in knob.choices):
                if bits < 16:
                    yield Step(knob.site, self.name, quantize_args(bits, 32, settings)), (bits,)

    def alternatives(self, space: Decisions, site: str, costs: Mapping[Option, float]) -> list[tuple[Option, float]]:
        """The widths of the space that the table has, and float ones, which cost nothing."""
        knob = space.by_key.get(KnobKey(BITS, site))
        choices = [int(choice) for choice in knob.choices] if knob else [32]
        widths = [bits for bits in choices if bits >= 16 or (bits,) in costs] or [max(choices)]
        return [((bits,), costs.get((bits,), 0.0)) for bits in widths]

    def values(self, space: Decisions, site: str, option: Option) -> dict[str, Value]:
        """The weight width of an option."""
        return {BITS: option[0]}

    def weight_bits(self, option: Option) -> int | None:
        """The option itself."""
        return int(option[0])

    def sensitivity(self, space: Decisions, step: Step, costs: Mapping[Option, float], parts: Parts) -> float | None:
        """That of the width; 16 bits cost nothing."""
        bits = int(step.args["weight_bits"])
        return 0.0 if bits >= 16 else costs.get((bits,))

    def check(self, step: Step, plan: Plan, table: LayerTable, profile: HardwareProfile) -> None:
        """InputError for widths or further arguments that are not legal at the layer or on the device."""
        layer = layer_at(step, table)
        if layer.not_compressible_reason or layer.kind not in KINDS:
            raise InputError(
                f"{step.site} cannot be quantised: {layer.not_compressible_reason or layer.kind + ' layers stay float'}"
            )
        weight_bits, activation_bits = step.args.get("weight_bits"), step.args.get("activation_bits")
        if weight_bits not in WEIGHT_BITS or activation_bits not in ACTIVATION_BITS:
            raise InputError(f"at {step.site} `weight_bits` must be one of {WEIGHT_BITS} and `activation_bits` one of "
                             f"{ACTIVATION_BITS}, but got {weight_bits!r} and {activation_bits!r}")
        bits = int(weight_bits)
        if bits >= 16 and activation_bits != 32:
            raise InputError(f"float weights at {step.site} go with float activations: set `activation_bits` to 32")
        if layer.float_activations and activation_bits != 32:
            kind = "transposed convolution" if layer.transposed else f"{layer.kind} layer"
            raise InputError(f"the {kind} {step.site} has float activations: set `activation_bits` to 32")
        profile.check_bits(bits, int(activation_bits), step.site)
        for name, legal in SETTINGS.items():
            value = step.args.get(name, legal[0])
            if value not in legal:
                raise InputError(f"`{name}` at {step.site} must be one of {legal}, but got {value!r}")
            if value != legal[0] and bits >= 16:
                raise InputError(f"`{name}` at {step.site} is for weights of 8 bits or less, but `weight_bits` "
                                 f"is {bits}")
        grid = str(step.args.get("grid", DEFAULTS["grid"]))
        if bits < 16 and bits not in GRIDS[grid]:
            raise InputError(f"`weight_bits` at {step.site} must be one of {GRIDS[grid]} with a {grid} grid, "
                             f"but got {bits}")
        if step.args.get("equalize", DEFAULTS["equalize"]) != DEFAULTS["equalize"]:
            _check_equalize(layer, table)
        if step.args.get("group") and activation_bits != 32:
            raise InputError(f"a `group` at {step.site} goes with float activations, because integer kernels know one "
                             f"scale per channel: set `activation_bits` to 32, or leave `group` out")

    def effect(self, step: Step, table: LayerTable, parts: Parts) -> None:
        """Each part has the widths, the grid and the groups of the step."""
        layer_at(step, table)
        grid, group = str(step.args.get("grid", DEFAULTS["grid"])), int(step.args.get("group", 0))
        parts[step.site] = tuple(
            msgspec.structs.replace(part, weight_bits=int(step.args["weight_bits"]), grid=grid, quant_group_size=group,
                                    activation_bits=int(step.args["activation_bits"]))
            for part in present(step, parts))

    def describe(self, step: Step, table: LayerTable) -> str:
        """Weight and activation widths."""
        return f"{step.args.get('weight_bits', '?')}w/{step.args.get('activation_bits', '?')}a bits"

    def summary(self, steps: Iterable[Step], table: LayerTable) -> str:
        """How many layers have each width."""
        bits = Counter(f"{step.args.get('weight_bits', '?')} bit" for step in steps)
        return f"{self.name} {plural(bits.total(), 'layer')} ({tally(bits)})"


def _legal_widths(widths: tuple[int, ...] | str, every: tuple[int, ...], legal: tuple[int, ...], what: str,
                  profile: str) -> tuple[int, ...]:
    """The widths of the space in bits. InputError for those that the device does not have."""
    if isinstance(widths, str):
        return tuple(bits for bits in every if bits in legal)
    illegal = [bits for bits in widths if bits not in legal]
    if illegal:
        raise InputError(f"`{what}` must be taken from {legal} on {profile}, but the space asks for {illegal}; "
                         'write "profile" for all that the device allows')
    return tuple(int(bits) for bits in widths)


def settled_choices(space: Decisions) -> dict[str, Scalar]:
    """What holds for the whole model where no knob decides it: the first of the space's choices, and the default where
    nothing was measured yet."""
    settings = space.settings.get(QUANTIZE.name)
    choices = settings.with_measured({}).choices if isinstance(settings, QuantizeSpec) else SETTINGS
    return {name: legal[0] for name, legal in choices.items()}


def activation_bits(space: Decisions) -> int:
    """The least width of activations, in bits, that the whole network may have."""
    knob = space.by_key.get(KnobKey(ACTIVATIONS, ALL_LAYERS))
    return min((int(choice) for choice in knob.choices), default=32) if knob else 32


def steps_of(plan: Plan) -> dict[str, Step]:
    """The steps of a plan that round layers, by site."""
    return plan.find(QUANTIZE.name)


def weight_widths(plan: Plan) -> dict[str, int]:
    """The weight width in bits of each layer that a plan rounds."""
    return {site: int(step.args["weight_bits"]) for site, step in steps_of(plan).items()}


QUANTIZE = Quantize()
