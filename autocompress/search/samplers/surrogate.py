"""Surrogate models: regression of measured losses on predicted sensitivities, and Gaussian processes of the residuals.

The weights of decisions follow a Bayesian linear model. The residuals at a size and latency follow a Gaussian process
(Rasmussen & Williams, "Gaussian Processes for Machine Learning", 2006, sections 2.1 and 2.2); length scale and noise
are those of the largest marginal likelihood, and the amplitude follows from them. Trials that agree leave little noise,
so that another trial at the same point is predicted to add no information.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

# Length scales of the kernel that are tried, in natural logarithms of size or latency: factors of two and four.
LENGTHS = (math.log(2), math.log(4))
# Shares of noise in the variance that are tried.
NOISES = (0.05, 0.2, 0.8)
# The number of the latest trials that a model is fitted to: its time grows with their cube.
MOST_TRIALS = 128


def rising_line(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the slope of the least-squares line, at least 0, and the residuals of `y`, `(n,)`."""
    slope = max(0.0, float(np.cov(x, y)[0, 1] / (x.var(ddof=1) + 1e-9)))
    return slope, y - y.mean() - slope * (x - x.mean())


def draw_weights(
    sensitivities: np.ndarray, log_losses: np.ndarray, spread: float, rng: np.random.Generator
) -> np.ndarray:
    """Draw the logarithms `(decisions,)` of the decisions' weights from the posterior of a Bayesian linear model.

    To first order a decision's weight changes the logarithm of a sum of sensitivities by the decision's share of it.

    Args:
        sensitivities: predicted sensitivities of the trials by decision, in nats, `(n, decisions)`.
        log_losses: logarithms of the trials' measured losses, `(n,)`.
        spread: standard deviation of the normal prior of a logarithm, whose mean is 0.
        rng: source of the draw.
    """
    sensitivities, log_losses = sensitivities[-MOST_TRIALS:], log_losses[-MOST_TRIALS:]
    totals = sensitivities.sum(1, keepdims=True) + 1e-12
    slope, residuals = rising_line(np.log(totals[:, 0]), log_losses)
    design = slope * (sensitivities / totals - (sensitivities / totals).mean(0))
    noise = residuals.var() + 1e-6
    precision = np.eye(len(sensitivities[0])) / spread**2 + design.T @ design / noise
    mean = np.linalg.solve(precision, design.T @ residuals / noise)
    log_weights: np.ndarray = mean + np.linalg.solve(np.linalg.cholesky(precision).T, rng.normal(size=len(precision)))
    return log_weights


def sample_gp(
    points: np.ndarray, residuals: np.ndarray, query_points: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draw a sample `(q,)` of a Gaussian process at the query points, jointly, from its posterior.

    Args:
        points: points of the observations, `(n, d)`.
        residuals: observations of mean 0, `(n,)`.
        query_points: points of the sample, `(q, d)`.
        rng: source of the draw.
    """
    points, residuals = points[-MOST_TRIALS:], residuals[-MOST_TRIALS:]
    if residuals.std() < 1e-9:
        return np.zeros(len(query_points))
    trial_distances, query_trial_distances, query_distances = (
        _squared_distances(*pair)
        for pair in ((points, points), (query_points, points), (query_points, query_points))
    )
    best_likelihood, posterior = -math.inf, (np.zeros(0), np.zeros((0, 0)))
    for length, noise in itertools.product(LENGTHS, NOISES):
        lower = np.linalg.cholesky((1 - noise) * _kernel(trial_distances, length) + noise * np.eye(len(points)))
        whitened = np.linalg.solve(lower, residuals)
        amplitude = float(whitened @ whitened) / len(points)
        likelihood = -0.5 * len(points) * math.log(amplitude) - float(np.log(np.diag(lower)).sum())
        if likelihood > best_likelihood:
            explained = np.linalg.solve(lower, (1 - noise) * _kernel(query_trial_distances, length).T)
            unscaled_covariance = (1 - noise) * _kernel(query_distances, length) - explained.T @ explained
            best_likelihood, posterior = likelihood, (explained.T @ whitened, amplitude * unscaled_covariance)
    mean, covariance = posterior
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    sample: np.ndarray = mean + eigenvectors @ (
        np.sqrt(np.maximum(eigenvalues, 0.0)) * rng.normal(size=len(eigenvalues)))
    return sample


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    distances: np.ndarray = np.square(a[:, None] - b).sum(2)
    return distances


def _kernel(squared_distances: np.ndarray, length: float) -> np.ndarray:
    kernel: np.ndarray = np.exp(-0.5 * squared_distances / length**2)
    return kernel
