"""Bytes of an ExecuTorch program, from facts alone.

A tensor takes its bytes, aligned, and an entry. What a layer takes in the description of a delegate is a typical number
of bytes; all that does not follow from layers is the skeleton, measured once on the original's file.
"""

from __future__ import annotations

from collections.abc import Sequence

from autocompress.core.layer import Part

# What tensors of delegates begin at a multiple of, and those of portable operators.
ALIGN, PORTABLE = 128, 16
# Bytes of a tensor's entry: its key of 64 letters, its segment and its place.
ENTRY = 120
# Bytes in the description of a delegate: of a layer, by the axes of its kernel; of what computes in integers more than
# in float, less where another factor of the same layer follows at once, more in one direction; and of a value that is
# rounded on the way between floats and integers. Least squares over small networks.
LAYER = {0: 223, 1: 748, 2: 332}
INTEGER, FACTOR, IN_ONE_DIRECTION, ROUNDING = 316, -130, 136, 91


def program_bytes(parts: Sequence[Part], skeleton_bytes: int) -> int:
    """Predict the bytes of the program of a whole network, given in order of execution."""
    layers = [part for part in parts if part.kind in ("conv", "linear")]
    integers = [part for part in layers if part.activation_bits <= 8]
    last = {part.layer: part.name for part in layers}
    total = skeleton_bytes + sum(map(_stored, parts))
    total += sum(LAYER.get(len(part.kernel), LAYER[2]) for part in layers)
    total += sum(INTEGER + FACTOR * (last[part.layer] != part.name) + IN_ONE_DIRECTION * (len(part.kernel) == 1)
                 for part in integers)
    return total + ROUNDING * len({part.reads for part in integers} ^ {part.writes for part in integers})


def _stored(part: Part) -> int:
    """Bytes of the tensors of a part, with their entries."""
    channels = part.out_channels
    if part.kind == "norm":
        sizes = [4 * channels] * 4
    elif part.kind == "other":
        sizes = [4 * part.weights]
    else:
        sizes = [(1 if part.weight_bits == 8 else 4) * part.weights]
        integer = part.weight_bits == 8  # its weight has scales, and so has its bias
        sizes += [4 * channels] * (integer + part.bias * (1 + integer))
    if part.kind in ("norm", "other", "embedding"):
        return sum(-(-size // PORTABLE) * PORTABLE for size in sizes)
    return sum(-(-size // ALIGN) * ALIGN + ENTRY for size in sizes)
