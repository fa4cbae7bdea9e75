"""Swap moves: local search from the relaxed solution, by moves of one site or of two against each other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from autocompress.space.solver.costs import ILLEGAL
from autocompress.space.solver.feasibility import FeasibilityCheck
from autocompress.space.solver.problem import Problem, State

# The largest number of improving moves.
MOVES = 60
# The number of promising moves that are checked exactly before a plan counts as a local optimum.
TRIES = 16


def swap_moves(problem: Problem, feasibility: FeasibilityCheck, state: State, moves: int = MOVES) -> State:
    """Return the state that the most improving feasible moves lead to, at most `moves` of them.

    A price finds only plans on the convex hull of sensitivity and size; swap moves reach those between.
    """
    for _ in range(moves):
        candidates = list(_moves(problem, state, feasibility.columns))
        if not candidates:
            return state
        sites = np.array([site for site, _, _, _ in candidates])
        sensitivity = np.array([change for _, _, change, _ in candidates])
        cost = np.array([change for _, _, _, change in candidates])
        pair_sensitivity = sensitivity[:, None] + np.append(sensitivity, 0.0)  # the last column moves nothing else
        pair_cost = cost[:, None] + np.append(cost, np.zeros((1, cost.shape[1])), 0)
        good = (pair_sensitivity < -1e-12) & (pair_cost <= feasibility.slack(state)).all(2)
        good[:, :-1] &= sites[:, None] != sites
        first, second = np.nonzero(good)
        for i in np.argsort(pair_sensitivity[good], kind="stable")[:TRIES]:
            first_move, second_move = candidates[first[i]][1], second[i]
            move = _both(state, first_move, candidates[second_move][1]) if second_move < len(candidates) else first_move
            if feasibility.fits(move):
                state = move
                break
        else:
            return state
    return state


def _moves(problem: Problem, state: State, columns: list[int]) -> Iterator[tuple[str, State, float, np.ndarray]]:
    """Yield moves of one site: the site, the state after it, and the changes of sensitivity and of bounded costs."""
    now = {name: problem.costs_at(name, state.levels)[option] for name, option in state.options.items()}
    for group, level in state.levels.items():
        sensitivities = problem.group_sensitivities[group]
        for other in np.flatnonzero(np.isfinite(sensitivities)).tolist():
            if other != level:
                levels = {**state.levels, group: other}
                cost = sum((problem.costs_at(name, levels)[state.options[name]] - now[name]
                            for name in problem.layers_of_group[group]), np.zeros(len(problem.metrics)))
                yield group, State(levels, state.options), sensitivities[other] - sensitivities[level], cost[columns]
    for name, option in state.options.items():
        costs, sensitivities = problem.costs_at(name, state.levels), problem.sensitivities[name]
        for other in worth_it(sensitivities, costs[:, columns]).tolist():
            if other != option:
                yield (f"layer {name}", State(state.levels, {**state.options, name: other}),
                       sensitivities[other] - sensitivities[option], (costs[other] - now[name])[columns])


def worth_it(sensitivity: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Return the Pareto-optimal options by sensitivity `(n,)` and costs `(n, metrics)`, as indices."""
    candidates = np.flatnonzero(np.isfinite(sensitivity) & (costs < ILLEGAL).all(1))
    points = np.column_stack([costs, sensitivity])[candidates]
    order = np.lexsort(points.T[::-1])  # whoever beats another comes before it
    if costs.shape[1] == 1:
        falling = points[order, 1]
        return candidates[order[np.r_[True, falling[1:] < np.minimum.accumulate(falling)[:-1]]]]
    members: list[int] = []
    for i in order:
        if not members or not (points[members] <= points[i]).all(axis=1).any():
            members.append(int(i))
    return candidates[members]


def _both(state: State, first: State, second: State) -> State:
    """Return the state after two moves of different sites."""
    return State(_changed(state.levels, first.levels, second.levels),
                 _changed(state.options, first.options, second.options))


def _changed(now: dict[str, int], first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    return {site: first[site] if first[site] != value else second[site] for site, value in now.items()}
