"""Quantisation grids that are tables: powers of two, whole numbers, and codebooks fitted to a layer's weights.

Every grid is a table of int8 levels, symmetric about zero, that a scale per output channel multiplies. So the same
integer kernels run, the factor of a norm moves into the scales, and a negative one into the signs. Rounding a
codebook's entries to integers costs little beside the distance between 2**bits of them.

Sources: Han et al., "Deep Compression" (ICLR 2016), for weight sharing; Wang & Song, "Ckmeans.1d.dp" (The R Journal,
2011), for k-means in one dimension, which dynamic programming solves exactly; Zhou et al., "Incremental Network
Quantization" (ICLR 2017), for powers of two. Whole numbers are what kernels for 4-bit weights read.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# The number of histogram bins in which magnitudes are clustered.
BINS = 256
# The magnitude above which, and below whose inverse, weights are scaled to about 1 before they are squared.
ORDINARY = 1e9
# The magnitude below which weights count as zero.
NOTHING = 1e-30
# The number of alternating fits of codebook and scales.
ROUNDS = 3


def power_levels(bits: int) -> Tensor:
    """Return signed powers of two, int8 `(2**bits,)`, ascending. At 4 bits the smallest is 0: int8 has no 128."""
    count = 2 ** (bits - 1)
    powers = [0, *(2**i for i in range(count - 1))] if count > 7 else [2**i for i in range(count)]
    return _mirrored(torch.tensor(powers))


def whole_levels(bits: int) -> Tensor:
    """Return evenly spaced whole numbers with zero among them, int8 `(2**bits,)`, ascending: zero is there twice."""
    return _mirrored(torch.arange(2 ** (bits - 1)))


def codebook_levels(rows: Tensor, importance: Tensor, bits: int, top: int) -> Tensor:
    """Return the codebook of least weighted squared error for rows of weights, each up to a scale per row.

    Args:
        rows: Weights `(…, n)`.
        importance: What a squared error of each weight counts for, not negative; it broadcasts to `rows`.
        bits: The bit-width of the codes.
        top: The largest entry.

    Returns:
        int8 `(2**bits,)`, ascending, symmetric about zero.
    """
    magnitude, weight = rows.abs(), importance.expand_as(rows)
    magnitude = magnitude / ordinary_unit(magnitude)
    scale = ((weight * magnitude.square()).sum(-1, keepdim=True) / weight.sum(-1, keepdim=True).clamp_min(1e-30)).sqrt()
    entries = torch.zeros(1)
    for _ in range(ROUNDS):
        ratio = magnitude / scale.clamp_min(1e-12)
        entries = _cluster(ratio, weight * scale.square(), 2 ** (bits - 1))
        levels = nearest(ratio, entries)
        fitted = (weight * magnitude * levels).sum(-1, keepdim=True) \
            / (weight * levels.square()).sum(-1, keepdim=True).clamp_min(1e-30)
        scale = torch.where(fitted > 0, fitted, scale)
    return _mirrored((entries / entries[-1] * top).round())


def ordinary_unit(weight: Tensor, by_row: bool = False) -> Tensor:
    """Return a power of two that scales weights to about 1; it is 1 where they have an ordinary size.

    Division by it rounds nothing, and squares and products of the result neither overflow nor vanish.

    Args:
        weight: Weights of any shape, or `(…, n)` with `by_row`.
        by_row: Whether each row has a unit.

    Returns:
        A scalar, or `(…, 1)` with `by_row`.
    """
    largest = weight.abs().amax(-1, keepdim=True) if by_row else weight.abs().amax()
    odd = (largest > NOTHING) & ((largest < 1 / ORDINARY) | (largest > ORDINARY))
    return torch.where(odd, 2.0 ** largest.clamp_min(NOTHING).log2().round(), torch.ones_like(largest))


def nearest(ratio: Tensor, levels: Tensor) -> Tensor:
    """Return the nearest of the ascending `levels` `(n,)` for each value of `ratio`, as float."""
    levels = levels.to(ratio.dtype)
    return levels[torch.bucketize(ratio.contiguous(), (levels[1:] + levels[:-1]) / 2)]


def _mirrored(magnitudes: Tensor) -> Tensor:
    return torch.cat([-magnitudes.flip(0), magnitudes]).to(torch.int8)


def _cluster(values: Tensor, weights: Tensor, count: int) -> Tensor:
    """Return the centres `(count,)`, ascending, of exact one-dimensional weighted k-means by dynamic programming.

    The k-means is over a histogram of `values` (any shape, not negative) with `weights` of the same shape.
    """
    top = max(float(values.max()), 1e-12)
    index = (values / top * BINS).long().clamp_max(BINS - 1).flatten()
    mass = np.bincount(index, weights.flatten().double(), BINS)
    moment = np.bincount(index, (weights * values).flatten().double(), BINS)
    centre = np.where(mass > 0, moment / np.maximum(mass, 1e-300), (np.arange(BINS) + 0.5) * top / BINS)
    mass = mass / max(mass.sum(), 1e-300) + 1e-12  # empty bins count for next to nothing, but are never undefined
    sums = [np.concatenate([[0.0], np.cumsum(mass * centre**power)]) for power in range(3)]
    zeroth, first, second = (total[None, :] - total[:, None] for total in sums)  # of the bins from i up to j
    spread = np.where(zeroth > 0, second - first**2 / np.where(zeroth > 0, zeroth, 1.0), np.inf)
    best, starts = spread[0], []
    for _ in range(count - 1):
        totals = best[:, None] + spread
        starts.append(totals.argmin(0))
        best = totals.min(0)
    end, centres = BINS, []
    for start in [*(start for start in reversed(starts)), np.zeros(BINS + 1, int)]:
        begin = int(start[end])
        centres.append(first[begin, end] / zeroth[begin, end])
        end = begin
    return torch.tensor(centres[::-1], dtype=torch.float32)
