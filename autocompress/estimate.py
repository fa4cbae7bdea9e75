"""What a plan would weigh, from facts alone: nothing is built."""

from __future__ import annotations

from functools import lru_cache

from autocompress.core.evaluation import Metrics
from autocompress.core.layer import LayerTable, Part
from autocompress.core.plan import Plan
from autocompress.hardware.latency import estimate_latency_ms
from autocompress.hardware.memory import peak_activation_bytes
from autocompress.hardware.profile import HardwareProfile
from autocompress.hardware.size import file_bytes
from autocompress.techniques import Parts, resolve
from autocompress.techniques.base import whole


def estimate(table: LayerTable, plan: Plan, profile: HardwareProfile) -> Metrics:
    """Estimated metrics of the network that `plan` makes: size_bytes, macs, params, peak_memory_bytes, and
    the latency on each device that does not measure it. InputError for a plan that does not fit the table."""
    return estimate_parts(table, resolve(table, plan), profile)


def estimate_parts(table: LayerTable, parts: Parts, profile: HardwareProfile) -> Metrics:
    """The same from resolved parts."""
    executed = flatten(parts)
    metrics: Metrics = {
        "size_bytes": file_bytes(executed, table.skeleton_bytes, _absent(table, parts)),
        "macs": sum(part.macs for part in executed),
        "params": sum(part.weights + (part.out_channels if part.bias else 0) for part in executed),
        "peak_memory_bytes": peak_memory_bytes(table, parts),
    }
    return metrics | {name: estimate_latency_ms(executed, device).milliseconds
                      for name, device in profile.latencies.items() if device.latency == "estimated"}


def _absent(table: LayerTable, parts: Parts) -> list[Part]:
    """Layers of dropped blocks, as they were."""
    return [whole(layer) for layer in table.layers if layer.kind in ("conv", "linear") and not parts[layer.name]]


def flatten(parts: Parts) -> list[Part]:
    """All executed parts in order."""
    return [part for layer_parts in parts.values() for part in layer_parts]


def peak_memory_bytes(table: LayerTable, parts: Parts) -> int:
    """Peak of live activations for one sample, from the original's lifetimes scaled to the cut channels."""
    full = _out_channels(table)
    last = {name: layer_parts[-1] for name, layer_parts in parts.items() if layer_parts}
    scale = {name: part.out_channels / full[name] for name, part in last.items() if full.get(name)}
    width = {name: part.activation_bits / 8 for name, part in last.items()}
    return peak_activation_bytes(table.activations, scale, width)


@lru_cache(maxsize=8)
def _out_channels(table: LayerTable) -> dict[str, int]:
    return {layer.name: layer.out_channels for layer in table.layers}
