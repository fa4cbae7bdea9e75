"""Samplers: Optuna's by name, `SolverSampler`, or a user's own object or factory."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from autocompress.core.calling import call_with, parameters_of
from autocompress.core.metric import Reference
from autocompress.errors import InputError
from autocompress.search.samplers.thompson_sampler import SolverSampler
from autocompress.space.projection import Projection
from autocompress.space.solver.solver import Solver

# A sampler as a user gives it: a name, an Optuna sampler, or a function or class that makes one. A factory is called
# with those of `seed`, `projection`, `solver` and `reference` that its parameters name.
Sampler = str | BaseSampler | Callable[..., BaseSampler]

# `SolverSampler`, which needs a solver; where there is none, TPE.
AUTO = "auto"


def _tpe(seed: int) -> BaseSampler:
    # Multivariate: knobs of neighbouring layers interact, and one joint ask is several times cheaper.
    return optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=12)


SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": _tpe,
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=16),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
}


class Reseeded(BaseSampler):
    """Delegates each trial to a sampler made for it, with a seed derived from the search's seed and the trial's number.

    What is drawn then follows from the seed, the number and the trials before, so that a search that was stopped goes
    on as if it had not been.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make, self._seed = make, seed
        self._number, self._sampler = -1, make(seed)

    @property
    def name(self) -> str:
        """The name of the sampler that draws."""
        return name_of(self._sampler)

    def _for(self, trial: FrozenTrial) -> BaseSampler:
        if trial.number != self._number:
            self._number, self._sampler = trial.number, _quietly(self._make, _seed(self._seed, trial.number))
        return self._sampler

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As the sampler that draws."""
        return self._for(trial).infer_relative_search_space(study, trial)

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial,
                        search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """As the sampler that draws."""
        return self._for(trial).sample_relative(study, trial, search_space)

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str,
                           param_distribution: BaseDistribution) -> Any:
        """As the sampler that draws."""
        return self._for(trial).sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """As the sampler that draws."""
        self._for(trial).before_trial(study, trial)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState,
                    values: Sequence[float] | None) -> None:
        """As the sampler that draws."""
        self._for(trial).after_trial(study, trial, state, values)


def _quietly(make: Callable[[int], BaseSampler], seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return make(seed)


def name_of(sampler: Any) -> str:
    """Return a sampler's `name`, where it has one, or the name of its class or function."""
    if isinstance(sampler, str):
        return sampler
    kind = sampler if isinstance(sampler, type) or not isinstance(sampler, BaseSampler) else type(sampler)
    return str(getattr(sampler, "name", None) or getattr(kind, "__name__", type(sampler).__name__))


def check_sampler(sampler: Any) -> None:
    """Raise InputError for a name of no sampler, with the nearest that there is, and for what can make none."""
    if isinstance(sampler, str):
        names = (AUTO, *SAMPLERS)
        if sampler not in names:
            close = difflib.get_close_matches(sampler, names, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise InputError(f"--sampler must be one of {', '.join(names)}, or path/to/file.py:name, but got "
                             f"{sampler!r}{hint}")
    elif not isinstance(sampler, BaseSampler) and not callable(sampler):
        raise InputError("sampler must be a name, an optuna.samplers.BaseSampler, or a function or class that makes "
                         f"one, but got {sampler!r}")


def asks_solver(sampler: Any) -> bool:
    """Whether a sampler proposes by a solver, and so keeps to the budget by itself."""
    return sampler == AUTO if isinstance(sampler, str) else (not isinstance(sampler, BaseSampler)
                                                             and "solver" in parameters_of(sampler))


def make_sampler(sampler: Sampler, seed: int, solver: Solver | None = None,
                 reference: Reference | None = None, projection: Projection | None = None,
                 trials: int = 0) -> BaseSampler:
    """Make the sampler of a study.

    Args:
        sampler: a name, an object that is taken as it is, or a factory, which is called once.
        seed: of the search.
        solver: of the space, where its options' sensitivity is known; None otherwise.
        reference: what the original has of the task's metric.
        projection: of the space and the budget.
        trials: how many were drawn before the search was stopped. A sampler by name goes on as if nothing had been; a
            factory is then given another seed, and an object is reseeded, or both would draw the same again.

    Raises:
        InputError: what `check_sampler` refuses, and a factory that makes something else or requires other arguments.
    """
    check_sampler(sampler)
    if sampler == AUTO:
        if solver is None or reference is None:
            return Reseeded(_tpe, seed)
        return SolverSampler(solver, seed, reference)
    if isinstance(sampler, str):
        return _quietly(lambda first: Reseeded(SAMPLERS[sampler], first), seed)
    if isinstance(sampler, BaseSampler):
        if trials:
            sampler.reseed_rng()
        return sampler
    available = {"seed": _seed(seed, trials) if trials else seed, "projection": projection, "solver": solver,
                 "reference": reference}
    instance = call_with(sampler, available, "a factory of samplers")
    if not isinstance(instance, BaseSampler):
        raise InputError(f"a factory of samplers must return an optuna.samplers.BaseSampler, but {name_of(sampler)} "
                         f"returned {instance!r}")
    return instance


def _seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
