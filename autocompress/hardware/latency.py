"""Latency from facts alone: the roofline of each layer, summed.

A layer takes the longer of computing and fetching its weights (Williams et al., "Roofline", CACM 52(4),
2009), plus what the runtime spends to start it. Batch 1. It is an estimate: it ranks candidates and
gates them, and is never reported as a measurement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from autocompress.core.layer import Part
from autocompress.errors import AutocompressError, InputError
from autocompress.hardware.profile import HardwareProfile

MAX_UNKNOWN_SHARE = 0.2
"""Above this share of MACs in layers of unknown kind an estimate would be a guess, and is refused."""


class LatencyEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds of one inference, and the share (0 to 1) of its MACs that no rate is known for."""

    milliseconds: float
    unknown_macs_share: float


def estimate_latency_ms(
    parts: Sequence[Part], profile: HardwareProfile, activations_bytes: float | None = None
) -> LatencyEstimate:
    """Estimate one inference at batch 1.

    Norm parts are free: they fold into the layer before. A part of kind `other` runs at the slowest rate
    of the device. `activations_bytes`, where known, is the traffic of all intermediate tensors: no
    network runs faster than its weights and activations pass the memory once.

    InputError when more than a fifth of the MACs are of unknown kind; AutocompressError, a bug, when the
    result is not a positive number.
    """
    total_ms = macs = unknown = weights_bytes = 0.0
    for part in parts:
        if part.kind == "norm":
            continue
        total_ms += part_ms(part, profile)
        weights_bytes += _bytes_read(part)
        macs += part.macs
        unknown += part.macs if part.kind == "other" else 0
    if activations_bytes is not None:
        total_ms = max(total_ms, 1e3 * (weights_bytes + activations_bytes) / profile.bandwidth_bytes_per_s)
    total_ms += profile.inference_overhead_ms
    share = unknown / macs if macs else 0.0
    if share > MAX_UNKNOWN_SHARE:
        raise InputError(
            f"latency can be estimated when at most {MAX_UNKNOWN_SHARE:.0%} of the MACs are in layers of unknown "
            f"kind, but here {share:.0%} are; use a profile whose latency is measured, or no latency bound"
        )
    if not math.isfinite(total_ms) or total_ms <= 0:
        raise AutocompressError(
            f"an estimated latency must be above zero and finite, but {len(parts)} parts on {profile.id} "
            f"gave {total_ms} ms: this is a bug, please report it"
        )
    return LatencyEstimate(milliseconds=total_ms, unknown_macs_share=share)


def part_ms(part: Part, profile: HardwareProfile) -> float:
    """Milliseconds that one part adds; a norm is free."""
    if part.kind == "norm":
        return 0.0
    fetch_s = _bytes_read(part) / profile.bandwidth_bytes_per_s
    return 1e3 * max(part.macs / rate(part, profile), fetch_s) + profile.layer_overhead_ms


def _bytes_read(part: Part) -> float:
    """Of its weight; of an embedding, the rows that are looked up."""
    read = part.positions * part.in_channels if part.kind == "embedding" else part.weights
    return read * part.weight_bits / 8


def rate(part: Part, profile: HardwareProfile) -> float:
    rates = profile.rates_for(part.weight_bits, part.activation_bits)
    if part.kind == "linear":
        return rates.linear
    if part.kind != "conv":
        return rates.slowest
    if part.groups > 1 and part.groups == part.in_channels == part.out_channels:
        return rates.depthwise
    if rates.pointwise is not None and math.prod(part.kernel) == 1:
        return rates.pointwise
    return rates.conv
