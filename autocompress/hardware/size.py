"""Bytes of the exported file, from facts alone.

The file is the skeleton (graph, names, constants; measured once on the original's export) plus what each
part stores: its weights at their width, a float32 scale for each output channel of integer weights, a float32
bias, and the nodes that unpack and dequantise. The layout is `autocompress.export.build`'s; a test holds
the two together to within 1% over every ready-made space.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil

from autocompress.core.layer import Part

ALIGN = 8
"""Packed codes are padded to a multiple of this."""

# Bytes of protobuf around the payload, measured on exported files (see tests/export/test_size.py).
TENSOR = 24
"""One initialiser: name, shape, type and length fields."""
NODE = 27
"""One node with a short operator, one input and one output."""
UNPACKING = {2: 1295, 3: 3470, 4: 780, 5: 2960, 6: 1970}
"""By width: the tables and nodes that unpack all layers of that width together, once a file."""


def part_bytes(part: Part) -> float:
    """Stored bytes of one part, its nodes included; the shared unpacking of its width is not."""
    if part.kind in ("norm", "other"):
        return 4 * part.weights + (4 if part.kind == "norm" else 1) * TENSOR
    channels = part.out_channels
    total = part.weights * part.weight_bits / 8 + TENSOR
    if part.bias:
        total += 4 * channels + TENSOR
    if part.name != part.layer:
        total += 2.2 * NODE  # a factor's own Conv, whose attributes the skeleton does not hold
    if part.weight_bits == 16:
        total += NODE
    if part.weight_bits <= 8:
        total += 4 * channels + TENSOR + 1.6 * NODE  # scale and DequantizeLinear
        if part.weight_bits < 8:
            total += 2 * NODE + TENSOR + 16  # its share of Split, and Reshape with its shape
        if part.activation_bits == 8:
            total += 2 * (2 * NODE + 12) + 2 * (2 * TENSOR + 5)  # Q/DQ of input and output
    return total


def file_bytes(parts: Iterable[Part], skeleton_bytes: int) -> int:
    """Predicted bytes of `model.onnx` for a whole network."""
    total, widths = float(skeleton_bytes), set()
    for part in parts:
        total += part_bytes(part)
        if part.weight_bits < 8:
            widths.add(part.weight_bits)
    return ceil(total + sum(UNPACKING[bits] for bits in widths))
