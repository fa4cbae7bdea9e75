"""The discrete optimisation problem of the solver: a level for every group and an option for every layer.

A level is a number of channels that a coupling group keeps. An option of a layer is one choice of each technique on
layers that the solver decides: how the layer is factored, and in how many bits it is stored. Sensitivities add up over
groups and layers; costs of a layer depend on its option and on the levels of its groups.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import product

import msgspec
import numpy as np

from autocompress.core.layer import Layer
from autocompress.core.sensitivity import Decision, SensitivityTable
from autocompress.formats.table import facts_of
from autocompress.space.solver.costs import LayerCosts, LayerOption, additive_metrics, fixed_bytes
from autocompress.space.space import Knob, KnobKey, Space, Value
from autocompress.techniques.base import Option, Technique
from autocompress.techniques.quantize import KINDS, activation_bits

# Factors of predicted sensitivities, for a whole technique by its name, or for one decision.
Weights = Mapping[str | Decision, float]


class State(msgspec.Struct):
    """A solution: the level of each group and the option of each layer, as indices."""

    levels: dict[str, int]
    options: dict[str, int]


class Problem:
    """The discrete problem of one space: its levels and options, with their sensitivities and costs.

    Args:
        space: the knobs, the network and the device.
        sensitivity_table: the predicted sensitivity of each option alone, in nats.

    Attributes:
        metrics: names of the columns of costs.
        techniques: names of the techniques that are decided: the one on groups, the one that sets widths, then others.
        keeps: numbers of channels that each group can keep, `(levels,)`, all of its channels first.
        costs: the cost table of each layer.
        sensitivities: the weighted sensitivity of each layer's options in nats, `(options,)`, as `weigh` last set it.
        group_sensitivities: that of each group's levels, `(levels,)`.
        layers_of_group: the layers that a group narrows.
        neighbours: the groups that share a layer with a group.
        fixed_bytes: bytes of unpacking code that all layers of a weight width share, by width.
    """

    def __init__(self, space: Space, sensitivity_table: SensitivityTable) -> None:
        self._space, self.metrics = space, additive_metrics(space.profile)
        table = space.table
        solved = [row for row in space.techniques.values() if row.solved]
        (self._group_technique,) = (row for row in solved if row.acts_on == "group")
        self._layer_techniques: list[Technique] = [row for row in solved if row.acts_on == "layer"]
        self.techniques = (self._group_technique.name, *(row.name for row in reversed(self._layer_techniques)))
        groups = [group for group in table.groups if sensitivity_table.costs(self._group_technique.name, group.name)
                  and any((kind, group.name) in space.by_key for kind in self._group_technique.solved)]
        levels = {group.name: self._group_technique.alternatives(
            space, group.name, sensitivity_table.costs(self._group_technique.name, group.name)) for group in groups}
        self.keeps = {name: np.array([int(option[-1]) for option, _ in choices]) for name, choices in levels.items()}
        self._level_options = {name: [option for option, _ in choices] for name, choices in levels.items()}
        self._level_sensitivity = {name: np.array([nats for _, nats in choices]) for name, choices in levels.items()}
        self.layers = {layer.name: layer for layer in table.layers if layer.kind in KINDS}
        self.costs: dict[str, LayerCosts] = {}
        self._option_sensitivity: dict[str, dict[str, np.ndarray]] = {}
        least_activation_bits = activation_bits(space)
        for layer in self.layers.values():
            options_with_nats = self._options_with_nats(layer, sensitivity_table)
            operations = [operation for operation in table.operations if layer.name in operation.sources]
            self.costs[layer.name] = LayerCosts(
                layer, [self._layer_option(options) for options, _ in options_with_nats], space,
                32 if layer.name in space.unpaying else least_activation_bits, operations)
            nats = np.array([by_technique for _, by_technique in options_with_nats])
            self._option_sensitivity[layer.name] = {row.name: nats[:, column]
                                                    for column, row in reversed([*enumerate(self._layer_techniques)])}
        self.layers_of_group = {g.name: [x for x in self.layers if any(m.layer == x for m in g.members)]
                                for g in groups}
        self._couplings = {x: [(g.name, m.side, m.per_channel) for g in groups for m in g.members if m.layer == x]
                           for x in self.layers}
        self._other_groups = {(x, g.name): sorted({other for other, _, _ in self._couplings[x]} - {g.name})
                              for g in groups for x in self.layers_of_group[g.name]}
        self.neighbours = {g.name: {other for x in self.layers_of_group[g.name]
                                    for other in self._other_groups[x, g.name]} for g in groups}
        self._option_values = {name: [self._knob_values(name, option) for option in costs.options]
                               for name, costs in self.costs.items()}
        self._widths = {name: np.array([option.bits for option in costs.options])
                        for name, costs in self.costs.items()}
        self._knob_columns = {name: list(self._columns(name)) for name in self.layers}
        self._costs_by_level: dict[tuple[str, str, tuple[int, ...]], np.ndarray] = {}
        self.sensitivities: dict[str, np.ndarray] = {}
        self.group_sensitivities: dict[str, np.ndarray] = {}
        size_model = facts_of(space.file_format, space.profile.format)
        self.fixed_bytes = {bits: fixed_bytes(bits, size_model) for bits in (*space.weight_bits, 32)}

    def _options_with_nats(
        self, layer: Layer, sensitivity_table: SensitivityTable
    ) -> list[tuple[dict[str, Option], list[float]]]:
        """Return the options of a layer, each with the sensitivity in nats of each technique's choice."""
        choices = [row.alternatives(self._space, layer.name, sensitivity_table.costs(row.name, layer.name))
                   for row in self._layer_techniques]
        return [({row.name: option for row, (option, _) in zip(self._layer_techniques, combined, strict=True)},
                 [nats for _, nats in combined]) for combined in product(*choices)]

    def _layer_option(self, options: Mapping[str, Option]) -> LayerOption:
        widths = (row.weight_bits(options[row.name]) for row in self._layer_techniques)
        return LayerOption(tuple(options.items()), next((bits for bits in widths if bits is not None), 32))

    def _knob_values(self, name: str, option: LayerOption) -> dict[str, Value]:
        """Return the values of a layer's knobs, by kind, that decode to an option."""
        return {kind: value for technique, choice in option.options
                for kind, value in self._space.techniques[technique].values(self._space, name, choice).items()}

    def _columns(self, name: str) -> Iterator[tuple[Technique, list[tuple[Knob, np.ndarray]]]]:
        """Yield each technique with its knobs at a layer and the values `(options,)` that options give each knob."""
        for row in self._layer_techniques:
            keys = [KnobKey(kind, name) for kind in row.solved]
            knobs = [self._space.by_key[key] for key in keys if key in self._space.by_key]
            yield row, [(knob, np.array([values.get(knob.kind, knob.plain if knob.choices else 1.0)
                                         for values in self._option_values[name]])) for knob in knobs]

    def weigh(self, weights: Weights, widths: Collection[int]) -> None:
        """Set the weighted sensitivities that are minimised.

        Args:
            weights: factors of the table's sensitivities; 1 where there is none.
            widths: legal weight widths in bits; options of other widths get infinite sensitivity.
        """
        def weight(technique: str, site: str) -> float:
            return weights.get(technique, 1.0) * weights.get((technique, site), 1.0)

        self.group_sensitivities = {name: weight(self._group_technique.name, name) * nats
                                    for name, nats in self._level_sensitivity.items()}
        for name, by_technique in self._option_sensitivity.items():
            total = sum((weight(technique, name) * nats for technique, nats in by_technique.items()), np.zeros(1))
            excluded = np.array([bits not in widths for bits in self._widths[name].tolist()])
            self.sensitivities[name] = np.where(excluded, np.inf, total)

    def restrict(self, state: State, columns: Sequence[int], grow: bool) -> None:
        """Give infinite sensitivity to all levels and options on the wrong side of those of `state`.

        Args:
            state: the levels and options to compare with, which stay legal.
            columns: columns of the metrics that are compared; an option must be on the right side in all of them.
            grow: whether the choices that cost no less stay legal, or those that cost no more.
        """
        for group, level in state.levels.items():
            levels = np.arange(len(self.keeps[group]))
            excluded = levels > level if grow else levels < level
            self.group_sensitivities[group] = np.where(excluded, np.inf, self.group_sensitivities[group])
        for name, option in state.options.items():
            costs = self.costs_at(name, state.levels)[:, columns]
            stays_open = costs >= costs[option] if grow else costs <= costs[option]
            self.sensitivities[name] = np.where(stays_open.all(1), self.sensitivities[name], np.inf)

    def nearest(self, values: Mapping[KnobKey, Value]) -> State:
        """Return the state nearest to a setting: numbers are rounded to those of the sensitivity table."""
        (kind,) = self._group_technique.solved
        levels = {name: int(np.abs(keeps - keeps[0] * (1 - float(values[KnobKey(kind, name)]))).argmin())
                  for name, keeps in self.keeps.items()}
        return State(levels, {name: int(self._distance(name, values).argmin()) for name in self.layers})

    def _distance(self, name: str, values: Mapping[KnobKey, Value]) -> np.ndarray:
        """Return the distance of each option of a layer from a setting, `(options,)`.

        Another width counts 4, another choice 2, and numbers their difference; where the setting leaves the layer
        whole, its numbers count as 1.
        """
        distance = np.zeros(len(self.costs[name].options))
        for _, columns in self._knob_columns[name]:
            choices = [(knob, column) for knob, column in columns if knob.choices]
            for knob, column in choices:
                distance = distance + (4 if knob.unit else 2) * (column != values[knob.key])
            whole = bool(choices) and all(values[knob.key] == knob.plain for knob, _ in choices)
            for knob, column in columns:
                if not knob.choices:
                    distance = distance + np.abs(column - (1.0 if whole else float(values[knob.key])))
        return distance

    def sensitivities_of(self, values: Mapping[KnobKey, Value]) -> dict[Decision, float]:
        """Return the unweighted sensitivity of the state nearest to a setting, by decision, in nats."""
        state = self.nearest(values)
        return {(self._group_technique.name, group): float(self._level_sensitivity[group][level])
                for group, level in state.levels.items()} | {
            (technique, name): float(nats[option]) for name, option in state.options.items()
            for technique, nats in self._option_sensitivity[name].items()}

    def sensitivity(self, state: State) -> float:
        """Return the weighted sensitivity of a state, in nats."""
        total = sum(self.group_sensitivities[group][level] for group, level in state.levels.items())
        return float(total + sum(self.sensitivities[name][option] for name, option in state.options.items()))

    def least_compressed(self) -> State:
        """Return the state with no channel pruned, no layer factored, and the widest legal weight bits."""
        def widest(name: str) -> int:
            whole = np.ones(len(self._widths[name]), dtype=bool)
            for row, columns in self._knob_columns[name]:
                if row is not self._layer_techniques[-1]:
                    for knob, column in columns:
                        whole &= (column == knob.plain) if knob.choices else True
            return int(np.where(np.isfinite(self.sensitivities[name]), self._widths[name] + 1000 * whole, -1).argmax())

        return State(dict.fromkeys(self.keeps, 0), {name: widest(name) for name in self.layers})

    def costs_at(self, name: str, levels: Mapping[str, int]) -> np.ndarray:
        """Return the costs `(options, metrics)` of a layer's options with the channels that the levels leave."""
        return self.costs[name].at(*self.channels(name, levels))

    def costs_along(self, name: str, group: str, levels: Mapping[str, int]) -> np.ndarray:
        """Return the costs `(levels, options, metrics)` of a layer at every level of one group, the others fixed."""
        key = name, group, self.other_levels(name, group, levels)
        if key not in self._costs_by_level:
            self._costs_by_level[key] = np.stack([self.costs_at(name, {**levels, group: level})
                                         for level in range(len(self.keeps[group]))])
        return self._costs_by_level[key]

    def other_levels(self, name: str, group: str, levels: Mapping[str, int]) -> tuple[int, ...]:
        """Return the levels of all groups except one that narrow a layer: those on which `costs_along` depends."""
        return tuple([levels[other] for other in self._other_groups[name, group]])

    def additive_costs(self, state: State) -> np.ndarray:
        """Return the sum `(metrics,)` of the costs of all layers and of the fixed bytes of the widths in use.

        The rest of an estimate hardly depends on the state.
        """
        total = np.zeros(len(self.metrics))
        widths = set()
        for name, option in state.options.items():
            total += self.costs_at(name, state.levels)[option]
            widths.add(self.costs[name].options[option].bits)
        total[self.metrics.index("size_bytes")] += sum(self.fixed_bytes[bits] for bits in widths)
        return total

    def channels(self, name: str, levels: Mapping[str, int]) -> tuple[int, int]:
        """Return the numbers of input and output channels that the levels leave of a layer."""
        n_in, n_out = self.layers[name].in_channels, self.layers[name].out_channels
        for group, side, per_channel in self._couplings[name]:
            keeps = self.keeps[group]
            pruned = per_channel * int(keeps[0] - keeps[levels[group]])
            n_in, n_out = (n_in - pruned, n_out) if side == "in" else (n_in, n_out - pruned)
        return n_in, n_out

    def values(self, state: State) -> dict[KnobKey, Value]:
        """Return the setting of a state; knobs that the problem does not decide have their plain value."""
        values = self._space.uniform()
        for group, level in state.levels.items():
            group_values = self._group_technique.values(self._space, group, self._level_options[group][level])
            values |= {KnobKey(kind, group): value for kind, value in group_values.items()}
        for name, option in state.options.items():
            for kind, value in self._option_values[name][option].items():
                if (kind, name) in values:
                    values[KnobKey(kind, name)] = value
        return values
