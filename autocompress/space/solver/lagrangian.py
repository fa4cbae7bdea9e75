"""Lagrangian relaxation: states on the convex hull of sensitivity and cost.

Pruning couples layers, so bytes are bilinear and no knapsack solver applies. At given prices of the bounded metrics
every layer has a best option for its channels, and every group a best level while the others stay; coordinate descent
over the groups converges in a few sweeps (iterated conditional modes, Besag, "On the Statistical Analysis of Dirty
Pictures", 1986, on a graph of groups joined by layers). A bisection over the price meets the budget (Everett,
"Generalized Lagrange Multiplier Method", Operations Research 11(3), 1963).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from autocompress.space.solver.feasibility import FeasibilityCheck
from autocompress.space.solver.problem import Problem, State

# The largest number of sweeps of coordinate descent over all groups.
SWEEPS = 20
# The number of prices that one bisection tries.
BISECTIONS = 16
# The number of bisections by additive costs before one by estimates.
CORRECTIONS = 2
# The range of prices: decimal logarithms of the nats that a whole bound is worth.
LOWEST, HIGHEST = -10.0, 8.0
# The number of updates of the multipliers where several metrics are bounded.
ROUNDS = 5


def coordinate_descent(problem: Problem, prices: Mapping[str, float], start: State) -> State:
    """Coordinate descent over the groups at fixed prices, until no level changes; options follow from channels.

    Args:
        problem: the sensitivities and costs.
        prices: nats per unit of each bounded metric.
        start: the state to begin at; only its levels are read.
    """
    price = np.array([prices.get(metric, 0.0) for metric in problem.metrics])
    least_at: dict[tuple[str, str, tuple[int, ...]], np.ndarray] = {}
    levels = dict(start.levels)

    def least(name: str, group: str) -> np.ndarray:
        """Return the least priced sensitivity of the layer's options at each level of the group, `(levels,)`."""
        key = name, group, problem.other_levels(name, group, levels)
        if key not in least_at:
            least_at[key] = (problem.costs_along(name, group, levels) @ price + problem.sensitivities[name]).min(1)
        return least_at[key]

    unsettled = set(problem.group_sensitivities)  # groups with a neighbour that changed since they were decided
    for _ in range(SWEEPS):
        for group, sensitivities in problem.group_sensitivities.items():
            if group not in unsettled:
                continue
            unsettled.discard(group)
            level = int((sensitivities + sum(least(name, group) for name in problem.layers_of_group[group])).argmin())
            if level != levels[group]:
                levels[group] = level
                unsettled |= problem.neighbours[group]
        if not unsettled:
            break
    return State(levels, {name: int((problem.costs_at(name, levels) @ price + sensitivities).argmin())
                          for name, sensitivities in problem.sensitivities.items()})


def lagrangian_relaxation(
    problem: Problem, feasibility: FeasibilityCheck, start: State, quick: bool = False
) -> State | None:
    """Lagrangian relaxation: the feasible state of least sensitivity at any price; None where there is none.

    The multipliers of several bounds are updated towards the tighter bound between bisections.

    Args:
        problem: the sensitivities and costs.
        feasibility: the bounds and their multipliers, which this function updates.
        start: the state that coordinate descent begins at.
        quick: whether to return the first feasible state, with the multipliers as they are.
    """
    best = None
    for _ in range(1 if len(feasibility.bounds) == 1 else ROUNDS):
        state = _at_budget(problem, feasibility, start)
        if state is not None and (best is None or problem.sensitivity(state) < problem.sensitivity(best)):
            best = state
        if quick and best is not None:
            break
        feasibility.raise_multipliers_of_tight_bounds(state or _at_price(problem, feasibility, HIGHEST, start))
    return best


def _at_budget(problem: Problem, feasibility: FeasibilityCheck, start: State) -> State | None:
    """Return the state of the lowest price that is feasible by the estimate; None where the highest price is not.

    Bisections by additive costs are tried first, because they are quick."""
    corrections = CORRECTIONS if feasibility.all_bounds_additive else 0
    for fits in (*[feasibility.fits_by_additive_costs] * corrections, feasibility.fits):
        state = _bisected(problem, feasibility, fits, start)
        # `fits` remembers the non-additive costs: where additive costs misled, in either direction, bisect once more.
        if feasibility.fits(state or _at_price(problem, feasibility, HIGHEST, start)):
            if state is not None:
                return state
        elif state is None:
            return None
    return None


def _bisected(
    problem: Problem, feasibility: FeasibilityCheck, fits: Callable[[State], bool], start: State
) -> State | None:
    """Return the state of the lowest price that `fits`, by bisection; None where the highest price does not."""
    low, high = LOWEST, HIGHEST
    state: State | None = None
    for bisection in range(BISECTIONS):
        middle = high if bisection == 0 else (low + high) / 2
        candidate = _at_price(problem, feasibility, middle, state or start)
        if fits(candidate):
            state, high = candidate, middle
        elif bisection == 0:
            return None
        else:
            low = middle
    return state


def _at_price(problem: Problem, feasibility: FeasibilityCheck, power: float, start: State) -> State:
    """Return the state of coordinate descent at multipliers times ten to the `power`."""
    return coordinate_descent(
        problem, {metric: 10**power * share for metric, share in feasibility.multipliers.items()}, start
    )
