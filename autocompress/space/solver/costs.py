"""Additive costs of the options of one layer at any number of channels: bytes, MACs and milliseconds, in arrays."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from autocompress.core.evaluation import LATENCY
from autocompress.core.format_facts import FormatFacts
from autocompress.core.layer import Layer, Operation, Part
from autocompress.core.sparsity import stored_bits
from autocompress.formats.table import facts_of
from autocompress.hardware.latency import Executed, operation_ms, part_ms
from autocompress.hardware.profile import HardwareProfile
from autocompress.space.space import Space
from autocompress.techniques.base import Option, whole

# The metrics that are sums over layers, in the order of the columns; latencies on further devices come after them.
METRICS = ("size_bytes", "macs", LATENCY)
# The cost of an option that is not legal. It is finite because a price of zero times infinity is not a number.
ILLEGAL = 1e30


# The choices, by technique, that decide the shapes of a layer's parts.
Shape = tuple[tuple[str, Option], ...]


class LayerOption(msgspec.Struct, frozen=True):
    """One option of a layer: the choice of each technique on layers, by name, and the weight width in bits."""

    options: tuple[tuple[str, Option], ...]
    bits: int = 32


def additive_metrics(profile: HardwareProfile) -> tuple[str, ...]:
    """Return the metrics that are sums over layers, with latencies on further devices: the columns of `LayerCosts`."""
    return tuple(dict.fromkeys((*METRICS, *profile.latencies)))


class LayerCosts:
    """The cost table of one layer: its options at any number of channels, remembered by number of channels.

    Bytes are a linear model of the format's prediction: a term for weights, a term for channels, and a constant, which
    makes the model exact for the layer with all of its channels.

    Args:
        layer: the layer.
        options: the options that are costed, in the order of the rows.
        space: the network, the device and the techniques.
        activation_bits: width of the activations of integer layers.
        operations: the operations whose size scales with the output channels of this layer; each of their sources is
            charged an equal share.
    """

    def __init__(self, layer: Layer, options: Sequence[LayerOption], space: Space, activation_bits: int,
                 operations: Sequence[Operation] = ()) -> None:
        size_model = facts_of(space.file_format, space.profile.format)
        self.options = list(options)
        self._layer, self._space, self._activation_bits = layer, space, activation_bits
        self._profile = space.profile
        self._part = whole(layer)
        self._depthwise = layer.groups > 1 and layer.groups == layer.in_channels == layer.out_channels
        self._bits = np.array([option.bits for option in options])
        shapes = [self._shape(option) for option in options]
        self._shapes = list(dict.fromkeys(shapes))
        self._shape_of = np.array([self._shapes.index(shape) for shape in shapes])
        self._remainder = np.zeros(len(options))
        self._cache: dict[tuple[int, int], np.ndarray] = {}
        self._operation_costs = np.array([self._operation_costs_of(operations, option.bits) for option in options])
        modelled = self.at(layer.in_channels, layer.out_channels)[:, 0]
        self._cache.clear()
        for i, option in enumerate(options):
            parts = self._parts(self._part, shapes[i])
            if parts:
                predicted = size_model.size([self._as_stored(part, option.bits) for part in parts]) \
                    - fixed_bytes(option.bits, size_model)
                self._remainder[i] = predicted - modelled[i]

    def at(self, n_in: int, n_out: int) -> np.ndarray:
        """Return the costs `(options, metrics)` with `n_in` input and `n_out` output channels.

        The columns are `additive_metrics`. Rows are `ILLEGAL` where factors would save nothing.
        """
        key = n_in, n_out
        if key not in self._cache:
            self._cache[key] = self._computed(n_in, n_out)
        return self._cache[key]

    def _computed(self, n_in: int, n_out: int) -> np.ndarray:
        part = msgspec.structs.replace(self._part, out_channels=n_out, in_channels=n_out if self._depthwise else n_in,
                                       groups=n_out if self._depthwise else self._layer.groups)
        parts_by_shape = [self._parts(part, shape) for shape in self._shapes]
        weights, channels, macs = np.array(
            [[sum(p.weights for p in parts), sum(p.out_channels for p in parts), sum(p.macs for p in parts)]
             for parts in parts_by_shape], float)[self._shape_of].T
        costs = np.zeros((len(self.options), len(additive_metrics(self._profile))))
        costs[:, 0] = weights * self._bits / 8 + 4 * (channels * (self._bits <= 8) + n_out) + self._remainder
        if any(part.pattern for parts in parts_by_shape for part in parts):
            costs[:, 0] -= self._sparse_savings(parts_by_shape)
        costs[:, 1] = macs + self._operation_costs[:, 0] * n_out / max(1, self._layer.out_channels)
        for column, device in enumerate(self._profile.latencies.values(), METRICS.index(LATENCY)):
            if device.latency == "estimated":
                costs[:, column] = [sum(part_ms(self._as_stored(p, int(bits)), device) for p in parts_by_shape[shape])
                                    for shape, bits in zip(self._shape_of, self._bits, strict=True)]
                costs[:, column] += self._operation_costs[:, column - 1] * n_out / max(1, self._layer.out_channels)
        costs[np.array([not parts for parts in parts_by_shape])[self._shape_of]] = ILLEGAL
        return costs

    def _sparse_savings(self, parts_by_shape: Sequence[tuple[Part, ...]]) -> np.ndarray:
        """Return the bytes `(options,)` that sparse storage saves."""
        saved = np.zeros(len(self.options))
        for i, (shape, bits) in enumerate(zip(self._shape_of, self._bits.tolist(), strict=True)):
            for part in parts_by_shape[shape]:
                if part.pattern:
                    saved[i] += (part.weights * bits - stored_bits(part.pattern, part.weights, part.kept, bits)) / 8
        return saved

    def _operation_costs_of(self, operations: Sequence[Operation], bits: int) -> list[float]:
        """Return the layer's share of the operations: MACs, and milliseconds on each device without overhead."""
        width = self._activation_bits if bits <= 8 else 32
        executed = [(Executed(kind=x.kind, macs=x.macs, elements=x.elements, bits=width), len(x.sources))
                    for x in operations]
        return [sum(x.macs / shares for x, shares in executed),
                *(sum((operation_ms(x, device) - device.layer_overhead_ms) / shares for x, shares in executed)
                  for device in self._profile.latencies.values())]

    def _shape(self, option: LayerOption) -> Shape:
        """Return the choices that decide shapes: all except those that are widths."""
        return tuple((name, choice) for name, choice in option.options
                     if self._space.techniques[name].weight_bits(choice) is None)

    def _parts(self, part: Part, shape: Shape) -> tuple[Part, ...]:
        """Return the parts that the techniques make of a layer in turn; none where a technique would save nothing."""
        parts: tuple[Part, ...] = (part,)
        for name, choice in shape:
            if parts:
                parts = self._space.techniques[name].narrowed(self._space, part.layer, choice, parts)
        return parts

    def _as_stored(self, part: Part, bits: int) -> Part:
        integer = bits <= 8 and not part.float_activations
        return msgspec.structs.replace(part, weight_bits=bits,
                                       activation_bits=self._activation_bits if integer else 32)


def fixed_bytes(bits: int, size_model: FormatFacts) -> int:
    """Return the fixed cost of a weight width: bytes of the unpacking code that all layers of the width share.

    Args:
        bits: weight width.
        size_model: predicts the bytes of a file.
    """
    first = Part(name="a", layer="a", kind="linear", in_channels=64, out_channels=64, weight_bits=bits)
    second = msgspec.structs.replace(first, name="b", layer="b")
    return 2 * size_model.size([first]) - size_model.size([first, second])
