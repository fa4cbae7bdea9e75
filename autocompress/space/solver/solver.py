"""Settings of least predicted sensitivity for any budget, from the sensitivity table and exact costs.

Prices find a plan on the hull (`hull`), single and paired moves use what it leaves (`moves`).
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

FIXED_SHARE, MUCH_SHARE = 0.02, 0.2
"""Of a size bound, above which the cost of unpacking widths counts, and above which plans of one width may be best."""
QUICK_MOVES = 2
"""Improving moves of a proposal."""


class Solver:
    """Solves one space for any budget inside that of its projection; table and space never change."""

    def __init__(self, projection: Projection, sensitivity_table: SensitivityTable) -> None:
        self._projection, self._problem = projection, Problem(projection.space, sensitivity_table)
        known = {metric: bound for metric, bound in projection.bounds.items() if metric in self._problem.metrics}
        self._original = projection.estimate(Plan())["size_bytes"]
        self.size_bytes = known.get("size_bytes", self._original)
        """The bound of the size; where there is none, the original's."""
        self._bounds = known or {"size_bytes": self.size_bytes}
        self._plain: dict[float | None, dict[KnobKey, Value]] = {}
        self._known: dict[tuple[tuple[str, float], ...], FeasibilityCheck] = {}

    @property
    def space(self) -> Space:
        """Whose knobs it sets."""
        return self._projection.space

    @property
    def least_bytes(self) -> float:
        """Of the smallest plan."""
        return self._projection.estimate(self._projection.smallest())["size_bytes"]

    def estimate(self, values: Mapping[KnobKey, Value]) -> dict[str, float]:
        """Estimated metrics of a setting, as it is."""
        return self._projection.estimate(self.space.decode(values))

    def solve(self, weights: Weights | None = None, bounds: Mapping[str, float] | None = None,
              fixed: Mapping[KnobKey, Value] | None = None) -> dict[KnobKey, Value]:
        """Knob values of the plan of least sensitivity inside the projection's budget and further `bounds` (see
        `costs.summed`).

        `weights` scale sensitivities, by technique, by decision, or both: what training mends counts less. `fixed`:
        values of knobs that are not of `Space.solved_kinds`. The untouched plan when it fits; when nothing does, the
        smallest.
        """
        inside, problem = self._inside(bounds, fixed), self._problem
        problem.weigh(weights or {}, set(problem.fixed_bytes))
        untouched = problem.untouched()
        if inside.fits(untouched):
            return inside.values(untouched)
        best = self._best(inside, weights or {})
        if best is None:
            return inside.values(coordinate_descent(problem, dict.fromkeys(inside.bounds, 1e12), untouched))
        return inside.values(swap_moves(problem, inside, best))

    def plain(self, size_bytes: float | None = None) -> dict[KnobKey, Value]:
        """`solve` as the table has it, inside a size too where one is given; remembered."""
        if size_bytes not in self._plain:
            self._plain[size_bytes] = self.solve({}, {} if size_bytes is None else {"size_bytes": size_bytes})
        return self._plain[size_bytes]

    def propose(self, weights: Weights, bounds: Mapping[str, float] | None = None,
                fixed: Mapping[KnobKey, Value] | None = None) -> dict[KnobKey, Value]:
        """As `solve`, in a tenth of the time: of the widths alone that the plain solution of that size uses, and with
        few moves behind the prices."""
        inside = self._inside(bounds, fixed)
        key = tuple(inside.bounds.items())
        widths = self._used(self._problem.nearest(self.plain(inside.bounds.get("size_bytes")))) | self._free_widths
        if key in self._known:
            inside.take(self._known[key])
        state = self._restricted(inside, weights, widths, quick=key in self._known)
        self._known[key] = inside
        return self.solve(weights, bounds, fixed) if state is None else inside.values(state)

    def fit(self, values: Mapping[KnobKey, Value], bounds: Mapping[str, float] | None = None) -> dict[KnobKey, Value]:
        """A setting moved into the budget along the least harmful moves: no site grows where it is too large, none
        shrinks where it leaves room; where no bound makes size matter, it stays what it was. Numbers move to the
        nearest ones of the table. Where no smaller choice of its sites does, `propose`."""
        fixed = {key: value for key, value in values.items() if key.kind not in self.space.solved_kinds}
        problem = self._problem
        problem.weigh({}, set(problem.fixed_bytes))
        state, bounds = problem.nearest(values), dict(bounds or {})
        if min(bounds.get("size_bytes", math.inf), self._bounds.get("size_bytes", math.inf)) >= self._original:
            bounds["size_bytes"] = self.estimate(problem.values(state) | fixed)["size_bytes"]
        inside = self._inside(bounds, fixed)
        grow = inside.fits(state)

        def within(widths: set[int]) -> State | None:
            problem.weigh({}, widths)
            problem.restrict(state, inside.columns, grow)
            found = lagrangian_relaxation(problem, inside, problem.untouched())
            if found is None or not math.isfinite(problem.sensitivity(found)):
                return None
            return swap_moves(problem, inside, found, QUICK_MOVES)

        found = [within(set(problem.fixed_bytes))]
        found += [within(widths) for widths in self._fewer_widths(found[0], inside, MUCH_SHARE)]
        problem.weigh({}, set(problem.fixed_bytes))
        best = min((state for state in found if state is not None), key=problem.sensitivity, default=None)
        return self.propose({}, bounds, fixed) if best is None else inside.values(best)

    @property
    def techniques(self) -> tuple[str, ...]:
        """Names of the techniques whose options it chooses: the one on groups, the one that sets widths, then others.
        """
        return self._problem.techniques

    def sensitivities(self, values: Mapping[KnobKey, Value]) -> dict[Decision, float]:
        """Predicted sensitivity of a setting by decision, in nats, its numbers moved to the nearest of the table."""
        return self._problem.sensitivities_of(values)

    def _inside(self, bounds: Mapping[str, float] | None, fixed: Mapping[KnobKey, Value] | None) -> FeasibilityCheck:
        tighter = {metric: min(bound, self._bounds.get(metric, math.inf)) for metric, bound in (bounds or {}).items()}
        return FeasibilityCheck(self._projection, self._problem, {**self._bounds, **tighter}, fixed or {})

    @property
    def _free_widths(self) -> set[int]:
        return {bits for bits, cost in self._problem.fixed_bytes.items() if cost <= 0}

    def _used(self, state: State) -> set[int]:
        return {self._problem.costs[name].options[chosen].bits for name, chosen in state.options.items()}

    def _fewer_widths(
        self, state: State | None, inside: FeasibilityCheck, least_share: float = FIXED_SHARE
    ) -> list[set[int]]:
        """Sets of widths to try instead of those that a plan uses, where unpacking costs more than a share of the size.

        The first layer of a width pays for unpacking all of them, which no price of a single layer sees. Where that is
        a matter of percents, plans without one of the used widths may be better; where of tenths, plans of one width.
        """
        free = self._free_widths
        costly = set(self._problem.fixed_bytes) - free
        total = sum(self._problem.fixed_bytes[bits] for bits in costly)
        size_bytes = inside.bounds.get("size_bytes", math.inf)
        if total < least_share * size_bytes:
            return []
        used = costly if state is None else self._used(state) & costly
        sets = [free | used - {bits} for bits in sorted(used)]
        return sets + [free | {bits} for bits in sorted(costly) if total > MUCH_SHARE * size_bytes]

    def _best(self, inside: FeasibilityCheck, weights: Weights) -> State | None:
        """The best plan on the hull; widths are given up as long as that helps."""
        best = lagrangian_relaxation(self._problem, inside, self._problem.untouched())
        for _ in range(len(self._problem.fixed_bytes)):
            tried = [state for widths in self._fewer_widths(best, inside)
                     if (state := self._restricted(inside, weights, widths)) is not None]
            if not tried:
                break
            state = min(tried, key=self._problem.sensitivity)
            if best is not None and self._problem.sensitivity(state) >= self._problem.sensitivity(best):
                break
            best = state
        return best

    def _restricted(self, inside: FeasibilityCheck, weights: Weights, widths: set[int],
                    quick: bool = False) -> State | None:
        """The best plan on the hull with these widths alone; when `quick`, a few moves from one near it."""
        self._problem.weigh(weights, widths)
        state = lagrangian_relaxation(self._problem, inside, self._problem.untouched(), quick)
        if state is not None and quick:
            state = swap_moves(self._problem, inside, state, QUICK_MOVES)
        self._problem.weigh(weights, set(self._problem.fixed_bytes))
        return state
