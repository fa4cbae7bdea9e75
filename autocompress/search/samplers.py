"""Optuna samplers by name, seeded."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable

import optuna

from autocompress.errors import InputError
from autocompress.search.solving import SolverSampler
from autocompress.space.solver import Solver


def _tpe(seed: int) -> optuna.samplers.BaseSampler:
    # Multivariate: knobs of neighbouring layers interact, and one joint ask is several times cheaper.
    return optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=12)


SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": _tpe,
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=16),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
}


AUTO = "auto"
"""`SolverSampler`, which needs a solver; where there is none, TPE."""


def check_sampler(name: str) -> None:
    """InputError lists the names."""
    names = (AUTO, *SAMPLERS)
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise InputError(f"--sampler must be one of {', '.join(names)}, but got {name!r}{hint}")


def make_sampler(name: str, seed: int, solver: Solver | None = None) -> optuna.samplers.BaseSampler:
    """A sampler by name. InputError lists the names."""
    check_sampler(name)
    if name == AUTO:
        return _tpe(seed) if solver is None else SolverSampler(solver, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return SAMPLERS[name](seed)
