"""The contract of a sampler: inherit `SamplerContract`, say what would be given to a search, and pytest runs it all.

    class TestMine(SamplerContract):
        def sampler(self):
            return MySampler  # a name, an optuna sampler, or a factory of (seed, projection, solver)

Searches run over facts and a formula; no network is trained.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import optuna
import pytest

from autocompress.core.budget import Budget
from autocompress.core.evaluation import Candidate, Evaluation
from autocompress.core.front import objectives
from autocompress.core.metric import Reference
from autocompress.core.plan import Plan
from autocompress.errors import TrialError
from autocompress.hardware.profile import load_profile
from autocompress.search.clock import Settings
from autocompress.search.efforts import Schedule
from autocompress.search.engine import Engine
from autocompress.search.executors.inline import Inline
from autocompress.search.samplers.make import make_sampler
from autocompress.search.storage import create_study
from autocompress.search.study_store import StudyStore
from autocompress.space.projection import Projection
from autocompress.space.solver.solver import Solver
from autocompress.space.space import build_space
from autocompress.space.spec import load_space
from autocompress.tasks.classification.metric import ACCURACY
from autocompress.testing.facts import small_sensitivities, small_table

SIZE = 20_000
BUDGET = Budget(size_bytes=SIZE)
REFERENCE = Reference(ACCURACY, 0.95)


class _Search:
    """A search over a formula: quality rises with the parameters that are left."""

    def __init__(self, sampler: Any, space: str, fails: Callable[[int], bool] = lambda call: False) -> None:
        self._given, self._fails, self._calls = sampler, fails, 0
        self.projection = Projection(build_space(small_table(), load_space(space), load_profile("host")), BUDGET)
        self.solver = Solver(self.projection, small_sensitivities())
        self.study: Any = None

    def run(self, trials: int, evaluations: int | None = None) -> list[Candidate]:
        """Return all candidates when there are `trials` of them, or where the search was stopped after so many
        `evaluations`; go on where an earlier call ended."""
        before = 0 if self.study is None else len(self.study.trials)
        sampler = make_sampler(self._given, 0, self.solver, REFERENCE, self.projection, before)
        if self.study is None:
            self.study = create_study(optuna.storages.InMemoryStorage(), "contract", sampler, {}, objectives(ACCURACY))
        self.study.sampler = sampler
        stopped = (lambda: False) if evaluations is None else (lambda: self._calls >= evaluations)
        engine = Engine(StudyStore(self.study), self.projection, BUDGET, REFERENCE,
                        Settings(trials=trials, schedule=Schedule(short=1, long=0)), time.perf_counter(),
                        lambda event: None, stopped)
        engine.run(Inline.of(self._evaluate, stopped))
        return engine.candidates()

    def _evaluate(self, plan: Plan, rung: int, *_: Any, **__: Any) -> Evaluation:
        self._calls += 1
        if self._fails(self._calls):
            raise TrialError("the evaluation failed")
        metrics = self.projection.estimate(plan)
        quality = min(0.94, 0.3 + metrics["params"] / 40_000 + 0.01 * rung)
        return Evaluation(rung=rung, sources={}, metrics={
            ACCURACY.name: quality, "size_bytes": metrics["size_bytes"], "macs": metrics["macs"],
            "latency_ms": metrics["macs"] / 1e6})


class SamplerContract:
    """What every sampler must do."""

    # Of a search: enough that the sampler draws some, behind those that are always tried first.
    trials = 16
    space = "low-bit"
    # Whether a search that was stopped goes on as if it had not been.
    continues = False

    def sampler(self) -> Any:
        """Return what is given to a search: a name, an object or a factory. Called for each search."""
        raise NotImplementedError

    def search(self, **options: Any) -> _Search:
        """A search by the sampler, over facts and a formula; `options` are keyword arguments of its settings."""
        return _Search(self.sampler(), self.space, **options)

    @pytest.fixture(scope="class")
    @classmethod
    def ended(cls) -> tuple[_Search, list[Candidate]]:
        """A search that came to its end, and its candidates."""
        whole = cls().search()
        return whole, whole.run(cls.trials)

    def test_every_proposal_ends_inside_the_budget(self, ended: tuple[_Search, list[Candidate]]) -> None:
        _, everyone = ended
        assert [c.trial for c in everyone] == list(range(self.trials))
        assert {c.status for c in everyone} <= {"complete", "duplicate"}
        assert all(c.metrics["size_bytes"] <= SIZE for c in everyone)
        assert any(c.origin not in ("uniform", "warm start") for c in everyone), "it was never asked"

    def test_the_same_seed_draws_the_same(self, ended: tuple[_Search, list[Candidate]]) -> None:
        assert self.search().run(self.trials) == ended[1]

    def test_a_stopped_search_goes_on(self, ended: tuple[_Search, list[Candidate]]) -> None:
        parts = self.search()
        first_half = parts.run(self.trials, evaluations=self.trials // 2)
        assert 0 < len(first_half) < self.trials
        everyone = parts.run(self.trials)
        assert len(everyone) == self.trials
        assert [c.plan for c in everyone[:len(first_half)]] == [c.plan for c in first_half]
        if self.continues:
            assert [c.plan for c in everyone] == [c.plan for c in ended[1]]

    def test_evaluations_may_fail(self) -> None:
        everyone = self.search(fails=lambda call: call % 3 == 0).run(self.trials)
        assert {"complete", "failed"} <= {c.status for c in everyone}

    def test_several_may_be_asked_for_before_one_is_told(self, ended: tuple[_Search, list[Candidate]]) -> None:
        study = ended[0].study
        knobs = {name: d for trial in study.trials for name, d in trial.distributions.items()}
        open_trials = [study.ask(knobs) for _ in range(3)]
        assert all(d._contains(d.to_internal_repr(trial.params[name])) for trial in open_trials
                   for name, d in knobs.items())
