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
# Bytes in the program of a layer, by the axes of its kernel; of what restores a weight; and of each of its scales and
# zero points that stands outside the program. Least squares over small networks.
LAYER = {0: 438, 1: 1022, 2: 1045}
INTEGER, OUTSIDE = 157, 33


def package_bytes(parts: Sequence[Part], skeleton_bytes: int) -> int:
    """Predict the bytes of the archive of a whole network, given in order of execution."""
    layers = [part for part in parts if part.kind in ("conv", "linear")]
    total = skeleton_bytes + sum(_array(count, width) for part in parts for count, width in _arrays(part))
    total += sum(LAYER.get(len(part.kernel), LAYER[2]) for part in layers)
    integers = [part for part in layers if part.weight_bits == 8]
    return total + sum(INTEGER + 2 * OUTSIDE * (part.out_channels >= LEAST_VALUES) for part in integers)


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
