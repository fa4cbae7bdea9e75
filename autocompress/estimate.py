"""What a plan would weigh, from facts alone: nothing is built."""

from __future__ import annotations

from functools import lru_cache
from math import ceil

from autocompress.core.evaluation import Metrics
from autocompress.core.format_facts import FormatFacts
from autocompress.core.layer import LayerTable, Operation, Part
from autocompress.core.plan import Plan
from autocompress.formats.table import facts_of
from autocompress.hardware.latency import Executed, estimate_latency_ms
from autocompress.hardware.memory import FLOAT_BYTES, peak_activation_bytes, share_left
from autocompress.hardware.profile import HardwareProfile
from autocompress.techniques.apply import Techniques, resolve
from autocompress.techniques.base import Parts, whole
from autocompress.techniques.table import TECHNIQUES


def estimate(table: LayerTable, plan: Plan, profile: HardwareProfile,
             file_format: FormatFacts | None = None, techniques: Techniques = TECHNIQUES) -> Metrics:
    """Estimate the metrics of the network that `plan` makes: size_bytes, macs, params, peak_memory_bytes, and the
    latency in milliseconds on each device that does not measure it.

    Args:
        file_format: what predicts the bytes of the file; by default the format that `profile` names.
        techniques: by name, in the order of application.

    Raises:
        InputError: for a plan that does not fit the table.
    """
    return estimate_parts(table, resolve(table, plan, techniques), profile, file_format)


def estimate_parts(table: LayerTable, parts: Parts, profile: HardwareProfile,
                   file_format: FormatFacts | None = None) -> Metrics:
    """`estimate` of a plan whose parts are resolved already."""
    executed, beside = flatten(parts), operations(table, parts)
    facts = facts_of(file_format, profile.format)
    metrics: Metrics = {
        "size_bytes": facts.size(executed, table.skeleton_bytes, _absent(table, parts)),
        "macs": sum(part.macs for part in executed) + sum(done.macs for done in beside),
        "params": sum(part.weights + (part.out_channels if part.bias else 0) for part in executed),
        "peak_memory_bytes": facts.memory(peak_activations(table, parts, profile), executed),
    }
    return metrics | {name: estimate_latency_ms(executed, device, beside)
                      for name, device in profile.latencies.items() if device.latency == "estimated"}


def _absent(table: LayerTable, parts: Parts) -> list[Part]:
    """Layers of dropped blocks, as they were."""
    return [whole(layer) for layer in table.layers if layer.kind in ("conv", "linear") and not parts[layer.name]]


def flatten(parts: Parts) -> list[Part]:
    """All executed parts in order."""
    return [part for layer_parts in parts.values() for part in layer_parts]


class _Left:
    """What is left of the layers of a table: channels (new over old), widths of activations in bytes."""

    def __init__(self, table: LayerTable, parts: Parts) -> None:
        full = _out_channels(table)
        last = {name: layer_parts[-1] for name, layer_parts in parts.items() if layer_parts}
        self.ratio = {name: part.out_channels / full[name] for name, part in last.items() if full.get(name)}
        self.width = {name: part.activation_bits / 8 for name, part in last.items()}
        self.gone = frozenset(name for name, layer_parts in parts.items() if not layer_parts)


def operations(table: LayerTable, parts: Parts) -> list[Executed]:
    """What is left of the operations beside the layers, with the width at which each is computed."""
    left = _Left(table, parts)

    def scaled(operation: Operation) -> Executed:
        share = share_left(operation.sources, lambda name: left.ratio.get(name, 1.0), left.gone)
        width = max((left.width.get(name, FLOAT_BYTES) for name in operation.sources if name not in left.gone),
                    default=FLOAT_BYTES)
        return Executed(kind=operation.kind, macs=round(operation.macs * share),
                        elements=ceil(operation.elements * share), bits=int(8 * width))

    return [done for done in map(scaled, table.operations) if done.elements or done.macs]


def peak_activations(table: LayerTable, parts: Parts, profile: HardwareProfile) -> int:
    """Peak of live activations for one sample, from the original's lifetimes scaled to the cut channels. A device that
    knows no float activations takes its input in integers."""
    left = _Left(table, parts)
    return peak_activation_bytes(table.activations, left.ratio, left.width, left.gone,
                                 float_input=32 in profile.activation_bits)


@lru_cache(maxsize=8)
def _out_channels(table: LayerTable) -> dict[str, int]:
    return {layer.name: layer.out_channels for layer in table.layers}
