"""Plans on the convex hull of sensitivity and cost.

Pruning couples neighbours, so bytes are bilinear and no plain knapsack fits. At given prices of the bounded metrics
every layer has a best option for its channels, and every group a best number of channels while the others stay;
alternating settles in a few sweeps (Besag, "On the Statistical Analysis of Dirty Pictures", 1986, on a graph of groups
joined by layers). A bisection over the price finds the budget (Everett, "Generalized Lagrange Multiplier Method",
Operations Research 11(3), 1963).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from autocompress.space.solver.feasibility import FeasibilityCheck
from autocompress.space.solver.problem import Problem, State

SWEEPS = 20
BISECTIONS = 16
CORRECTIONS = 2
"""Bisections by counted costs before one by estimates."""
LOWEST, HIGHEST = -10.0, 8.0
"""Between which a price is looked for: decimal logarithms of sensitivity for a whole bound."""
ROUNDS = 5
"""Of shifting the prices between several bounded metrics."""


def coordinate_descent(problem: Problem, prices: Mapping[str, float], start: State) -> State:
    """Alternate over the groups until no level changes; options follow from channels."""
    price = np.array([prices.get(metric, 0.0) for metric in problem.metrics])
    known: dict[tuple[str, str, tuple[int, ...]], np.ndarray] = {}
    levels = dict(start.levels)

    def least(name: str, group: str) -> np.ndarray:
        """Of a layer's options at each level of the group."""
        key = name, group, problem.rest(name, group, levels)
        if key not in known:
            known[key] = (problem.costs_along(name, group, levels) @ price + problem.sensitivities[name]).min(1)
        return known[key]

    open_ones = set(problem.group_sensitivities)  # beside which something changed since they were decided
    for _ in range(SWEEPS):
        for group, sensitivities in problem.group_sensitivities.items():
            if group not in open_ones:
                continue
            open_ones.discard(group)
            level = int((sensitivities + sum(least(name, group) for name in problem.touching[group])).argmin())
            if level != levels[group]:
                levels[group] = level
                open_ones |= problem.beside[group]
        if not open_ones:
            break
    return State(levels, {name: int((problem.costs_at(name, levels) @ price + sensitivities).argmin())
                          for name, sensitivities in problem.sensitivities.items()})


def lagrangian_relaxation(
    problem: Problem, inside: FeasibilityCheck, start: State, quick: bool = False
) -> State | None:
    """Of all that are inside, the prices of several bounds shifted towards the tighter; None when nothing is. `quick`:
    the first that is, with the prices where they were last shifted to."""
    best = None
    for _ in range(1 if len(inside.bounds) == 1 else ROUNDS):
        state = _at_budget(problem, inside, start)
        if state is not None and (best is None or problem.sensitivity(state) < problem.sensitivity(best)):
            best = state
        if quick and best is not None:
            break
        inside.raise_multipliers_of_tight_bounds(state or _at_price(problem, inside, HIGHEST, start))
    return best


def _at_budget(problem: Problem, inside: FeasibilityCheck, start: State) -> State | None:
    """The lowest price at which the settled plan fits; None when even the highest does not do. Costs are counted,
    which is quick, unless what is counted turns out to mislead."""
    for fits in (*[inside.fits_as_counted] * (CORRECTIONS if inside.countable else 0), inside.fits):
        state = _bisected(problem, inside, fits, start)
        # Either estimate tells what is not counted: where counting was wrong, in whichever way, it is tried once more.
        if inside.fits(state or _at_price(problem, inside, HIGHEST, start)):
            if state is not None:
                return state
        elif state is None:
            return None
    return None


def _bisected(problem: Problem, inside: FeasibilityCheck, fits: Callable[[State], bool], start: State) -> State | None:
    low, high = LOWEST, HIGHEST
    state: State | None = None
    for step in range(BISECTIONS):
        middle = high if step == 0 else (low + high) / 2
        tried = _at_price(problem, inside, middle, state or start)
        if fits(tried):
            state, high = tried, middle
        elif step == 0:
            return None
        else:
            low = middle
    return state


def _at_price(problem: Problem, inside: FeasibilityCheck, power: float, start: State) -> State:
    return coordinate_descent(
        problem, {metric: 10**power * share for metric, share in inside.multipliers.items()}, start
    )
