"""Weight and activation bit-widths of a layer: `args = {"weight_bits": b, "activation_bits": 8 or 32}`.

Weights of 8 bits and less are integers with one scale per output channel; 16 is float16, 32 float32.
A layer with float weights has float activations: between quantised activations a runtime may quantise
float weights on its own, silently. So has an embedding, whatever its weights: it reads tokens, and its output is
rows of its table.
"""

from __future__ import annotations

import msgspec

from autocompress.core.layer import LayerTable
from autocompress.core.plan import Step
from autocompress.errors import InputError
from autocompress.hardware.profile import HardwareProfile
from autocompress.techniques.base import Parts, Technique, layer_at, present

WEIGHT_BITS = (1, 2, 3, 4, 5, 6, 7, 8, 16, 32)
ACTIVATION_BITS = (8, 32)
KINDS = ("conv", "linear", "embedding")


def _check(step: Step, table: LayerTable, profile: HardwareProfile) -> None:
    layer = layer_at(step, table)
    if layer.locked or layer.kind not in KINDS:
        raise InputError(f"{step.site} cannot be quantised: {layer.locked or layer.kind + ' layers stay float'}")
    weight_bits, activation_bits = step.args.get("weight_bits"), step.args.get("activation_bits")
    if weight_bits not in WEIGHT_BITS or activation_bits not in ACTIVATION_BITS:
        raise InputError(f"at {step.site} `weight_bits` must be one of {WEIGHT_BITS} and `activation_bits` one of "
                         f"{ACTIVATION_BITS}, but got {weight_bits!r} and {activation_bits!r}")
    if int(weight_bits) >= 16 and activation_bits != 32:
        raise InputError(f"float weights at {step.site} go with float activations: set `activation_bits` to 32")
    if layer.kind == "embedding" and activation_bits != 32:
        raise InputError(f"the embedding {step.site} has float activations: set `activation_bits` to 32")
    profile.check_bits(int(weight_bits), int(activation_bits), step.site)


def _effect(step: Step, table: LayerTable, parts: Parts) -> None:
    layer_at(step, table)
    parts[step.site] = tuple(
        msgspec.structs.replace(part, weight_bits=int(step.args["weight_bits"]),
                                activation_bits=int(step.args["activation_bits"]))
        for part in present(step, parts))


QUANTIZE = Technique("quantize", _check, _effect)
