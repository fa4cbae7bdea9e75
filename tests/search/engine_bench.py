"""An engine whose evaluation is a formula: no torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import optuna

from autocompress.core.budget import Budget
from autocompress.core.evaluation import Candidate, Evaluation
from autocompress.core.front import objectives
from autocompress.core.layer import LayerTable
from autocompress.core.metric import Reference
from autocompress.core.plan import Plan
from autocompress.hardware.profile import load_profile
from autocompress.search.clock import Settings
from autocompress.search.efforts import Schedule
from autocompress.search.engine import Engine, Event
from autocompress.search.executors.inline import Inline
from autocompress.search.samplers.make import make_sampler
from autocompress.search.storage import create_study
from autocompress.search.study_store import StudyStore
from autocompress.space.projection import Projection
from autocompress.space.space import Values, build_space
from autocompress.space.spec import load_space
from autocompress.tasks.classification.metric import ACCURACY

BASELINE = Reference(ACCURACY, 0.95)
SIZE = 20_000
Damage = Callable[[int, dict[str, float]], dict[str, float]]


class Fake:
    """Accuracy from the plan's estimate; counts calls; `damage(call, metrics)` may change or raise."""

    def __init__(self, projection: Projection, damage: Damage = lambda call, metrics: metrics) -> None:
        self.projection, self.damage = projection, damage
        self.calls: list[tuple[str, int]] = []
        self.slices: dict[int, list[float | None]] = {}

    def __call__(self, plan: Plan, rung: int, seconds: float | None = None, should_stop: Any = None) -> Evaluation:
        self.calls.append((plan.fingerprint, rung))
        self.slices.setdefault(rung, []).append(seconds)
        estimates = self.projection.estimate(plan)
        accuracy = min(0.94, 0.3 + estimates["params"] / 40_000 + 0.2 * rung)
        metrics = {"accuracy": accuracy, "size_bytes": estimates["size_bytes"], "macs": estimates["macs"],
                   "latency_ms": estimates["macs"] / 1e6}
        return Evaluation(rung=rung, metrics=self.damage(len(self.calls), metrics), sources={})


class Bench:
    """An engine over an in-memory study, with what it evaluated and told."""

    def __init__(self, table: LayerTable, *, space: str = "low-bit", sampler: str = "random", seed: int = 0,
                 trials: int = 8, schedule: Schedule | None = None, damage: Damage | None = None,
                 study: optuna.Study | None = None, seconds: float | None = None,
                 fit: Callable[[Values], Values] | None = None, **budget: Any) -> None:
        self.budget = Budget(**({"size_bytes": SIZE} | budget))
        self.projection = Projection(build_space(table, load_space(space), load_profile("host")), self.budget)
        self.fake = Fake(self.projection, damage or (lambda call, metrics: metrics))
        self.study = study or create_study(optuna.storages.InMemoryStorage(), "s", make_sampler(sampler, seed), {},
                                           objectives(ACCURACY))
        self.events: list[Event] = []
        self.engine = Engine(StudyStore(self.study), self.projection, self.budget, BASELINE,
                             Settings(trials=trials, schedule=schedule or Schedule(short=3, long=1), seconds=seconds),
                             time.perf_counter(), self.events.append, lambda: False, fit=fit)

    def run(self) -> list[Candidate]:
        """The candidates after a whole run."""
        self.engine.run(Inline.of(self.fake))
        return self.engine.candidates()
