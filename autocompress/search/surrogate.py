"""What a line leaves unexplained, as a Gaussian process over where it was measured.

Rasmussen & Williams, "Gaussian Processes for Machine Learning" (2006), algorithm 2.1; length and noise are those of the
largest marginal likelihood, the amplitude follows from them. Trials that agree leave little noise: another one at the
same place is then known to tell nothing new.
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


def draw_residuals(known: np.ndarray, residuals: np.ndarray, asked: np.ndarray, rng: np.random.Generator) -> np.ndarray:
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
