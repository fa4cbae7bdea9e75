"""Whether what a solver decides fits: counted quickly, or estimated as any plan is."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from autocompress.core.evaluation import Metrics
from autocompress.core.plan import Plan
from autocompress.space.projection import Projection
from autocompress.space.solver.problem import Problem, State
from autocompress.space.space import KnobKey, Value

LEAST_SHARE = 1e-4
"""Of the price of a whole bound, relative to the highest: a bound that is far from tight must be able to come back."""


class FeasibilityCheck:
    """The projection's budget and further `bounds` by metric, which must be among the problem's. `fixed` are values
    of knobs that are not decided."""

    def __init__(self, projection: Projection, problem: Problem, bounds: Mapping[str, float],
                 fixed: Mapping[KnobKey, Value]) -> None:
        self._projection, self._problem, self.bounds, self._fixed = projection, problem, dict(bounds), fixed
        self.countable = projection.bounds.keys() <= set(problem.metrics)
        """Whether nothing is bounded that cannot be counted."""
        self.columns = [problem.metrics.index(metric) for metric in self.bounds]
        self.multipliers = {metric: 1 / bound for metric, bound in self.bounds.items()}
        """Prices of the bounded metrics, relative to one another."""
        self._limits = np.array([*self.bounds.values()])
        self._rest = np.zeros(len(self.bounds))  # what was not counted in the last estimate

    def take(self, other: FeasibilityCheck) -> None:
        """What another one of the same bounds has learned."""
        self.multipliers, self._rest = other.multipliers, other._rest

    def values(self, state: State) -> dict[KnobKey, Value]:
        """All knobs."""
        return {**self._problem.values(state), **self._fixed}

    def plan(self, state: State) -> Plan:
        """What it means."""
        return self._projection.space.decode(self.values(state))

    def estimate(self, state: State) -> Metrics:
        """Of its plan."""
        return self._projection.estimate(self.plan(state))

    def slack(self, state: State) -> np.ndarray:
        """What the bounded metrics leave of their bounds."""
        left: np.ndarray = self._limits - self._bounded(self.estimate(state))
        return left

    def fits(self, state: State) -> bool:
        """By the estimate, all of the projection's bounds included."""
        plan = self.plan(state)
        used = self._bounded(self._projection.estimate(plan))
        self._rest = used - self._problem.counted(state)[self.columns]
        return bool((used <= self._limits).all()) and self._projection.fits(plan)

    def fits_as_counted(self, state: State) -> bool:
        """By the sum of layers and what was not counted when last estimated: a tenth of the time."""
        return bool((self._rest + self._problem.counted(state)[self.columns] <= self._limits).all())

    def raise_multipliers_of_tight_bounds(self, state: State) -> None:
        """Raise the prices of the metrics of which a plan leaves less."""
        used = self._bounded(self.estimate(state)) / self._limits
        shares = np.array([*self.multipliers.values()]) * self._limits * used**4
        shares = np.maximum(shares / shares.max(), LEAST_SHARE)
        self.multipliers = dict(zip(self.bounds, (shares / self._limits).tolist(), strict=True))

    def _bounded(self, metrics: Metrics) -> np.ndarray:
        return np.array([metrics[metric] for metric in self.bounds])
