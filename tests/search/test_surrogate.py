"""What is expected of places from what was measured at others."""

from __future__ import annotations

import numpy as np
import pytest

from autocompress.search.samplers.surrogate import MOST_TRIALS, draw_weights, sample_gp


def _surface(places: np.ndarray) -> np.ndarray:
    values: np.ndarray = np.sin(places[:, 0]) + 0.3 * places[:, 1]
    return values - values.mean()


def test_a_smooth_surface_is_found_between_its_points_and_unknown_far_away() -> None:
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 5, (60, 2))
    inside, far = rng.uniform(1, 4, (10, 2)), np.array([[40.0, 40.0]])
    residuals = _surface(np.concatenate([places, inside]))
    drawn = np.array([sample_gp(places, residuals[:60], np.concatenate([inside, far]), rng) for _ in range(200)])
    assert np.abs(drawn.mean(0)[:-1] - residuals[60:]).max() < 0.2
    assert drawn.std(0)[:-1].max() < 0.5 * drawn.std(0)[-1]
    assert drawn.std(0)[-1] == pytest.approx(residuals.std(), rel=1.0)


def test_scatter_that_no_neighbour_explains_stays_uncertain() -> None:
    """Of mere noise, the mean at a measured place is nearer to nothing than to what was measured there."""
    rng = np.random.default_rng(1)
    places, residuals = rng.uniform(0, 1, (40, 2)), rng.normal(size=40)
    drawn = np.array([sample_gp(places, residuals, places, rng) for _ in range(200)])
    assert np.abs(drawn.mean(0)).mean() < 0.5 * np.abs(residuals).mean()


def test_places_nearby_are_drawn_alike() -> None:
    rng = np.random.default_rng(2)
    places = rng.uniform(0, 5, (20, 2))
    twins = np.array([[30.0, 30.0], [30.01, 30.0], [60.0, 60.0]])
    drawn = np.array([sample_gp(places, _surface(places), twins, rng) for _ in range(200)]).T
    correlation = np.corrcoef(drawn)
    assert correlation[0, 1] > 0.99
    assert abs(correlation[0, 2]) < 0.3


def test_equal_trials_and_repeated_places_are_no_trouble() -> None:
    rng = np.random.default_rng(3)
    places = np.zeros((8, 2))
    assert np.array_equal(sample_gp(places, np.zeros(8), places[:3], rng), np.zeros(3))
    assert np.isfinite(sample_gp(places, rng.normal(size=8), places[:3], rng)).all()


def test_the_latest_trials_make_the_model() -> None:
    rng = np.random.default_rng(4)
    places = np.concatenate([np.zeros((MOST_TRIALS, 2)), rng.uniform(0, 5, (MOST_TRIALS, 2))])
    residuals = np.concatenate([np.full(MOST_TRIALS, 50.0), _surface(places[MOST_TRIALS:])])
    assert np.abs(sample_gp(places, residuals, places[-5:], rng)).max() < 5


def _losses(sensitivities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Logarithms of what is lost where the sensitivities of knobs are off by factors."""
    lost: np.ndarray = np.log(sensitivities @ truth)
    return lost


def test_sites_that_do_more_harm_than_predicted_come_to_weigh_more() -> None:
    rng = np.random.default_rng(5)
    sensitivities, truth = rng.exponential(size=(100, 6)), np.array([3.0, 1.0, 1.0, 1.0, 1.0, 1 / 3])
    drawn = np.array([draw_weights(sensitivities, _losses(sensitivities, truth), 0.5, rng) for _ in range(300)])
    mean = drawn.mean(0) - drawn.mean()
    assert mean.argmax() == 0
    assert mean.argmin() == 5
    assert mean[0] > 0.4
    assert mean[5] < -0.4
    assert drawn.std(0).max() < 0.5, "the more is known, the less is left to chance"


def test_what_trials_do_not_tell_stays_as_free_as_before() -> None:
    """A knob that never did sensitivity, and losses that do not follow the prediction at all."""
    rng = np.random.default_rng(6)
    sensitivities = np.column_stack([rng.exponential(size=(40, 2)), np.zeros(40)])
    drawn = np.array(
        [draw_weights(sensitivities, _losses(sensitivities, np.array([2.0, 1.0, 1.0])), 0.5, rng) for _ in range(1000)]
    )
    assert drawn[:, 2].std() == pytest.approx(0.5, rel=0.1)
    falling = np.array(
        [draw_weights(sensitivities, -_losses(sensitivities, np.ones(3)), 0.5, rng) for _ in range(1000)]
    )
    assert falling.mean(0) == pytest.approx(np.zeros(3), abs=0.06)
    assert falling.std(0) == pytest.approx(np.full(3, 0.5), rel=0.1)
