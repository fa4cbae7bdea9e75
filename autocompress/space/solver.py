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

import msgspec
import numpy as np

from autocompress.core.damage import Damages
from autocompress.core.evaluation import Metrics
from autocompress.core.layer import Layer
from autocompress.core.plan import Plan
from autocompress.space.costs import ILLEGAL, METRICS, LayerCosts, Option, fixed_bytes
from autocompress.space.projection import Projection
from autocompress.space.space import ALL_LAYERS, WHOLE, Space, Value

SWEEPS = 20
BISECTIONS = 20
MOVES = 60
"""Most improving moves after the bisection."""
TRIES = 16
"""Promising moves that are checked exactly before a plan counts as settled."""
ROUNDS = 5
"""Of shifting the prices between several bounded metrics."""
KINDS = ("prune", "bits", "share")
FIXED_SHARE = 0.02
"""Of a size bound, above which the cost of unpacking a width counts."""


class _State(msgspec.Struct):
    """Level of each group and option of each layer."""

    levels: dict[str, int]
    options: dict[str, int]


class Solver:
    """Solves one space for one budget at a time; table and space never change."""

    def __init__(self, projection: Projection, damages: Damages) -> None:
        self._projection, self._space = projection, projection.space
        table, knobs = self._space.table, self._space.by_name
        groups = [g for g in table.groups if f"prune:{g.name}" in knobs and g.name in damages.prune]
        self._keeps = {g.name: np.array([g.channels, *sorted(damages.prune[g.name], reverse=True)]) for g in groups}
        self._prune_harm = {g.name: np.array([0.0, *(damages.prune[g.name][int(k)] for k in self._keeps[g.name][1:])])
                            for g in groups}
        activation_bits = min((int(c) for k in knobs.values() if k.name == f"act:{ALL_LAYERS}" for c in k.choices),
                              default=32)
        self._layers = {layer.name: layer for layer in table.layers if layer.kind in ("conv", "linear")}
        self._costs: dict[str, LayerCosts] = {}
        self._option_harm: dict[str, dict[str, np.ndarray]] = {}
        for layer in self._layers.values():
            offers = list(self._offers(layer, damages))
            self._costs[layer.name] = LayerCosts(layer, [option for option, _, _ in offers], self._space.profile,
                                                 activation_bits)
            self._option_harm[layer.name] = {"bits": np.array([harm for _, harm, _ in offers]),
                                             "share": np.array([harm for _, _, harm in offers])}
        self._touching = {g.name: [x for x in self._layers if any(m.layer == x for m in g.members)] for g in groups}
        self._hangs = {x: [(g.name, m.side, m.per_channel) for g in groups for m in g.members if m.layer == x]
                       for x in self._layers}
        self._harms: dict[str, np.ndarray] = {}
        self._group_harms: dict[str, np.ndarray] = {}
        self._bounds: dict[str, float] = {}
        self._fixed_bytes = {bits: fixed_bytes(bits) for bits in (*self._space.weight_bits, 32)}

    def _offers(self, layer: Layer, damages: Damages) -> Iterator[tuple[Option, float, float]]:
        """Options of a layer with the harm of its bits and of its factors."""
        knobs = self._space.by_name
        bits, method = knobs.get(f"bits:{layer.name}"), knobs.get(f"method:{layer.name}")
        known = damages.bits.get(layer.name, {})
        choices = [int(choice) for choice in bits.choices] if bits else [32]
        widths = [b for b in choices if b >= 16 or b in known] or [max(choices)]
        shapes = [(WHOLE, 1.0, 0.0)]
        for name in (str(choice) for choice in (method.choices if method else ())):
            shapes += [(name, share, harm) for share, harm in damages.share.get(layer.name, {}).get(name, {}).items()]
        for name, share, harm in shapes:
            yield from ((Option(b, name, share), known.get(b, 0.0), harm) for b in widths)

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
        known = {m: b for m, b in self._projection.bounds.items() if m in METRICS}
        known = known or {"size_bytes": self._projection.estimate(Plan())["size_bytes"]}
        self._bounds = bounds = {metric: bound * room for metric, bound in known.items()}
        self._weigh(weights or {}, set(self._fixed_bytes))
        if self._fits(self._untouched()):
            return self._values(self._untouched())
        best = self._cheapest_inside(bounds)
        for _ in range(len(self._fixed_bytes)):  # widths are given up as long as that helps
            tried = [state for widths in self._fewer_widths(best, bounds.get("size_bytes", math.inf))
                     if (state := self._restricted(bounds, weights or {}, widths)) is not None]
            if not tried:
                break
            state = min(tried, key=self._harm)
            if best is not None and self._harm(state) >= self._harm(best):
                break
            best = state
        if best is None:
            return self._values(self._settle(dict.fromkeys(bounds, 1e12), self._untouched()))
        return self._values(self._improve(best))

    def _fewer_widths(self, state: _State | None, size_bytes: float) -> list[set[int]]:
        """Sets of widths to try instead of those that a plan uses.

        The first layer of a width pays for unpacking all of them, which no price of a single layer sees. Where that is
        a matter of percents, plans without one of the used widths may be better; where of tenths, plans of one width.
        """
        costly = {bits for bits, cost in self._fixed_bytes.items() if cost > 0}
        free, total = set(self._fixed_bytes) - costly, sum(self._fixed_bytes[bits] for bits in costly)
        if total < FIXED_SHARE * size_bytes:
            return []
        used = costly if state is None else {self._costs[name].options[chosen].bits
                                             for name, chosen in state.options.items()} & costly
        sets = [free | used - {bits} for bits in sorted(used)]
        return sets + [free | {bits} for bits in sorted(costly) if total > 10 * FIXED_SHARE * size_bytes]

    def _restricted(self, bounds: Mapping[str, float], weights: Mapping[str, float], widths: set[int]) -> _State | None:
        """The best plan on the hull with these widths alone."""
        self._weigh(weights, widths)
        state = self._cheapest_inside(bounds)
        self._weigh(weights, set(self._fixed_bytes))
        return state

    def harm(self, values: Mapping[str, Value]) -> float:
        """Predicted harm of a setting, its numbers moved to the nearest ones in the table."""
        return sum(self.harms(values).values())

    def harms(self, values: Mapping[str, Value]) -> dict[str, float]:
        """The same by kind: `prune`, `bits`, `share`."""
        total = dict.fromkeys(KINDS, 0.0)
        for name, keeps in self._keeps.items():
            level = np.abs(keeps - keeps[0] * (1 - float(values[f"prune:{name}"]))).argmin()
            total["prune"] += float(self._prune_harm[name][level])
        for name, costs in self._costs.items():
            bits, method = int(values.get(f"bits:{name}", 32)), str(values.get(f"method:{name}", WHOLE))
            share = float(values.get(f"share:{name}", 1.0)) if method != WHOLE else 1.0
            near = min(range(len(costs.options)), key=lambda i: (costs.options[i].bits != bits,
                                                                 costs.options[i].method != method,
                                                                 abs(costs.options[i].share - share)))
            for kind, harm in self._option_harm[name].items():
                total[kind] += float(harm[near])
        return total

    def _weigh(self, weights: Mapping[str, float], widths: set[int]) -> None:
        """Set the harms that are solved for; widths that are not open do infinite harm."""
        def weight(kind: str, site: str) -> float:
            return weights.get(kind, 1.0) * weights.get(f"{kind}:{site}", 1.0)

        self._group_harms = {name: weight("prune", name) * harm for name, harm in self._prune_harm.items()}
        for name, harm in self._option_harm.items():
            total = weight("bits", name) * harm["bits"] + weight("share", name) * harm["share"]
            shut = np.array([option.bits not in widths for option in self._costs[name].options])
            self._harms[name] = np.where(shut, np.inf, total)


    # -- at given prices ---------------------------------------------------------------------------------

    def _untouched(self) -> _State:
        def widest(name: str) -> int:
            may = np.isfinite(self._harms[name])
            return int(np.argmax([((o.method == WHOLE) * 1000 + o.bits) * ok for o, ok in
                                  zip(self._costs[name].options, may, strict=True)]))

        return _State(dict.fromkeys(self._keeps, 0), {name: widest(name) for name in self._layers})

    def _settle(self, prices: Mapping[str, float], start: _State) -> _State:
        """Alternate over the groups until no level changes; options follow from channels."""
        price = np.array([prices.get(metric, 0.0) for metric in METRICS])
        least: dict[tuple[str, int, int], tuple[float, int]] = {}

        def best(name: str, n_in: int, n_out: int) -> tuple[float, int]:
            key = name, n_in, n_out
            if key not in least:
                costs = self._costs[name].at(n_in, n_out)
                total = costs @ price + self._harms[name]
                chosen = int(total.argmin())
                least[key] = float(total[chosen]), chosen
            return least[key]

        levels = dict(start.levels)
        for _ in range(SWEEPS):
            before = dict(levels)
            for group, keeps in self._keeps.items():
                total = self._group_harms[group].copy()
                for name in self._touching[group]:
                    total += [best(name, *self._channels(name, {**levels, group: level}))[0]
                              for level in range(len(keeps))]
                levels[group] = int(total.argmin())
            if levels == before:
                break
        return _State(levels, {name: best(name, *self._channels(name, levels))[1] for name in self._layers})

    def _channels(self, name: str, levels: Mapping[str, int]) -> tuple[int, int]:
        """Inputs and outputs that a layer has left."""
        n_in, n_out = self._layers[name].in_channels, self._layers[name].out_channels
        for group, side, per_channel in self._hangs[name]:
            keeps = self._keeps[group]
            gone = per_channel * int(keeps[0] - keeps[levels[group]])
            n_in, n_out = (n_in - gone, n_out) if side == "in" else (n_in, n_out - gone)
        return n_in, n_out

    # -- the budget --------------------------------------------------------------------------------------

    def _cheapest_inside(self, bounds: Mapping[str, float]) -> _State | None:
        """Of least harm on the convex hull, the prices of several bounds shifted towards the tighter."""
        pull, best = dict.fromkeys(bounds, 1.0), None
        for _ in range(ROUNDS if len(bounds) > 1 else 1):
            state = self._at_budget(bounds, pull)
            if state is None:
                break
            if best is None or self._harm(state) < self._harm(best):
                best = state
            metrics = self._estimate(state)
            pull = {m: pull[m] * (metrics[m] / bounds[m]) ** 4 for m in bounds}
        return best

    def _at_budget(self, bounds: Mapping[str, float], pull: Mapping[str, float]) -> _State | None:
        """The lowest price at which the settled plan fits; None when even the highest does not do."""
        low, high = -10.0, 8.0  # decimal logarithm of harm for a whole bound
        state: _State | None = None
        for step in range(BISECTIONS):
            middle = high if step == 0 else (low + high) / 2
            tried = self._settle({m: 10**middle * pull[m] / bounds[m] for m in bounds}, state or self._untouched())
            if self._fits(tried):
                state, high = tried, middle
            elif step == 0:
                return None
            else:
                low = middle
        return state

    def _improve(self, state: _State) -> _State:
        """Moves of one site, or of two against each other, while one that fits does less harm: a price finds only
        plans on the convex hull of harm and size."""
        bounded = [i for i, metric in enumerate(METRICS) if metric in self._bounds]
        bounds = np.array([self._bounds[METRICS[i]] for i in bounded])
        for _ in range(MOVES):
            moves = list(self._moves(state, bounded))
            if not moves:
                return state
            sites = np.array([site for site, _, _, _ in moves])
            harm = np.array([h for _, _, h, _ in moves])
            cost = np.array([c for _, _, _, c in moves])
            estimate = self._estimate(state)
            slack = bounds - np.array([estimate[METRICS[i]] for i in bounded])
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

    def _moves(self, state: _State, bounded: list[int]) -> Iterator[tuple[str, _State, float, np.ndarray]]:
        """Changes of one site that could be worth it, with the site, and what harm and `bounded` costs change by."""
        now = {name: self._costs[name].at(*self._channels(name, state.levels))[option]
               for name, option in state.options.items()}
        for group, level in state.levels.items():
            for other in range(len(self._keeps[group])):
                levels = {**state.levels, group: other}
                cost = sum((self._costs[name].at(*self._channels(name, levels))[state.options[name]] - now[name]
                            for name in self._touching[group]), np.zeros(len(METRICS)))
                if other != level:
                    harms = self._group_harms[group]
                    yield group, _State(levels, state.options), harms[other] - harms[level], cost[bounded]
        for name, chosen in state.options.items():
            costs = self._costs[name].at(*self._channels(name, state.levels))
            for other in map(int, _worth_it(self._harms[name], costs[:, bounded])):
                if other != chosen:
                    yield (f"layer {name}", _State(state.levels, {**state.options, name: other}),
                           self._harms[name][other] - self._harms[name][chosen],
                           (costs[other] - now[name])[bounded])

    def _harm(self, state: _State) -> float:
        total = sum(self._group_harms[group][level] for group, level in state.levels.items())
        return float(total + sum(self._harms[name][chosen] for name, chosen in state.options.items()))

    def _estimate(self, state: _State) -> Metrics:
        return self._projection.estimate(self._space.decode(self._values(state)))

    def _fits(self, state: _State) -> bool:
        plan = self._space.decode(self._values(state))
        metrics = self._projection.estimate(plan)
        return self._projection.fits(plan) and all(metrics[name] <= bound for name, bound in self._bounds.items())

    def _values(self, state: _State) -> dict[str, Value]:
        values = self._space.uniform()
        for group, level in state.levels.items():
            keeps = self._keeps[group]
            values[f"prune:{group}"] = min(1 - int(keeps[level]) / int(keeps[0]), self._space.max_ratio)
        for name, chosen in state.options.items():
            option = self._costs[name].options[chosen]
            if f"bits:{name}" in values:
                values[f"bits:{name}"] = option.bits
            if f"method:{name}" in values:
                values[f"method:{name}"] = option.method
                if option.method != WHOLE:
                    values[f"share:{name}"] = option.share
        return values


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


def _both(state: _State, first: _State, second: _State) -> _State:
    """The two moves of different sites together."""
    return _State(_changed(state.levels, first.levels, second.levels),
                  _changed(state.options, first.options, second.options))


def _changed(now: dict[str, int], first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    return {site: first[site] if first[site] != value else second[site] for site, value in now.items()}
