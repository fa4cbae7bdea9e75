"""What a solver decides: a level for every group, an option for every layer, and what each does and costs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import msgspec
import numpy as np

from autocompress.core.layer import Layer
from autocompress.core.sensitivity import SensitivityTable
from autocompress.formats.table import facts_of
from autocompress.space.solver.costs import LayerCosts, Option, fixed_bytes, summed
from autocompress.space.space import ALL_LAYERS, WHOLE, Space, Value
from autocompress.techniques.quantize import KINDS

HARMS = ("prune", "bits", "share")
"""Kinds of sensitivity in a sensitivity table."""


class State(msgspec.Struct):
    """Level of each group and option of each layer."""

    levels: dict[str, int]
    options: dict[str, int]


class Problem:
    """The choices of one space. `keeps`: channels that a group can keep, all first. `costs`, `sensitivities`: of the
    options of
    a layer; `group_sensitivities`: of the levels of a group; sensitivities as last weighed. `touching`: layers that a
    group narrows,
    `beside`: groups that share one of them with it. `metrics`: what the columns of costs are.
    """

    def __init__(self, space: Space, sensitivity_table: SensitivityTable) -> None:
        self._space, self.metrics = space, summed(space.profile)
        table, knobs = self._space.table, self._space.by_name
        groups = [g for g in table.groups if f"prune:{g.name}" in knobs and g.name in sensitivity_table.prune]
        self.keeps = {
            g.name: np.array([g.channels, *sorted(sensitivity_table.prune[g.name], reverse=True)]) for g in groups
        }
        self._prune_sensitivity = {
            g.name: np.array([0.0, *(sensitivity_table.prune[g.name][int(k)] for k in self.keeps[g.name][1:])])
            for g in groups
        }
        activation_bits = min((int(c) for k in knobs.values() if k.name == f"act:{ALL_LAYERS}" for c in k.choices),
                              default=32)
        self.layers = {layer.name: layer for layer in table.layers if layer.kind in KINDS}
        self.costs: dict[str, LayerCosts] = {}
        self._option_sensitivity: dict[str, dict[str, np.ndarray]] = {}
        for layer in self.layers.values():
            offers = list(self._offers(layer, sensitivity_table))
            beside = [operation for operation in table.operations if layer.name in operation.sources]
            self.costs[layer.name] = LayerCosts(layer, [option for option, _, _ in offers], self._space.profile,
                                                 32 if layer.name in space.unpaying else activation_bits, beside,
                                                 space.file_format)
            self._option_sensitivity[layer.name] = {"bits": np.array([sensitivity for _, sensitivity, _ in offers]),
                                             "share": np.array([sensitivity for _, _, sensitivity in offers])}
        self.touching = {g.name: [x for x in self.layers if any(m.layer == x for m in g.members)] for g in groups}
        self._hangs = {x: [(g.name, m.side, m.per_channel) for g in groups for m in g.members if m.layer == x]
                       for x in self.layers}
        self._others = {(x, g.name): sorted({other for other, _, _ in self._hangs[x]} - {g.name})
                        for g in groups for x in self.touching[g.name]}
        self.beside = {g.name: {other for x in self.touching[g.name] for other in self._others[x, g.name]}
                       for g in groups}
        self._offered = {name: (np.array([o.bits for o in costs.options]), np.array([o.method for o in costs.options]),
                                np.array([o.share for o in costs.options])) for name, costs in self.costs.items()}
        self._along: dict[tuple[str, str, tuple[int, ...]], np.ndarray] = {}
        self.sensitivities: dict[str, np.ndarray] = {}
        self.group_sensitivities: dict[str, np.ndarray] = {}
        size_model = facts_of(space.file_format, space.profile.format)
        self.fixed_bytes = {bits: fixed_bytes(bits, size_model) for bits in (*self._space.weight_bits, 32)}

    def _offers(self, layer: Layer, sensitivity_table: SensitivityTable) -> Iterator[tuple[Option, float, float]]:
        """Options of a layer with the sensitivity of its bits and of its factors."""
        knobs = self._space.by_name
        bits, method = knobs.get(f"bits:{layer.name}"), knobs.get(f"method:{layer.name}")
        known = sensitivity_table.bits.get(layer.name, {})
        choices = [int(choice) for choice in bits.choices] if bits else [32]
        widths = [b for b in choices if b >= 16 or b in known] or [max(choices)]
        shapes = [(WHOLE, 1.0, 0.0)]
        for name in (str(choice) for choice in (method.choices if method else ())):
            shapes += [
                (name, share, sensitivity)
                for share, sensitivity in sensitivity_table.share.get(layer.name, {}).get(name, {}).items()
            ]
        for name, share, sensitivity in shapes:
            yield from ((Option(b, name, share), known.get(b, 0.0), sensitivity) for b in widths)

    def weigh(self, weights: Mapping[str, float], widths: Collection[int]) -> None:
        """Set the sensitivities that are solved for; widths that are not open do infinite sensitivity."""
        def weight(kind: str, site: str) -> float:
            return weights.get(kind, 1.0) * weights.get(f"{kind}:{site}", 1.0)

        self.group_sensitivities = {
            name: weight("prune", name) * sensitivity for name, sensitivity in self._prune_sensitivity.items()
        }
        for name, sensitivity in self._option_sensitivity.items():
            total = weight("bits", name) * sensitivity["bits"] + weight("share", name) * sensitivity["share"]
            shut = np.array([option.bits not in widths for option in self.costs[name].options])
            self.sensitivities[name] = np.where(shut, np.inf, total)

    def restrict(self, state: State, columns: Sequence[int], grow: bool) -> None:
        """Leave open only what `state` has and what costs no less than that (`grow`), or no more, in any of the metrics
        `columns`."""
        for group, level in state.levels.items():
            levels = np.arange(len(self.keeps[group]))
            shut = levels > level if grow else levels < level
            self.group_sensitivities[group] = np.where(shut, np.inf, self.group_sensitivities[group])
        for name, chosen in state.options.items():
            costs = self.costs_at(name, state.levels)[:, columns]
            moved = costs >= costs[chosen] if grow else costs <= costs[chosen]
            self.sensitivities[name] = np.where(moved.all(1), self.sensitivities[name], np.inf)

    def nearest(self, values: Mapping[str, Value]) -> State:
        """The state of a setting, its numbers moved to the nearest ones of the table."""
        levels = {name: int(np.abs(keeps - keeps[0] * (1 - float(values[f"prune:{name}"]))).argmin())
                  for name, keeps in self.keeps.items()}
        options = {}
        for name, (widths, methods, shares) in self._offered.items():
            bits, method = int(values.get(f"bits:{name}", 32)), str(values.get(f"method:{name}", WHOLE))
            share = float(values.get(f"share:{name}", 1.0)) if method != WHOLE else 1.0
            options[name] = int((4 * (widths != bits) + 2 * (methods != method) + abs(shares - share)).argmin())
        return State(levels, options)

    def harms_of(self, values: Mapping[str, Value]) -> dict[str, float]:
        """Harm of a setting by knob, unweighed, its numbers moved to the nearest ones of the table."""
        state = self.nearest(values)
        return {
            **{f"prune:{group}": float(self._prune_sensitivity[group][level]) for group, level in state.levels.items()},
            **{
                f"{kind}:{name}": float(sensitivity[chosen])
                for name, chosen in state.options.items()
                for kind, sensitivity in self._option_sensitivity[name].items()
            },
        }

    def sensitivity(self, state: State) -> float:
        """The weighted sensitivity of all its choices."""
        total = sum(self.group_sensitivities[group][level] for group, level in state.levels.items())
        return float(total + sum(self.sensitivities[name][chosen] for name, chosen in state.options.items()))

    def untouched(self) -> State:
        """Nothing cut, the widest bits that are open."""
        def widest(name: str) -> int:
            widths, methods, _ = self._offered[name]
            return int(np.where(np.isfinite(self.sensitivities[name]), widths + 1000 * (methods == WHOLE), -1).argmax())

        return State(dict.fromkeys(self.keeps, 0), {name: widest(name) for name in self.layers})

    def costs_at(self, name: str, levels: Mapping[str, int]) -> np.ndarray:
        """Of a layer's options, with what the levels leave of its channels, `(options, metrics)`."""
        return self.costs[name].at(*self.channels(name, levels))

    def costs_along(self, name: str, group: str, levels: Mapping[str, int]) -> np.ndarray:
        """`costs_at` for every level of `group`, the other levels as they are: `(levels, options, metrics)`."""
        key = name, group, self.rest(name, group, levels)
        if key not in self._along:
            self._along[key] = np.stack([self.costs_at(name, {**levels, group: level})
                                         for level in range(len(self.keeps[group]))])
        return self._along[key]

    def rest(self, name: str, group: str, levels: Mapping[str, int]) -> tuple[int, ...]:
        """The levels of the other groups that narrow a layer, on which `costs_along` depends."""
        return tuple([levels[other] for other in self._others[name, group]])

    def counted(self, state: State) -> np.ndarray:
        """Sum of the costs of all layers and of unpacking the widths in use, `(metrics,)`: what remains of an estimate
        hardly depends on the state."""
        total = np.zeros(len(self.metrics))
        widths = set()
        for name, chosen in state.options.items():
            total += self.costs_at(name, state.levels)[chosen]
            widths.add(self.costs[name].options[chosen].bits)
        total[self.metrics.index("size_bytes")] += sum(self.fixed_bytes[bits] for bits in widths)
        return total

    def channels(self, name: str, levels: Mapping[str, int]) -> tuple[int, int]:
        """Inputs and outputs that a layer has left."""
        n_in, n_out = self.layers[name].in_channels, self.layers[name].out_channels
        for group, side, per_channel in self._hangs[name]:
            keeps = self.keeps[group]
            gone = per_channel * int(keeps[0] - keeps[levels[group]])
            n_in, n_out = (n_in - gone, n_out) if side == "in" else (n_in, n_out - gone)
        return n_in, n_out

    def values(self, state: State) -> dict[str, Value]:
        """The knobs of a state; those that no table knows stay plain."""
        values = self._space.uniform()
        for group, level in state.levels.items():
            keeps = self.keeps[group]
            values[f"prune:{group}"] = min(1 - int(keeps[level]) / int(keeps[0]), self._space.max_ratio)
        for name, chosen in state.options.items():
            option = self.costs[name].options[chosen]
            if f"bits:{name}" in values:
                values[f"bits:{name}"] = option.bits
            if f"method:{name}" in values:
                values[f"method:{name}"] = option.method
                if option.method != WHOLE:
                    values[f"share:{name}"] = option.share
        return values
