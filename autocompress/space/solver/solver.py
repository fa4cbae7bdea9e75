"""The solver: settings of least predicted sensitivity for any budget, from the sensitivity table and exact costs.

Lagrangian relaxation finds a plan on the convex hull of sensitivity and cost (`lagrangian`); swap moves spend what that
plan leaves of the budget (`local_search`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from autocompress.core.plan import Plan
from autocompress.core.sensitivity import Decision, SensitivityTable
from autocompress.space.projection import Projection
from autocompress.space.solver.feasibility import FeasibilityCheck
from autocompress.space.solver.lagrangian import coordinate_descent, lagrangian_relaxation
from autocompress.space.solver.local_search import swap_moves
from autocompress.space.solver.problem import Problem, State, Weights
from autocompress.space.space import KnobKey, Space, Value

# Shares of a size bound. Where unpacking code takes more than the first, plans with fewer widths are tried too; where
# it takes more than the second, plans of one width.
FIXED_SHARE, MUCH_SHARE = 0.02, 0.2
# The largest number of improving swap moves of a quick solution.
QUICK_MOVES = 2


class Solver:
    """Solver of one space for any budget within that of its projection.

    Args:
        projection: the space and the budget.
        sensitivity_table: the predicted sensitivity of each option alone, in nats.

    Attributes:
        size_bytes: the bound of the size; where there is none, the original's size.
    """

    def __init__(self, projection: Projection, sensitivity_table: SensitivityTable) -> None:
        self._projection, self._problem = projection, Problem(projection.space, sensitivity_table)
        bounds = {metric: bound for metric, bound in projection.bounds.items() if metric in self._problem.metrics}
        self._original = projection.estimate(Plan())["size_bytes"]
        self.size_bytes = bounds.get("size_bytes", self._original)
        self._bounds = bounds or {"size_bytes": self.size_bytes}
        self._plain_solutions: dict[float | None, dict[KnobKey, Value]] = {}
        self._learned: dict[tuple[tuple[str, float], ...], FeasibilityCheck] = {}

    @property
    def space(self) -> Space:
        """The space whose knobs the solver sets."""
        return self._projection.space

    @property
    def least_bytes(self) -> float:
        """The estimated size of the smallest plan, in bytes."""
        return self._projection.estimate(self._projection.smallest())["size_bytes"]

    def estimate(self, values: Mapping[KnobKey, Value]) -> dict[str, float]:
        """The estimated metrics of a setting, without projection.

        Args:
            values: by knob.
        """
        return self._projection.estimate(self.space.decode(values))

    def solve(self, weights: Weights | None = None, bounds: Mapping[str, float] | None = None,
              fixed: Mapping[KnobKey, Value] | None = None) -> dict[KnobKey, Value]:
        """Return the setting of least weighted sensitivity: Lagrangian relaxation, then swap moves.

        It is the least compressed setting where that is feasible, and the smallest where none is.

        Args:
            weights: factors of sensitivities; training makes up for some techniques more than for others.
            bounds: bounds beside the budget, by a metric of `costs.additive_metrics`.
            fixed: values of knobs that are not of `Space.solved_kinds`.
        """
        feasibility, problem = self._feasibility(bounds, fixed), self._problem
        problem.weigh(weights or {}, set(problem.fixed_bytes))
        least_compressed = problem.least_compressed()
        if feasibility.fits(least_compressed):
            return feasibility.values(least_compressed)
        best = self._best(feasibility, weights or {})
        if best is None:
            smallest = coordinate_descent(problem, dict.fromkeys(feasibility.bounds, 1e12), least_compressed)
            return feasibility.values(smallest)
        return feasibility.values(swap_moves(problem, feasibility, best))

    def plain(self, size_bytes: float | None = None) -> dict[KnobKey, Value]:
        """Return the solution with all weights 1, within `size_bytes` where it is given. Solutions are remembered."""
        if size_bytes not in self._plain_solutions:
            self._plain_solutions[size_bytes] = self.solve({}, {} if size_bytes is None else {"size_bytes": size_bytes})
        return self._plain_solutions[size_bytes]

    def propose(self, weights: Weights, bounds: Mapping[str, float] | None = None,
                fixed: Mapping[KnobKey, Value] | None = None) -> dict[KnobKey, Value]:
        """An approximate solution, in a tenth of the time of `solve`. The widths are those of the plain solution of the
        same size, and few swap moves follow the relaxation.

        Args:
            weights: as of `solve`.
            bounds: as of `solve`.
            fixed: as of `solve`.
        """
        feasibility = self._feasibility(bounds, fixed)
        key = tuple(feasibility.bounds.items())
        plain = self.plain(feasibility.bounds.get("size_bytes"))
        widths = self._widths_of(self._problem.nearest(plain)) | self._free_widths
        if key in self._learned:
            feasibility.copy_learned(self._learned[key])
        state = self._restricted(feasibility, weights, widths, quick=key in self._learned)
        self._learned[key] = feasibility
        return self.solve(weights, bounds, fixed) if state is None else feasibility.values(state)

    def fit(self, values: Mapping[KnobKey, Value], bounds: Mapping[str, float] | None = None) -> dict[KnobKey, Value]:
        """A setting moved into the budget, and up to it, at the least sensitivity.

        No site grows where the setting is too large, and none shrinks where it leaves room; where no bound limits the
        size, the size of the setting does. Numbers are rounded to those of the sensitivity table. The solution is that
        of `propose` where no smaller choices at its sites are feasible.

        Args:
            values: the setting.
            bounds: bounds beside the budget, by metric.
        """
        fixed = {key: value for key, value in values.items() if key.kind not in self.space.solved_kinds}
        problem = self._problem
        problem.weigh({}, set(problem.fixed_bytes))
        state, bounds = problem.nearest(values), dict(bounds or {})
        if min(bounds.get("size_bytes", math.inf), self._bounds.get("size_bytes", math.inf)) >= self._original:
            bounds["size_bytes"] = self.estimate(problem.values(state) | fixed)["size_bytes"]
        feasibility = self._feasibility(bounds, fixed)
        grow = feasibility.fits(state)

        def solved_with(widths: set[int]) -> State | None:
            problem.weigh({}, widths)
            problem.restrict(state, feasibility.columns, grow)
            states = lagrangian_relaxation(problem, feasibility, problem.least_compressed())
            if states is None or not math.isfinite(problem.sensitivity(states)):
                return None
            return swap_moves(problem, feasibility, states, QUICK_MOVES)

        states = [solved_with(set(problem.fixed_bytes))]
        states += [solved_with(widths) for widths in self._fewer_widths(states[0], feasibility, MUCH_SHARE)]
        problem.weigh({}, set(problem.fixed_bytes))
        best = min((state for state in states if state is not None), key=problem.sensitivity, default=None)
        return self.propose({}, bounds, fixed) if best is None else feasibility.values(best)

    @property
    def techniques(self) -> tuple[str, ...]:
        """Names of the techniques that the solver decides: the one on groups, the one that sets widths, then others."""
        return self._problem.techniques

    def sensitivities(self, values: Mapping[KnobKey, Value]) -> dict[Decision, float]:
        """The predicted sensitivity of a setting by decision, in nats, its numbers rounded to the table's.

        Args:
            values: by knob.
        """
        return self._problem.sensitivities_of(values)

    def _feasibility(
        self, bounds: Mapping[str, float] | None, fixed: Mapping[KnobKey, Value] | None
    ) -> FeasibilityCheck:
        tighter = {metric: min(bound, self._bounds.get(metric, math.inf)) for metric, bound in (bounds or {}).items()}
        return FeasibilityCheck(self._projection, self._problem, {**self._bounds, **tighter}, fixed or {})

    @property
    def _free_widths(self) -> set[int]:
        return {bits for bits, cost in self._problem.fixed_bytes.items() if cost <= 0}

    def _widths_of(self, state: State) -> set[int]:
        return {self._problem.costs[name].options[option].bits for name, option in state.options.items()}

    def _fewer_widths(
        self, state: State | None, feasibility: FeasibilityCheck, least_share: float = FIXED_SHARE
    ) -> list[set[int]]:
        """Return sets of weight widths to try instead of those of a state.

        All layers of a width share its unpacking code, a fixed cost that no price of a single layer sees. Where it is
        percents of the size, plans without one of the used widths may be better; where it is tenths, plans of one
        width. None where it is less than `least_share` of the size bound.

        Args:
            state: the state whose widths are reduced; None stands for all widths.
            feasibility: the bounds.
            least_share: share of the size bound.
        """
        free = self._free_widths
        costly = set(self._problem.fixed_bytes) - free
        total = sum(self._problem.fixed_bytes[bits] for bits in costly)
        size_bytes = feasibility.bounds.get("size_bytes", math.inf)
        if total < least_share * size_bytes:
            return []
        used = costly if state is None else self._widths_of(state) & costly
        sets = [free | used - {bits} for bits in sorted(used)]
        return sets + [free | {bits} for bits in sorted(costly) if total > MUCH_SHARE * size_bytes]

    def _best(self, feasibility: FeasibilityCheck, weights: Weights) -> State | None:
        """Return the best relaxed state; widths are given up one after another as long as that lowers sensitivity."""
        best = lagrangian_relaxation(self._problem, feasibility, self._problem.least_compressed())
        for _ in range(len(self._problem.fixed_bytes)):
            candidates = [state for widths in self._fewer_widths(best, feasibility)
                     if (state := self._restricted(feasibility, weights, widths)) is not None]
            if not candidates:
                break
            state = min(candidates, key=self._problem.sensitivity)
            if best is not None and self._problem.sensitivity(state) >= self._problem.sensitivity(best):
                break
            best = state
        return best

    def _restricted(self, feasibility: FeasibilityCheck, weights: Weights, widths: set[int],
                    quick: bool = False) -> State | None:
        """Return the relaxed state with these widths alone; when `quick`, the first feasible one and a few moves."""
        self._problem.weigh(weights, widths)
        state = lagrangian_relaxation(self._problem, feasibility, self._problem.least_compressed(), quick)
        if state is not None and quick:
            state = swap_moves(self._problem, feasibility, state, QUICK_MOVES)
        self._problem.weigh(weights, set(self._problem.fixed_bytes))
        return state
