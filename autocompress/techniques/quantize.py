"""Weight and activation bit-widths of a layer: `args = {"weight_bits": b, "activation_bits": 8, 16 or 32}`.

Weights of 8 bits and less are integers with one scale per output channel; 16 is float16, 32 float32. With integer
activations no level is greater than 64, so that the file answers the same on every CPU. A layer with
float weights has float activations: between quantised activations a runtime may quantise float weights on its own,
silently. So has an embedding, whatever its weights: it reads tokens, and its output is rows of its table; and so have
transposed convolutions and recurrent layers, for which runtimes have no integer kernels. 16-bit activations are
stored in integers but computed with in float.

Further args, left out where they are the default:
* `grid`: "linear"; "codebook", the levels of a layer fitted to its weights (2 to 6 bits); "pow2", signed powers of
  two (2 to 4 bits).
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

from collections.abc import Mapping

import msgspec

from autocompress.core.layer import Layer, LayerTable
from autocompress.core.plan import Plan, Scalar, Step
from autocompress.errors import InputError
from autocompress.hardware.profile import HardwareProfile
from autocompress.techniques.base import Parts, Technique, layer_at, present

WEIGHT_BITS = (1, 2, 3, 4, 5, 6, 7, 8, 16, 32)
KINDS = ("conv", "linear", "embedding", "recurrent")
ACTIVATION_BITS = (8, 16, 32)
GRIDS = {"linear": (1, 2, 3, 4, 5, 6, 7, 8), "codebook": (2, 3, 4, 5, 6), "pow2": (2, 3, 4)}
"""Widths of each grid: one bit is two levels however they are placed; where levels are many, even ones are as good,
and further powers of two too small to matter."""
SETTINGS: dict[str, tuple[Scalar, ...]] = {
    "grid": tuple(GRIDS), "group": (0, 32, 64, 128), "rounding": ("gptq", "nearest", "adaround"),
    "range": ("minmax", "mse", "percentile", "entropy"), "equalize": ("none", "weights", "activations"),
}
"""What else a step may say beside its widths; the first of each is the default and is left out of `args`."""
DEFAULTS = {name: legal[0] for name, legal in SETTINGS.items()}
LARGEST_LEVEL = 127
"""Greatest magnitude of an 8-bit integer weight whose sign can move."""
LARGEST_EXACT_LEVEL = 64
"""Greatest magnitude of an integer weight that no kernel can saturate. Where a CPU has no dot-product instructions,
ONNX Runtime adds two products of an 8-bit activation and an 8-bit weight in 16 bits: 255 * (64 + 64) fits,
255 * (64 + 65) does not."""


def quantize_args(weight_bits: int, activation_bits: int, settings: Mapping[str, Scalar],
                  layer: Layer | None = None) -> dict[str, Scalar]:
    """The args of a step that follows `settings` as far as they are legal and matter at these widths, and for this
    layer where one is given."""
    grid = settings["grid"] if weight_bits in GRIDS[str(settings["grid"])] else DEFAULTS["grid"]
    matters = {"grid": weight_bits <= 8, "group": weight_bits <= 8 and activation_bits == 32,
               "rounding": weight_bits < 8 or (weight_bits == 8 and activation_bits != 32),
               "range": activation_bits != 32,
               "equalize": weight_bits <= 8 and layer is not None and bool(layer.scales_with)}
    chosen = {name: value for name, value in {**settings, "grid": grid}.items()
              if matters[name] and value != DEFAULTS[name]}
    return {"weight_bits": weight_bits, "activation_bits": activation_bits, **chosen}


def level_limit(args: Mapping[str, Scalar]) -> int:
    """The greatest magnitude that the levels of a quantize step may have: exact in every kernel where activations are
    integers, all that 8 bits hold where they are float."""
    return LARGEST_LEVEL if args["activation_bits"] == 32 else LARGEST_EXACT_LEVEL


def range_method(plan: Plan) -> str:
    """How the plan chooses ranges of activations. InputError when its steps disagree: layers share tensors."""
    methods = {str(step.args.get("range", DEFAULTS["range"])) for step in plan.find("quantize").values()
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
    for site, step in plan.find("quantize").items():
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


def _check(step: Step, plan: Plan, table: LayerTable, profile: HardwareProfile) -> None:
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
        chosen = step.args.get(name, legal[0])
        if chosen not in legal:
            raise InputError(f"`{name}` at {step.site} must be one of {legal}, but got {chosen!r}")
        if chosen != legal[0] and bits >= 16:
            raise InputError(f"`{name}` at {step.site} is for weights of 8 bits or less, but `weight_bits` is {bits}")
    grid = str(step.args.get("grid", DEFAULTS["grid"]))
    if bits < 16 and bits not in GRIDS[grid]:
        raise InputError(f"`weight_bits` at {step.site} must be one of {GRIDS[grid]} with a {grid} grid, "
                         f"but got {bits}")
    if step.args.get("equalize", DEFAULTS["equalize"]) != DEFAULTS["equalize"]:
        _check_equalize(layer, table)
    if step.args.get("group") and activation_bits != 32:
        raise InputError(f"a `group` at {step.site} goes with float activations, because integer kernels know one "
                         f"scale per channel: set `activation_bits` to 32, or leave `group` out")


def _effect(step: Step, table: LayerTable, parts: Parts) -> None:
    layer_at(step, table)
    grid, group = str(step.args.get("grid", DEFAULTS["grid"])), int(step.args.get("group", 0))
    parts[step.site] = tuple(
        msgspec.structs.replace(part, weight_bits=int(step.args["weight_bits"]), grid=grid, quant_group_size=group,
                                activation_bits=int(step.args["activation_bits"]))
        for part in present(step, parts))


QUANTIZE = Technique("quantize", _check, _effect)
