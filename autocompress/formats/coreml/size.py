"""Bytes of a Core ML package, from facts alone.

An array takes its bytes, aligned, and a head; one of few values stands in the program. What a layer takes there is a
typical number of bytes; all that does not follow from layers is the skeleton, measured once on the original's file.
"""

from __future__ import annotations

from collections.abc import Sequence

from autocompress.core.layer import Part

# What arrays begin at a multiple of, and the bytes of the head in front of one; arrays of fewer values stand in the
# program.
ALIGN, HEAD, LEAST_VALUES = 64, 64, 10
# Bytes in the program of a layer, by the axes of its kernel, and of what restores a weight. Least squares over small
# networks.
LAYER = {0: 436, 1: 992, 2: 1015}
INTEGER = 187


def package_bytes(parts: Sequence[Part], skeleton_bytes: int) -> int:
    """Predict the bytes of the archive of a whole network, given in order of execution."""
    layers = [part for part in parts if part.kind in ("conv", "linear")]
    total = skeleton_bytes + sum(_array(count, width) for part in parts for count, width in _arrays(part))
    return total + sum(LAYER.get(len(part.kernel), LAYER[2]) + INTEGER * (part.weight_bits == 8) for part in layers)


def _arrays(part: Part) -> list[tuple[int, int]]:
    """Values, and bytes of each, of the arrays of a part: weight, scales, zero points, bias."""
    channels = part.out_channels
    if part.kind == "norm":
        return [(channels, 4)] * 4
    if part.kind == "other":
        return [(part.weights, 4)]
    scales = [(channels, 4), (channels, 1)] * (part.weight_bits == 8)
    return [(part.weights, 1 if part.weight_bits == 8 else 4), *scales, *[(channels, 4)] * part.bias]


def _array(count: int, width: int) -> int:
    size = count * width
    return size if count < LEAST_VALUES else HEAD + -(-size // ALIGN) * ALIGN
