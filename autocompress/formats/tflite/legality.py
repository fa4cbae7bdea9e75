"""What a TFLite file can hold of a step."""

from __future__ import annotations

from autocompress.core.layer import Layer
from autocompress.core.plan import Step


def refused(step: Step, layer: Layer) -> str:
    """Why no TFLite file can hold what a step makes of a layer; an empty text where one can."""
    bits = int(step.args.get("weight_bits", 32))
    if bits > 8:
        return ""
    if step.args.get("group"):
        return "its kernels know one scale for each channel"
    if bits == 8:
        return ""
    if bits == 4 and step.args.get("grid") == "whole":
        depthwise = layer.kind == "conv" and layer.groups > 1
        return "its depthwise and grouped kernels read 8 bits" if depthwise else ""
    if bits == 4:
        return "its 4-bit kernels read whole numbers, which the grid \"whole\" has"
    return "its kernels read weights of 4 and 8 bits"
