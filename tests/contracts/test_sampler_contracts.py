"""Our samplers under the contract, and how a user's own is made."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from autocompress.errors import InputError
from autocompress.search.samplers.make import asks_solver, check_sampler, make_sampler, name_of
from autocompress.testing.sampler_contract import SamplerContract


class TestAuto(SamplerContract):
    """`SolverSampler`: its solver begins each solution from the prices of the one before, so a new process may propose
    another plan of about the same cost."""

    def sampler(self) -> Any:
        """By its name."""
        return "auto"


class TestTpe(SamplerContract):
    """A tree-structured Parzen estimator, past its first random trials."""

    trials, continues = 20, True

    def sampler(self) -> Any:
        """By its name."""
        return "tpe"


class TestNsga2(SamplerContract):
    """Past its first generation."""

    trials, continues = 24, True

    def sampler(self) -> Any:
        """By its name."""
        return "nsga2"


class TestRandom(SamplerContract):
    """Random search."""

    continues = True

    def sampler(self) -> Any:
        """By its name."""
        return "random"


class TestGp(SamplerContract):
    """A Gaussian process, in a space with few knobs: it takes its time."""

    trials, space, continues = 11, "prune-only", True

    def sampler(self) -> Any:
        """By its name."""
        return "gp"


class TestFactory(SamplerContract):
    """A class of Optuna's, given as a factory."""

    def sampler(self) -> Any:
        """The class."""
        return optuna.samplers.RandomSampler


def test_an_object_is_taken_as_it_is_and_reseeded_when_a_search_goes_on() -> None:
    sampler = optuna.samplers.RandomSampler(seed=3)
    assert make_sampler(sampler, 0) is sampler
    before = sampler._rng.rng.get_state()[1].tolist()
    assert make_sampler(sampler, 0, trials=4) is sampler
    assert sampler._rng.rng.get_state()[1].tolist() != before


def test_a_factory_gets_what_it_names() -> None:
    seen: dict[str, Any] = {}

    def factory(seed: int, solver: Any, projection: Any = None) -> optuna.samplers.BaseSampler:
        seen.update(seed=seed, solver=solver, projection=projection)
        return optuna.samplers.RandomSampler(seed)

    solver: Any = object()
    assert make_sampler(factory, 5, solver) and seen == {"seed": 5, "solver": solver, "projection": None}
    make_sampler(factory, 5, solver, trials=2)
    assert seen["seed"] != 5
    assert asks_solver(factory) and asks_solver("auto") and not asks_solver("tpe")
    assert not asks_solver(optuna.samplers.RandomSampler) and not asks_solver(optuna.samplers.RandomSampler())
    assert name_of(factory) == "factory" and name_of(optuna.samplers.RandomSampler()) == "RandomSampler"


def test_what_makes_no_sampler_is_refused() -> None:
    with pytest.raises(InputError, match=r"a factory of samplers may require arguments named seed, .* 'size'"):
        make_sampler(lambda size: None, 0)  # type: ignore[arg-type, misc]
    with pytest.raises(InputError, match=r"must return an optuna\.samplers\.BaseSampler, but dict returned"):
        make_sampler(dict, 0)
    with pytest.raises(InputError, match=r"sampler must be a name, .* but got 7"):
        check_sampler(7)
    with pytest.raises(InputError, match=r"did you mean 'random'\?"):
        check_sampler("randm")
