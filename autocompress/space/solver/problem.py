"""The discrete problem that a solver decides: a level for every group, an option for every layer, and what each costs.

Levels are numbers of channels of a coupling group. An option of a layer is one choice of each technique that acts on
layers and has options: how it is factored, and in how many bits it is stored.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import product

import msgspec
import numpy as np

from autocompress.core.layer import Layer
from autocompress.core.sensitivity import Decision, SensitivityTable
from autocompress.formats.table import facts_of
from autocompress.space.solver.costs import LayerCosts, Stored, fixed_bytes, summed
from autocompress.space.space import Knob, KnobKey, Space, Value
from autocompress.techniques.base import Option, Technique
from autocompress.techniques.quantize import KINDS, activation_bits

Weights = Mapping[str | Decision, float]
"""Factors of predicted sensitivities: of all of a technique, by its name, or of one decision."""


class State(msgspec.Struct):
    """Level of each group and option of each layer."""

    levels: dict[str, int]
    options: dict[str, int]


class Problem:
    """The choices of one space.

    Args:
        space: the knobs, the network and the device.
        sensitivity_table: the predicted cost of each option alone, in nats.

    Attributes:
        metrics: what the columns of costs are.
        techniques: names of those that are decided here: the one on groups, the one that sets widths, then others.
        keeps: channels that each group can keep, all of them first.
        costs: of the options of each layer.
        sensitivities, group_sensitivities: of the options of a layer and the levels of a group, in nats, as last
            weighed.
        touching: the layers that a group narrows; `beside`: the groups that share one of them with it.
    """

    def __init__(self, space: Space, sensitivity_table: SensitivityTable) -> None:
        self._space, self.metrics = space, summed(space.profile)
        table = space.table
        solved = [row for row in space.techniques.values() if row.solved]
        (self._cutting,) = (row for row in solved if row.acts_on == "group")
        self._of_layers: list[Technique] = [row for row in solved if row.acts_on == "layer"]
        self.techniques = (self._cutting.name, *(row.name for row in reversed(self._of_layers)))
        groups = [group for group in table.groups if sensitivity_table.costs(self._cutting.name, group.name)
                  and any((kind, group.name) in space.by_key for kind in self._cutting.solved)]
        levels = {group.name: self._cutting.alternatives(
            space, group.name, sensitivity_table.costs(self._cutting.name, group.name)) for group in groups}
        self.keeps = {name: np.array([int(option[-1]) for option, _ in choices]) for name, choices in levels.items()}
        self._level_options = {name: [option for option, _ in choices] for name, choices in levels.items()}
        self._level_sensitivity = {name: np.array([nats for _, nats in choices]) for name, choices in levels.items()}
        self.layers = {layer.name: layer for layer in table.layers if layer.kind in KINDS}
        self.costs: dict[str, LayerCosts] = {}
        self._option_sensitivity: dict[str, dict[str, np.ndarray]] = {}
        least_activation_bits = activation_bits(space)
        for layer in self.layers.values():
            offers = self._offers(layer, sensitivity_table)
            beside = [operation for operation in table.operations if layer.name in operation.sources]
            self.costs[layer.name] = LayerCosts(layer, [self._stored(options) for options, _ in offers], space,
                                                32 if layer.name in space.unpaying else least_activation_bits, beside)
            nats = np.array([of_each for _, of_each in offers])
            self._option_sensitivity[layer.name] = {row.name: nats[:, column]
                                                    for column, row in reversed([*enumerate(self._of_layers)])}
        self.touching = {g.name: [x for x in self.layers if any(m.layer == x for m in g.members)] for g in groups}
        self._hangs = {x: [(g.name, m.side, m.per_channel) for g in groups for m in g.members if m.layer == x]
                       for x in self.layers}
        self._others = {(x, g.name): sorted({other for other, _, _ in self._hangs[x]} - {g.name})
                        for g in groups for x in self.touching[g.name]}
        self.beside = {g.name: {other for x in self.touching[g.name] for other in self._others[x, g.name]}
                       for g in groups}
        self._option_values = {name: [self._values_of(name, option) for option in costs.options]
                               for name, costs in self.costs.items()}
        self._widths = {name: np.array([option.bits for option in costs.options])
                        for name, costs in self.costs.items()}
        self._distances = {name: list(self._columns(name)) for name in self.layers}
        self._along: dict[tuple[str, str, tuple[int, ...]], np.ndarray] = {}
        self.sensitivities: dict[str, np.ndarray] = {}
        self.group_sensitivities: dict[str, np.ndarray] = {}
        size_model = facts_of(space.file_format, space.profile.format)
        self.fixed_bytes = {bits: fixed_bytes(bits, size_model) for bits in (*space.weight_bits, 32)}

    def _offers(self, layer: Layer, sensitivity_table: SensitivityTable) -> list[tuple[dict[str, Option], list[float]]]:
        """Options of a layer, each with the nats that the choice of each technique costs."""
        choices = [row.alternatives(self._space, layer.name, sensitivity_table.costs(row.name, layer.name))
                   for row in self._of_layers]
        return [({row.name: option for row, (option, _) in zip(self._of_layers, combined, strict=True)},
                 [nats for _, nats in combined]) for combined in product(*choices)]

    def _stored(self, options: Mapping[str, Option]) -> Stored:
        widths = (row.weight_bits(options[row.name]) for row in self._of_layers)
        return Stored(tuple(options.items()), next((bits for bits in widths if bits is not None), 32))

    def _values_of(self, name: str, option: Stored) -> dict[str, Value]:
        """Values of a layer's knobs, by kind, that mean an option."""
        return {kind: value for technique, choice in option.options
                for kind, value in self._space.techniques[technique].values(self._space, name, choice).items()}

    def _columns(self, name: str) -> Iterator[tuple[Technique, list[tuple[Knob, np.ndarray]]]]:
        """For each technique its knobs at a layer, with the value that each option of the layer gives them."""
        for row in self._of_layers:
            keys = [KnobKey(kind, name) for kind in row.solved]
            knobs = [self._space.by_key[key] for key in keys if key in self._space.by_key]
            yield row, [(knob, np.array([values.get(knob.kind, knob.plain if knob.choices else 1.0)
                                         for values in self._option_values[name]])) for knob in knobs]

    def weigh(self, weights: Weights, widths: Collection[int]) -> None:
        """Set the sensitivities that are solved for, in nats; widths that are not open cost infinitely much."""
        def weight(technique: str, site: str) -> float:
            return weights.get(technique, 1.0) * weights.get((technique, site), 1.0)

        self.group_sensitivities = {name: weight(self._cutting.name, name) * nats
                                    for name, nats in self._level_sensitivity.items()}
        for name, by_technique in self._option_sensitivity.items():
            total = sum((weight(technique, name) * nats for technique, nats in by_technique.items()), np.zeros(1))
            shut = np.array([bits not in widths for bits in self._widths[name].tolist()])
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

    def nearest(self, values: Mapping[KnobKey, Value]) -> State:
        """The state of a setting, its numbers moved to the nearest ones of the table."""
        (kind,) = self._cutting.solved
        levels = {name: int(np.abs(keeps - keeps[0] * (1 - float(values[KnobKey(kind, name)]))).argmin())
                  for name, keeps in self.keeps.items()}
        return State(levels, {name: int(self._distance(name, values).argmin()) for name in self.layers})

    def _distance(self, name: str, values: Mapping[KnobKey, Value]) -> np.ndarray:
        """How far each option of a layer is from a setting: 4 for another width, 2 for another choice, and the
        difference of numbers, which count where the setting does not leave the layer whole."""
        distance = np.zeros(len(self.costs[name].options))
        for _, columns in self._distances[name]:
            choices = [(knob, column) for knob, column in columns if knob.choices]
            for knob, column in choices:
                distance = distance + (4 if knob.unit else 2) * (column != values[knob.key])
            whole = bool(choices) and all(values[knob.key] == knob.plain for knob, _ in choices)
            for knob, column in columns:
                if not knob.choices:
                    distance = distance + np.abs(column - (1.0 if whole else float(values[knob.key])))
        return distance

    def sensitivities_of(self, values: Mapping[KnobKey, Value]) -> dict[Decision, float]:
        """Sensitivity of a setting by decision, in nats, unweighed, its numbers moved to the nearest of the table."""
        state = self.nearest(values)
        return {(self._cutting.name, group): float(self._level_sensitivity[group][level])
                for group, level in state.levels.items()} | {
            (technique, name): float(nats[option]) for name, option in state.options.items()
            for technique, nats in self._option_sensitivity[name].items()}

    def sensitivity(self, state: State) -> float:
        """The weighted sensitivity of all its choices."""
        total = sum(self.group_sensitivities[group][level] for group, level in state.levels.items())
        return float(total + sum(self.sensitivities[name][chosen] for name, chosen in state.options.items()))

    def untouched(self) -> State:
        """Nothing cut, the widest bits that are open."""
        def widest(name: str) -> int:
            whole = np.ones(len(self._widths[name]), dtype=bool)
            for row, columns in self._distances[name]:
                if row is not self._of_layers[-1]:
                    for knob, column in columns:
                        whole &= (column == knob.plain) if knob.choices else True
            return int(np.where(np.isfinite(self.sensitivities[name]), self._widths[name] + 1000 * whole, -1).argmax())

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

    def values(self, state: State) -> dict[KnobKey, Value]:
        """The knobs of a state; those that no table knows stay plain."""
        values = self._space.uniform()
        for group, level in state.levels.items():
            of_group = self._cutting.values(self._space, group, self._level_options[group][level])
            values |= {KnobKey(kind, group): value for kind, value in of_group.items()}
        for name, option in state.options.items():
            for kind, value in self._option_values[name][option].items():
                if (kind, name) in values:
                    values[KnobKey(kind, name)] = value
        return values
