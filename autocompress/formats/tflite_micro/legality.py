"""What a file for TensorFlow Lite Micro can hold of a step."""

from __future__ import annotations

from autocompress.core.layer import Layer
from autocompress.core.plan import Step
from autocompress.techniques.sparsify import SPARSIFY


def refused(step: Step, layer: Layer) -> str:
    """Why no file for microcontrollers can hold what a step makes of a layer; an empty text where one can."""
    if step.technique == SPARSIFY.name:
        return "it stores zeros like other weights, so that they save nothing"
    bits = int(step.args.get("weight_bits", 32))
    if bits == 16:
        return "the interpreter for microcontrollers has no half precision"
    if bits > 8:
        return ""
    if int(step.args.get("activation_bits", 32)) == 32:
        return "the interpreter for microcontrollers multiplies integer weights by integer activations alone: choose " \
               "activations of 8 or 16 bits"
    return ""
