"""What was measured against what was predicted: a line, and what it leaves unexplained.

By site: a Bayesian linear model of how far each site's weight is from one. By place: a Gaussian process over where the
trials were (Rasmussen & Williams, "Gaussian Processes for Machine Learning", 2006, sections 2.1 and 2.2); length and
noise are those of the largest marginal likelihood, the amplitude follows from them. Trials that agree leave little
noise: another one at the same place is then known to tell nothing new.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

LENGTHS = (math.log(2), math.log(4))
"""Distances, in logarithms, at which one trial tells less of another: factors of two and four."""
NOISES = (0.05, 0.2, 0.8)
"""Shares of the variance that no neighbour explains."""
MOST_TRIALS = 128
"""The latest ones, of which a model is made: its time grows with their cube."""


def rising_line(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Slope, 0 at least, of the line of least squares, and how far each of `y` `(n,)` is from it."""
    slope = max(0.0, float(np.cov(x, y)[0, 1] / (x.var(ddof=1) + 1e-9)))
    return slope, y - y.mean() - slope * (x - x.mean())


def draw_weights(sensitivities: np.ndarray, lost: np.ndarray, spread: float, rng: np.random.Generator) -> np.ndarray:
    """One draw `(knobs,)` of the logarithms by which predicted `sensitivities` `(n, knobs)` of single knobs are off,
    of what
    the logarithms `lost` `(n,)` of measured losses leave likely. Before any, they are normal with deviation `spread`.

    To first order a knob moves the logarithm of a sum of sensitivities by its share of that sum.
    """
    sensitivities, lost = sensitivities[-MOST_TRIALS:], lost[-MOST_TRIALS:]
    totals = sensitivities.sum(1, keepdims=True) + 1e-12
    slope, off = rising_line(np.log(totals[:, 0]), lost)
    moved = slope * (sensitivities / totals - (sensitivities / totals).mean(0))
    noise = off.var() + 1e-6
    precision = np.eye(len(sensitivities[0])) / spread**2 + moved.T @ moved / noise
    mean = np.linalg.solve(precision, moved.T @ off / noise)
    drawn: np.ndarray = mean + np.linalg.solve(np.linalg.cholesky(precision).T, rng.normal(size=len(precision)))
    return drawn


def sample_gp(known: np.ndarray, residuals: np.ndarray, asked: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One draw `(a,)` of what `residuals` `(n,)`, measured at `known` `(n, d)`, may be at `asked` `(a, d)`, all at
    once: places nearby are drawn alike."""
    known, residuals = known[-MOST_TRIALS:], residuals[-MOST_TRIALS:]
    if residuals.std() < 1e-9:
        return np.zeros(len(asked))
    apart, across, among = (_squares(*pair) for pair in ((known, known), (asked, known), (asked, asked)))
    best, chosen = -math.inf, (np.zeros(0), np.zeros((0, 0)))
    for length, noise in itertools.product(LENGTHS, NOISES):
        lower = np.linalg.cholesky((1 - noise) * _kernel(apart, length) + noise * np.eye(len(known)))
        white = np.linalg.solve(lower, residuals)
        amplitude = float(white @ white) / len(known)
        likelihood = -0.5 * len(known) * math.log(amplitude) - float(np.log(np.diag(lower)).sum())
        if likelihood > best:
            seen = np.linalg.solve(lower, (1 - noise) * _kernel(across, length).T)
            left = (1 - noise) * _kernel(among, length) - seen.T @ seen
            best, chosen = likelihood, (seen.T @ white, amplitude * left)
    mean, covariance = chosen
    values, vectors = np.linalg.eigh(covariance)
    drawn: np.ndarray = mean + vectors @ (np.sqrt(np.maximum(values, 0.0)) * rng.normal(size=len(values)))
    return drawn


def _squares(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    squares: np.ndarray = np.square(one[:, None] - other).sum(2)
    return squares


def _kernel(squares: np.ndarray, length: float) -> np.ndarray:
    kernel: np.ndarray = np.exp(-0.5 * squares / length**2)
    return kernel
