"""What every option of one layer costs, at any number of channels: bytes, MACs and milliseconds, in arrays."""

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

METRICS = ("size_bytes", "macs", LATENCY)
"""Metrics that are sums over layers, in the order of the columns; behind them come latencies on further devices."""
ILLEGAL = 1e30
"""Instead of infinity, which a price of zero would make nothing of."""


Shape = tuple[tuple[str, Option], ...]
"""Options by technique that decide the shapes of a layer's parts."""


class Stored(msgspec.Struct, frozen=True):
    """One way to store a layer: an option of each technique that has some, by name, and the weight width in bits."""

    options: tuple[tuple[str, Option], ...]
    bits: int = 32


def summed(profile: HardwareProfile) -> tuple[str, ...]:
    """`METRICS` and the latencies on further devices of a profile: the columns of `LayerCosts`."""
    return tuple(dict.fromkeys((*METRICS, *profile.latencies)))


class LayerCosts:
    """Costs of the `options` of one layer. Bytes are those that the format predicts, taken apart: what grows with
    weights and with channels is counted, the rest is that of the whole layer. `beside`: the operations that scale with
    its output channels, of which each of several such layers is charged an equal share."""

    def __init__(self, layer: Layer, options: Sequence[Stored], space: Space, activation_bits: int,
                 beside: Sequence[Operation] = ()) -> None:
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
        self._rest = np.zeros(len(options))
        self._known: dict[tuple[int, int], np.ndarray] = {}
        self._beside = np.array([self._charged(beside, option.bits) for option in options])
        counted = self.at(layer.in_channels, layer.out_channels)[:, 0]
        self._known.clear()
        for i, option in enumerate(options):
            parts = self._parts(self._part, shapes[i])
            if parts:
                exact = size_model.size([self._stored(part, option.bits) for part in parts]) \
                    - fixed_bytes(option.bits, size_model)
                self._rest[i] = exact - counted[i]

    def at(self, n_in: int, n_out: int) -> np.ndarray:
        """`(options, summed(profile))` with so many channels; `ILLEGAL` where the factors would save nothing."""
        key = n_in, n_out
        if key not in self._known:
            self._known[key] = self._counted(n_in, n_out)
        return self._known[key]

    def _counted(self, n_in: int, n_out: int) -> np.ndarray:
        part = msgspec.structs.replace(self._part, out_channels=n_out, in_channels=n_out if self._depthwise else n_in,
                                       groups=n_out if self._depthwise else self._layer.groups)
        every = [self._parts(part, shape) for shape in self._shapes]
        weights, channels, macs = np.array([[sum(p.weights for p in parts), sum(p.out_channels for p in parts),
                                             sum(p.macs for p in parts)] for parts in every], float)[self._shape_of].T
        costs = np.zeros((len(self.options), len(summed(self._profile))))
        costs[:, 0] = weights * self._bits / 8 + 4 * (channels * (self._bits <= 8) + n_out) + self._rest
        if any(part.pattern for parts in every for part in parts):
            costs[:, 0] -= self._zeros(every)
        costs[:, 1] = macs + self._beside[:, 0] * n_out / max(1, self._layer.out_channels)
        for column, device in enumerate(self._profile.latencies.values(), METRICS.index(LATENCY)):
            if device.latency == "estimated":
                costs[:, column] = [sum(part_ms(self._stored(p, int(bits)), device) for p in every[shape])
                                    for shape, bits in zip(self._shape_of, self._bits, strict=True)]
                costs[:, column] += self._beside[:, column - 1] * n_out / max(1, self._layer.out_channels)
        costs[np.array([not parts for parts in every])[self._shape_of]] = ILLEGAL
        return costs

    def _zeros(self, every: Sequence[tuple[Part, ...]]) -> np.ndarray:
        """Bytes `(options,)` that sparse parts need not store."""
        saved = np.zeros(len(self.options))
        for i, (shape, bits) in enumerate(zip(self._shape_of, self._bits.tolist(), strict=True)):
            for part in every[shape]:
                if part.pattern:
                    saved[i] += (part.weights * bits - stored_bits(part.pattern, part.weights, part.kept, bits)) / 8
        return saved

    def _charged(self, beside: Sequence[Operation], bits: int) -> list[float]:
        """MACs of the operations `beside` the whole layer, and their milliseconds on each device but for the start."""
        width = self._activation_bits if bits <= 8 else 32
        done = [(Executed(kind=x.kind, macs=x.macs, elements=x.elements, bits=width), len(x.sources)) for x in beside]
        return [sum(x.macs / shares for x, shares in done),
                *(sum((operation_ms(x, device) - device.layer_overhead_ms) / shares for x, shares in done)
                  for device in self._profile.latencies.values())]

    def _shape(self, option: Stored) -> Shape:
        """The options that decide shapes: all but those that are widths."""
        return tuple((name, choice) for name, choice in option.options
                     if self._space.techniques[name].weight_bits(choice) is None)

    def _parts(self, part: Part, shape: Shape) -> tuple[Part, ...]:
        """What the layer's part becomes, technique by technique; nothing where one of them saves nothing."""
        parts: tuple[Part, ...] = (part,)
        for name, choice in shape:
            if parts:
                parts = self._space.techniques[name].narrowed(self._space, part.layer, choice, parts)
        return parts

    def _stored(self, part: Part, bits: int) -> Part:
        integer = bits <= 8 and not part.float_activations
        return msgspec.structs.replace(part, weight_bits=bits,
                                       activation_bits=self._activation_bits if integer else 32)


def fixed_bytes(bits: int, size_model: FormatFacts) -> int:
    """Bytes that the first layer of a width costs beyond its own: what unpacks the weights of all of them."""
    one = Part(name="a", layer="a", kind="linear", in_channels=64, out_channels=64, weight_bits=bits)
    other = msgspec.structs.replace(one, name="b", layer="b")
    return 2 * size_model.size([one]) - size_model.size([one, other])
