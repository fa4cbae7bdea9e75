"""What a candidate adds to a front."""

from __future__ import annotations

import numpy as np
import pytest

from autocompress.core.evaluation import Candidate, Evaluation
from autocompress.core.hypervolume import hypervolume_contribution, volume_gains
from autocompress.tasks.classification.metric import ACCURACY


def test_gains_are_shares_of_the_box_that_nothing_on_the_front_has() -> None:
    front = np.array([[0.1, 1.0], [0.2, 0.0]])
    points = np.array([[0.1, 0.0], [0.15, 0.5], [0.2, 1.0]])
    won = hypervolume_contribution(front, points, np.random.default_rng(0))
    assert won[0] == pytest.approx((1.2 * 1.2 - 0.2 * 1.2 - 0.2) / 1.44, abs=0.02), "all but what the two have"
    assert won[1] == pytest.approx(0.25 / 1.44, abs=0.02)
    assert won[2] == 0
    assert hypervolume_contribution(front, points, np.random.default_rng(0), most_lost=0.05)[2] == 0
    assert (
        hypervolume_contribution(front, np.array([[0.16, 0.5]]), np.random.default_rng(0), most_lost=0.05) == 0
    ).all()


def test_candidates_win_by_being_better_smaller_or_faster() -> None:
    def candidate(accuracy: float, size: float, latency: float) -> Candidate:
        metrics = {"accuracy": accuracy, "size_bytes": size, "latency_ms": latency}
        return Candidate(trial=0, status="complete", evaluations=(Evaluation(rung=0, metrics=metrics, sources={}),))

    front = [candidate(0.9, 100, 1.0), Candidate(trial=1, status="failed")]
    options = [candidate(0.9, 100, 1.0), candidate(0.89, 200, 2.0), candidate(0.89, 10, 1.0), candidate(0.89, 100, 0.1)]
    won = volume_gains(front, options, ACCURACY)
    assert won[0] == won[1] == 0
    assert won[2] > 0.03 and won[3] > 0.03
    assert volume_gains([], options, ACCURACY)[0] > 0
