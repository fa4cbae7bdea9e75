"""A sampler of one's own: it walks from the best trial so far, a knob at a time."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

import autocompress
from autocompress.testing.networks import NETWORKS, task_data
from autocompress.testing.sampler_contract import SamplerContract


class HillClimber(optuna.samplers.BaseSampler):
    """Redraws one knob in eight of the most accurate trial. What it draws follows from seed and number of the trial."""

    def __init__(self, seed: int) -> None:
        self._seed, self._draws = seed, random.Random(seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: Any) -> dict[str, BaseDistribution]:
        """Nothing: knob by knob."""
        return {}

    def sample_relative(self, study: optuna.Study, trial: Any, search_space: Any) -> dict[str, Any]:
        """Nothing: knob by knob."""
        return {}

    def before_trial(self, study: optuna.Study, trial: Any) -> None:
        """Look up the best, once a trial."""
        self._draws = random.Random(f"{self._seed} {trial.number}")
        done = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        self._best = max(done, key=lambda t: (t.values[0], -t.number)).params if done else {}

    def sample_independent(self, study: optuna.Study, trial: Any, param_name: str,
                           param_distribution: BaseDistribution) -> Any:
        """The best trial's value, or now and then another."""
        if param_name in self._best and self._draws.random() > 0.125:
            return self._best[param_name]
        if isinstance(param_distribution, CategoricalDistribution):
            return self._draws.choice(param_distribution.choices)
        assert isinstance(param_distribution, FloatDistribution)
        return self._draws.uniform(param_distribution.low, param_distribution.high)


class TestHillClimber(SamplerContract):
    """What every sampler must do; this one goes on as if it had not been stopped."""

    def sampler(self) -> Any:
        """The class, which a search calls with its seed."""
        return HillClimber


@pytest.mark.usefixtures("short_searches")
def test_a_search_by_it_ends_in_a_verified_file(tmp_path: Path) -> None:
    network = NETWORKS["chain"]
    result = autocompress.search(network.make(), task_data(network.input_shape), "9kB", trials=6, epochs=1,
                                 effort="fast", sampler=HillClimber, out=tmp_path / "study")
    assert "HillClimber" in {c.origin for c in result.candidates}
    assert result.artifact is not None and Path(result.artifact["path"]).is_file()
