"""Feasibility of a solver's states: by additive costs, which is quick, or by the estimate of the decoded plan."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from autocompress.core.evaluation import Metrics
from autocompress.core.plan import Plan
from autocompress.space.projection import Projection
from autocompress.space.solver.problem import Problem, State
from autocompress.space.space import KnobKey, Value

# The least multiplier of a bound, as a share of the highest one. It is above zero because a bound that is far from
# tight must be able to come back.
LEAST_SHARE = 1e-4


class FeasibilityCheck:
    """Feasibility check of states under bounds, with the Lagrange multipliers of the bounds.

    Args:
        projection: estimates plans; all of its bounds must hold too.
        problem: the discrete problem whose states are checked.
        bounds: by metric; each must be one of the problem's metrics.
        fixed: values of knobs that the problem does not decide.

    Attributes:
        all_bounds_additive: whether all of the projection's bounds are on metrics that are sums over layers.
        columns: the columns of costs that hold the bounded metrics.
        multipliers: prices of the bounded metrics relative to one another, by metric.
    """

    def __init__(self, projection: Projection, problem: Problem, bounds: Mapping[str, float],
                 fixed: Mapping[KnobKey, Value]) -> None:
        self._projection, self._problem, self.bounds, self._fixed = projection, problem, dict(bounds), fixed
        self.all_bounds_additive = projection.bounds.keys() <= set(problem.metrics)
        self.columns = [problem.metrics.index(metric) for metric in self.bounds]
        self.multipliers = {metric: 1 / bound for metric, bound in self.bounds.items()}
        self._limits = np.array([*self.bounds.values()])
        self._non_additive = np.zeros(len(self.bounds))  # of the last estimate

    def copy_learned(self, other: FeasibilityCheck) -> None:
        """Copy the multipliers and non-additive costs that another check of the same bounds has learned."""
        self.multipliers, self._non_additive = other.multipliers, other._non_additive

    def values(self, state: State) -> dict[KnobKey, Value]:
        """Return the setting of a state, fixed knobs included."""
        return {**self._problem.values(state), **self._fixed}

    def plan(self, state: State) -> Plan:
        """Return the plan of a state."""
        return self._projection.space.decode(self.values(state))

    def estimate(self, state: State) -> Metrics:
        """Estimate the metrics of the plan of a state."""
        return self._projection.estimate(self.plan(state))

    def slack(self, state: State) -> np.ndarray:
        """Return what the bounded metrics leave of their bounds, `(bounds,)`."""
        left: np.ndarray = self._limits - self._bounded(self.estimate(state))
        return left

    def fits(self, state: State) -> bool:
        """Return whether the estimate meets all bounds, the projection's included; remember non-additive costs."""
        plan = self.plan(state)
        used = self._bounded(self._projection.estimate(plan))
        self._non_additive = used - self._problem.additive_costs(state)[self.columns]
        return bool((used <= self._limits).all()) and self._projection.fits(plan)

    def fits_by_additive_costs(self, state: State) -> bool:
        """Return whether additive costs and the last non-additive ones meet the bounds, ten times faster."""
        return bool((self._non_additive + self._problem.additive_costs(state)[self.columns] <= self._limits).all())

    def raise_multipliers_of_tight_bounds(self, state: State) -> None:
        """Raise the multipliers of the bounds of which a state leaves less."""
        used = self._bounded(self.estimate(state)) / self._limits
        shares = np.array([*self.multipliers.values()]) * self._limits * used**4
        shares = np.maximum(shares / shares.max(), LEAST_SHARE)
        self.multipliers = dict(zip(self.bounds, (shares / self._limits).tolist(), strict=True))

    def _bounded(self, metrics: Metrics) -> np.ndarray:
        return np.array([metrics[metric] for metric in self.bounds])
