"""Settings of least predicted harm for any budget, from the sensitivity table and exact costs.

Pruning couples neighbours, so bytes are bilinear and no plain knapsack fits. At given prices of the bounded metrics
every layer has a best option for its channels, and every group a best number of channels while the others stay;
alternating settles in a few sweeps (Besag, "On the Statistical Analysis of Dirty Pictures", 1986, on a graph of groups
joined by layers). A bisection over the price finds the budget (Everett, "Generalized Lagrange Multiplier Method",
Operations Research 11(3), 1963), then single and paired moves use what it leaves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from autocompress.core.damage import Damages
from autocompress.core.evaluation import Metrics
from autocompress.core.plan import Plan
from autocompress.space.costs import ILLEGAL
from autocompress.space.problem import Problem, State
from autocompress.space.projection import Projection
from autocompress.space.space import Space, Value

SWEEPS = 20
BISECTIONS = 20
MOVES = 60
"""Most improving moves after the bisection."""
TRIES = 16
"""Promising moves that are checked exactly before a plan counts as settled."""
ROUNDS = 5
"""Of shifting the prices between several bounded metrics."""
FIXED_SHARE = 0.02
"""Of a size bound, above which the cost of unpacking a width counts."""


class Solver:
    """Solves one space for one budget at a time; table and space never change."""

    def __init__(self, projection: Projection, damages: Damages) -> None:
        self._projection, self._space = projection, projection.space
        self._problem = Problem(projection.space, damages)
        self._bounds: dict[str, float] = {}

    @property
    def space(self) -> Space:
        """Whose knobs it sets."""
        return self._space

    def solve(self, weights: Mapping[str, float] | None = None, room: float = 1.0) -> dict[str, Value]:
        """Knob values of the plan of least harm inside the projection's budget, or a share `room` of it; where nothing
        that can be estimated is bounded, of the original's size.

        `weights` scale harms, by kind (`prune`, `bits`, `share`), by knob (`prune:SITE`), or both: what training mends
        counts less. The untouched plan when it fits; when nothing does, the smallest.
        """
        known = {m: b for m, b in self._projection.bounds.items() if m in self._problem.metrics}
        known = known or {"size_bytes": self._projection.estimate(Plan())["size_bytes"]}
        self._bounds = bounds = {metric: bound * room for metric, bound in known.items()}
        self._problem.weigh(weights or {}, set(self._problem.fixed_bytes))
        if self._fits(self._problem.untouched()):
            return self._problem.values(self._problem.untouched())
        best = self._cheapest_inside(bounds)
        for _ in range(len(self._problem.fixed_bytes)):  # widths are given up as long as that helps
            tried = [state for widths in self._fewer_widths(best, bounds.get("size_bytes", math.inf))
                     if (state := self._restricted(bounds, weights or {}, widths)) is not None]
            if not tried:
                break
            state = min(tried, key=self._problem.harm)
            if best is not None and self._problem.harm(state) >= self._problem.harm(best):
                break
            best = state
        if best is None:
            return self._problem.values(self._settle(dict.fromkeys(bounds, 1e12), self._problem.untouched()))
        return self._problem.values(self._improve(best))

    def harms(self, values: Mapping[str, Value]) -> dict[str, float]:
        """Predicted harm of a setting by kind (`prune`, `bits`, `share`), its numbers moved to the nearest ones in the
        table."""
        return self._problem.harms_of(values)

    def _fewer_widths(self, state: State | None, size_bytes: float) -> list[set[int]]:
        """Sets of widths to try instead of those that a plan uses.

        The first layer of a width pays for unpacking all of them, which no price of a single layer sees. Where that is
        a matter of percents, plans without one of the used widths may be better; where of tenths, plans of one width.
        """
        costly = {bits for bits, cost in self._problem.fixed_bytes.items() if cost > 0}
        free, total = set(self._problem.fixed_bytes) - costly, sum(self._problem.fixed_bytes[bits] for bits in costly)
        if total < FIXED_SHARE * size_bytes:
            return []
        used = costly if state is None else {self._problem.costs[name].options[chosen].bits
                                             for name, chosen in state.options.items()} & costly
        sets = [free | used - {bits} for bits in sorted(used)]
        return sets + [free | {bits} for bits in sorted(costly) if total > 10 * FIXED_SHARE * size_bytes]

    def _restricted(self, bounds: Mapping[str, float], weights: Mapping[str, float], widths: set[int]) -> State | None:
        """The best plan on the hull with these widths alone."""
        self._problem.weigh(weights, widths)
        state = self._cheapest_inside(bounds)
        self._problem.weigh(weights, set(self._problem.fixed_bytes))
        return state

    # -- at given prices ---------------------------------------------------------------------------------

    def _settle(self, prices: Mapping[str, float], start: State) -> State:
        """Alternate over the groups until no level changes; options follow from channels."""
        price = np.array([prices.get(metric, 0.0) for metric in self._problem.metrics])
        least: dict[tuple[str, int, int], tuple[float, int]] = {}

        def best(name: str, n_in: int, n_out: int) -> tuple[float, int]:
            key = name, n_in, n_out
            if key not in least:
                costs = self._problem.costs[name].at(n_in, n_out)
                total = costs @ price + self._problem.harms[name]
                chosen = int(total.argmin())
                least[key] = float(total[chosen]), chosen
            return least[key]

        levels = dict(start.levels)
        for _ in range(SWEEPS):
            before = dict(levels)
            for group, keeps in self._problem.keeps.items():
                total = self._problem.group_harms[group].copy()
                for name in self._problem.touching[group]:
                    total += [best(name, *self._problem.channels(name, {**levels, group: level}))[0]
                              for level in range(len(keeps))]
                levels[group] = int(total.argmin())
            if levels == before:
                break
        return State(levels, {name: best(name, *self._problem.channels(name, levels))[1]
                              for name in self._problem.layers})

    # -- the budget --------------------------------------------------------------------------------------

    def _cheapest_inside(self, bounds: Mapping[str, float]) -> State | None:
        """Of least harm on the convex hull, the prices of several bounds shifted towards the tighter."""
        pull, best = dict.fromkeys(bounds, 1.0), None
        for _ in range(ROUNDS if len(bounds) > 1 else 1):
            state = self._at_budget(bounds, pull)
            if state is None:
                break
            if best is None or self._problem.harm(state) < self._problem.harm(best):
                best = state
            metrics = self._estimate(state)
            pull = {m: pull[m] * (metrics[m] / bounds[m]) ** 4 for m in bounds}
        return best

    def _at_budget(self, bounds: Mapping[str, float], pull: Mapping[str, float]) -> State | None:
        """The lowest price at which the settled plan fits; None when even the highest does not do."""
        low, high = -10.0, 8.0  # decimal logarithm of harm for a whole bound
        state: State | None = None
        for step in range(BISECTIONS):
            middle = high if step == 0 else (low + high) / 2
            prices = {m: 10**middle * pull[m] / bounds[m] for m in bounds}
            tried = self._settle(prices, state or self._problem.untouched())
            if self._fits(tried):
                state, high = tried, middle
            elif step == 0:
                return None
            else:
                low = middle
        return state

    def _improve(self, state: State) -> State:
        """Moves of one site, or of two against each other, while one that fits does less harm: a price finds only
        plans on the convex hull of harm and size."""
        bounded = [i for i, metric in enumerate(self._problem.metrics) if metric in self._bounds]
        bounds = np.array([self._bounds[self._problem.metrics[i]] for i in bounded])
        for _ in range(MOVES):
            moves = list(self._moves(state, bounded))
            if not moves:
                return state
            sites = np.array([site for site, _, _, _ in moves])
            harm = np.array([h for _, _, h, _ in moves])
            cost = np.array([c for _, _, _, c in moves])
            estimate = self._estimate(state)
            slack = bounds - np.array([estimate[self._problem.metrics[i]] for i in bounded])
            pair_harm = harm[:, None] + np.append(harm, 0.0)  # the last column moves nothing else
            pair_cost = cost[:, None] + np.append(cost, np.zeros((1, len(bounded))), 0)
            good = (pair_harm < -1e-12) & (pair_cost <= slack).all(2)
            good[:, :-1] &= sites[:, None] != sites
            first, second = np.nonzero(good)
            for i in np.argsort(pair_harm[good], kind="stable")[:TRIES]:
                one, other = moves[first[i]][1], second[i]
                move = _both(state, one, moves[other][1]) if other < len(moves) else one
                if self._fits(move):
                    state = move
                    break
            else:
                return state
        return state

    def _moves(self, state: State, bounded: list[int]) -> Iterator[tuple[str, State, float, np.ndarray]]:
        """Changes of one site that could be worth it, with the site, and what harm and `bounded` costs change by."""
        now = {name: self._problem.costs_at(name, state.levels)[option]
               for name, option in state.options.items()}
        for group, level in state.levels.items():
            for other in range(len(self._problem.keeps[group])):
                levels = {**state.levels, group: other}
                cost = sum((self._problem.costs_at(name, levels)[state.options[name]] - now[name]
                            for name in self._problem.touching[group]), np.zeros(len(self._problem.metrics)))
                if other != level:
                    harms = self._problem.group_harms[group]
                    yield group, State(levels, state.options), harms[other] - harms[level], cost[bounded]
        for name, chosen in state.options.items():
            costs = self._problem.costs_at(name, state.levels)
            for other in map(int, _worth_it(self._problem.harms[name], costs[:, bounded])):
                if other != chosen:
                    yield (f"layer {name}", State(state.levels, {**state.options, name: other}),
                           self._problem.harms[name][other] - self._problem.harms[name][chosen],
                           (costs[other] - now[name])[bounded])

    def _estimate(self, state: State) -> Metrics:
        return self._projection.estimate(self._space.decode(self._problem.values(state)))

    def _fits(self, state: State) -> bool:
        plan = self._space.decode(self._problem.values(state))
        metrics = self._projection.estimate(plan)
        return self._projection.fits(plan) and all(metrics[name] <= bound for name, bound in self._bounds.items())


def _worth_it(harm: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Options that no other beats in harm and in every cost."""
    candidates = np.flatnonzero(np.isfinite(harm) & (costs[:, 0] < ILLEGAL))
    points = np.column_stack([costs, harm])[candidates]
    order = np.lexsort(points.T[::-1])  # whoever beats another comes before it
    if costs.shape[1] == 1:
        falling = points[order, 1]
        return candidates[order[np.r_[True, falling[1:] < np.minimum.accumulate(falling)[:-1]]]]
    kept: list[int] = []
    for i in order:
        if not kept or not (points[kept] <= points[i]).all(axis=1).any():
            kept.append(int(i))
    return candidates[kept]


def _both(state: State, first: State, second: State) -> State:
    """The two moves of different sites together."""
    return State(_changed(state.levels, first.levels, second.levels),
                  _changed(state.options, first.options, second.options))


def _changed(now: dict[str, int], first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    return {site: first[site] if first[site] != value else second[site] for site, value in now.items()}
