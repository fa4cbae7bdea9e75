"""What is expected of places from what was measured at others."""

from __future__ import annotations

import numpy as np
import pytest

from autocompress.search.surrogate import MOST_TRIALS, draw_residuals


def _surface(places: np.ndarray) -> np.ndarray:
    values: np.ndarray = np.sin(places[:, 0]) + 0.3 * places[:, 1]
    return values - values.mean()


def test_a_smooth_surface_is_found_between_its_points_and_unknown_far_away() -> None:
    rng = np.random.default_rng(0)
    known = rng.uniform(0, 5, (60, 2))
    inside, far = rng.uniform(1, 4, (10, 2)), np.array([[40.0, 40.0]])
    residuals = _surface(np.concatenate([known, inside]))
    drawn = np.array([draw_residuals(known, residuals[:60], np.concatenate([inside, far]), rng) for _ in range(200)])
    assert np.abs(drawn.mean(0)[:-1] - residuals[60:]).max() < 0.2
    assert drawn.std(0)[:-1].max() < 0.5 * drawn.std(0)[-1]
    assert drawn.std(0)[-1] == pytest.approx(residuals.std(), rel=1.0)


def test_scatter_that_no_neighbour_explains_stays_uncertain() -> None:
    """Of mere noise, the mean at a measured place is nearer to nothing than to what was measured there."""
    rng = np.random.default_rng(1)
    known, residuals = rng.uniform(0, 1, (40, 2)), rng.normal(size=40)
    drawn = np.array([draw_residuals(known, residuals, known, rng) for _ in range(200)])
    assert np.abs(drawn.mean(0)).mean() < 0.5 * np.abs(residuals).mean()


def test_places_nearby_are_drawn_alike() -> None:
    rng = np.random.default_rng(2)
    known = rng.uniform(0, 5, (20, 2))
    twins = np.array([[30.0, 30.0], [30.01, 30.0], [60.0, 60.0]])
    drawn = np.array([draw_residuals(known, _surface(known), twins, rng) for _ in range(200)]).T
    correlation = np.corrcoef(drawn)
    assert correlation[0, 1] > 0.99
    assert abs(correlation[0, 2]) < 0.3


def test_equal_trials_and_repeated_places_are_no_trouble() -> None:
    rng = np.random.default_rng(3)
    known = np.zeros((8, 2))
    assert np.array_equal(draw_residuals(known, np.zeros(8), known[:3], rng), np.zeros(3))
    assert np.isfinite(draw_residuals(known, rng.normal(size=8), known[:3], rng)).all()


def test_the_latest_trials_make_the_model() -> None:
    rng = np.random.default_rng(4)
    known = np.concatenate([np.zeros((MOST_TRIALS, 2)), rng.uniform(0, 5, (MOST_TRIALS, 2))])
    residuals = np.concatenate([np.full(MOST_TRIALS, 50.0), _surface(known[MOST_TRIALS:])])
    assert np.abs(draw_residuals(known, residuals, known[-5:], rng)).max() < 5
