"""Optuna samplers by name, seeded."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from autocompress.core.metric import Reference
from autocompress.errors import InputError
from autocompress.search.samplers.thompson_sampler import SolverSampler
from autocompress.space.solver.solver import Solver


def _tpe(seed: int) -> optuna.samplers.BaseSampler:
    # Multivariate: knobs of neighbouring layers interact, and one joint ask is several times cheaper.
    return optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=12)


SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": _tpe,
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=16),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
}


class Reseeded(optuna.samplers.BaseSampler):
    """A sampler that draws for a trial what follows from the seed, the trial's number and the trials before it: a
    search that was stopped goes on as if it had not been."""

    def __init__(self, make: Callable[[int], optuna.samplers.BaseSampler], seed: int) -> None:
        self._make, self._seed = make, seed
        self._number, self._sampler = -1, make(seed)

    @property
    def name(self) -> str:
        """Of the sampler that draws."""
        return type(self._sampler).__name__

    def _for(self, trial: FrozenTrial) -> optuna.samplers.BaseSampler:
        if trial.number != self._number:
            seed = int(np.random.SeedSequence([self._seed, trial.number]).generate_state(1)[0])
            self._number, self._sampler = trial.number, _quietly(self._make, seed)
        return self._sampler

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As the sampler does."""
        return self._for(trial).infer_relative_search_space(study, trial)

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial,
                        search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """As the sampler does."""
        return self._for(trial).sample_relative(study, trial, search_space)

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str,
                           param_distribution: BaseDistribution) -> Any:
        """As the sampler does."""
        return self._for(trial).sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """As the sampler does."""
        self._for(trial).before_trial(study, trial)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState,
                    values: Sequence[float] | None) -> None:
        """As the sampler does."""
        self._for(trial).after_trial(study, trial, state, values)


def _quietly(make: Callable[[int], optuna.samplers.BaseSampler], seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return make(seed)


AUTO = "auto"
"""`SolverSampler`, which needs a solver; where there is none, TPE."""


def check_sampler(name: str) -> None:
    """InputError lists the names."""
    names = (AUTO, *SAMPLERS)
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise InputError(f"--sampler must be one of {', '.join(names)}, but got {name!r}{hint}")


def make_sampler(name: str, seed: int, solver: Solver | None = None,
                 reference: Reference | None = None) -> optuna.samplers.BaseSampler:
    """A sampler by name; `SolverSampler` needs `solver` and `reference`. InputError lists the names."""
    check_sampler(name)
    if name == AUTO:
        if solver is None or reference is None:
            return Reseeded(_tpe, seed)
        return SolverSampler(solver, seed, reference)
    return _quietly(lambda first: Reseeded(SAMPLERS[name], first), seed)
