"""Ranges of activations: what integers cover, chosen from a sample of the values.

* `minmax`: all that was observed.
* `percentile`: all but the outermost 0.01% of the values; `percentile-99.9`: all but the outermost 0.1%.
* `entropy`: the clipping of least Kullback-Leibler divergence between the histogram and itself after quantisation
  (Migacz, "8-bit Inference with TensorRT", GTC 2017).
* `mse`: the clipping of least squared error on the sample (Sung et al., "Resiliency of Deep Neural Networks under
  Quantization", 2015).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

# Ranges tried for the least squared error, as shares of the observed one.
CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)
# Shares of the values that percentiles leave outside, half of it at either end.
OUTSIDE = {"percentile": 1e-4, "percentile-99.9": 1e-3}
# Bins of the entropy method's histogram, of the narrowest range that it tries, and between one range and the next.
BINS, LEAST_BINS, STRIDE = 2048, 256, 32
# Values of a tensor that a range is chosen from, drawn at random.
VALUES = 2**18


@dataclass(frozen=True)
class Range:
    """Affine integers of 8 or 16 bits, unsigned unless said so: real = (code - zero_point) * scale."""

    scale: float
    zero_point: int
    bits: int = 8
    signed: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the integers."""
        return np.dtype(f"{'int' if self.signed else 'uint'}{self.bits}")


def about_zero(span: Range) -> Range:
    """The signed range with its zero point at 0 that covers what an unsigned one does."""
    top = 2**span.bits - 1
    reach = max(span.zero_point, top - span.zero_point) * span.scale
    return Range(float(np.float32(reach / (2**(span.bits - 1) - 1))), 0, span.bits, signed=True)


class Observed:
    """What was seen of the values of one tensor: bounds, widened to hold zero, and a sample where one is asked for."""

    def __init__(self) -> None:
        self.low, self.high = 0.0, 0.0
        self._seen: list[np.ndarray] = []

    def see(self, values: np.ndarray, count: int, draw: np.random.Generator) -> None:
        """Take in values, of which so many are kept."""
        flat = values.reshape(-1)
        self.low, self.high = min(self.low, float(flat.min())), max(self.high, float(flat.max()))
        if count:
            self._seen.append(flat if len(flat) <= count else flat[draw.integers(0, len(flat), count)])

    @property
    def sample(self) -> np.ndarray:
        """The values that were kept."""
        return np.concatenate(self._seen) if self._seen else np.zeros(0)


def choose_range(sample: np.ndarray, low: float, high: float, bits: int = 8, method: str = "minmax") -> Range:
    """Choose the range that the integers of an activation cover.

    Args:
        sample: some of its values, `(n,)`.
        low: the least value that was observed.
        high: the largest value that was observed.
        bits: width of the integers, 8 or 16.
        method: `minmax`, `percentile`, `percentile-99.9`, `entropy` or `mse`.

    Returns:
        A range inside [low, high], widened to hold 0.
    """
    if method in OUTSIDE:
        ends = np.quantile(sample, (OUTSIDE[method] / 2, 1 - OUTSIDE[method] / 2))
        return _covering(max(low, min(0.0, float(ends[0]))), min(high, max(0.0, float(ends[1]))), bits)
    if method == "entropy":
        share = _least_divergence(sample, low, high, 2**min(bits, 8))
        return _covering(low * share, high * share, bits)
    if method == "mse":
        tried = [_covering(low * share, high * share, bits) for share in CLIPS]
        return tried[int(np.argmin([_squared_error(sample, option) for option in tried]))]
    return _covering(low, high, bits)


def _covering(low: float, high: float, bits: int) -> Range:
    top = 2**bits - 1
    scale = max((high - low) / top, 1e-8)
    return Range(float(np.float32(scale)), round(min(float(top), max(0.0, -low / scale))), bits)


def _squared_error(sample: np.ndarray, span: Range) -> float:
    codes = np.clip(np.rint(sample / span.scale) + span.zero_point, 0, 2**span.bits - 1)
    return float(np.square((codes - span.zero_point) * span.scale - sample, dtype=np.float64).mean())


def _least_divergence(sample: np.ndarray, low: float, high: float, levels: int) -> float:
    """Return the share of [low, high] that `entropy` keeps. Zeros are left out: they are exact in any range."""
    values = sample[sample != 0]
    if not len(values) or high - low < 1e-12:
        return 1.0
    counts, edges = np.histogram(values, BINS, (low, high))
    zero = int(np.searchsorted(edges, 0.0))
    best, least = 1.0, np.inf
    for bins in range(LEAST_BINS, BINS + 1, STRIDE):
        share = bins / BINS
        begin, end = round(zero * (1 - share)), BINS - round((BINS - zero) * (1 - share))
        inside = counts[begin:end].astype(float)
        clipped = inside.copy()
        clipped[0] += counts[:begin].sum()
        clipped[-1] += counts[end:].sum()
        divergence = _divergence(clipped, _quantised(inside, levels))
        if divergence < least:
            best, least = share, divergence
    return best


def _quantised(counts: np.ndarray, levels: int) -> np.ndarray:
    """Quantise a histogram: the bins of one level share its values evenly, but empty bins stay empty."""
    level = np.arange(len(counts)) * levels // len(counts)
    used = counts > 0
    total = np.bincount(level, counts, levels)
    amount = np.bincount(level, used, levels)
    return np.where(used, (total / np.maximum(amount, 1))[level], 0.0)


def _divergence(of: np.ndarray, by: np.ndarray) -> float:
    """Return the Kullback-Leibler divergence of two histograms; a little mass everywhere keeps it finite."""
    p, q = of / of.sum(), (by + 1e-9) / (by.sum() + 1e-9 * len(by))
    some = p > 0
    return float((p[some] * np.log(p[some] / q[some])).sum())
