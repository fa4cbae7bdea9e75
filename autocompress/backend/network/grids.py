"""Levels that are not evenly spaced: powers of two, and codebooks fitted to a layer's weights.

Every grid is a table of int8 levels, symmetric about zero, that a scale per output channel multiplies. So the same
integer kernels run, the factor of a norm moves into the scales, and a negative one into the signs. Rounding a
codebook's entries to integers costs little beside the distance between 2**bits of them.

Sources: Han et al., "Deep Compression" (ICLR 2016), for weight sharing; Wang & Song, "Ckmeans.1d.dp" (The R Journal,
2011), for k-means in one dimension, which dynamic programming solves exactly; Zhou et al., "Incremental Network
Quantization" (ICLR 2017), for powers of two.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

BINS = 256
"""Resolution in which magnitudes are clustered."""
ORDINARY = 1e9
"""Magnitudes beyond it, or below its inverse, are brought to about 1 before they are squared."""
NOTHING = 1e-30
"""Magnitudes below are as good as zero."""
ROUNDS = 3
"""How often codebook and scales are fitted to one another."""


def power_levels(bits: int) -> Tensor:
    """Signed powers of two, int8 `(2**bits,)`, ascending. At 4 bits the smallest is 0, because 128 is no int8."""
    count = 2 ** (bits - 1)
    powers = [0, *(2**i for i in range(count - 1))] if count > 7 else [2**i for i in range(count)]
    return _mirrored(torch.tensor(powers))


def codebook_levels(rows: Tensor, importance: Tensor, bits: int, top: int) -> Tensor:
    """The codebook of least weighted squared error for `rows` (…, n), each up to a scale of its own.

    `importance` broadcasts to `rows` and is not negative. int8 `(2**bits,)`, ascending, an entry for each sign, the
    largest of them `top`.
    """
    magnitude, weight = rows.abs(), importance.expand_as(rows)
    magnitude = magnitude / ordinary_unit(magnitude)
    scale = ((weight * magnitude.square()).sum(-1, keepdim=True) / weight.sum(-1, keepdim=True).clamp_min(1e-30)).sqrt()
    entries = torch.zeros(1)
    for _ in range(ROUNDS):
        ratio = magnitude / scale.clamp_min(1e-12)
        entries = _cluster(ratio, weight * scale.square(), 2 ** (bits - 1))
        chosen = nearest(ratio, entries)
        fitted = (weight * magnitude * chosen).sum(-1, keepdim=True) \
            / (weight * chosen.square()).sum(-1, keepdim=True).clamp_min(1e-30)
        scale = torch.where(fitted > 0, fitted, scale)
    return _mirrored((entries / entries[-1] * top).round())


def ordinary_unit(weight: Tensor, by_row: bool = False) -> Tensor:
    """A power of two that brings weights to about 1, of all or, `(…, 1)`, of each row `(…, n)`: 1 where they are of an
    ordinary size. Divided by it, which rounds nothing, squares and products neither overflow nor vanish."""
    largest = weight.abs().amax(-1, keepdim=True) if by_row else weight.abs().amax()
    odd = (largest > NOTHING) & ((largest < 1 / ORDINARY) | (largest > ORDINARY))
    return torch.where(odd, 2.0 ** largest.clamp_min(NOTHING).log2().round(), torch.ones_like(largest))


def nearest(ratio: Tensor, levels: Tensor) -> Tensor:
    """The nearest of `levels` (n,), ascending, as float."""
    levels = levels.to(ratio.dtype)
    return levels[torch.bucketize(ratio.contiguous(), (levels[1:] + levels[:-1]) / 2)]


def _mirrored(magnitudes: Tensor) -> Tensor:
    return torch.cat([-magnitudes.flip(0), magnitudes]).to(torch.int8)


def _cluster(values: Tensor, weights: Tensor, count: int) -> Tensor:
    """Centres `(count,)`, ascending, of exact weighted k-means over a histogram of `values` (any shape, not
    negative)."""
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
