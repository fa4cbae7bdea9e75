"""Latency from facts alone: the roofline of each layer and operation, summed.

A layer takes the longer of computing and moving what it reads and writes (Williams et al., "Roofline", CACM 52(4),
2009), plus what the runtime spends to start it. Batch 1. It is an estimate: it ranks candidates and
gates them, and is never reported as a measurement.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from autocompress.core.layer import Arithmetic, Part
from autocompress.errors import AutocompressError
from autocompress.hardware.profile import HardwareProfile, KindRates

# Bytes of a value by the type of arithmetic.
WIDTH = {"int8": 1, "fp16": 2, "float": 4}


class Executed(msgspec.Struct, frozen=True):
    """What a compressed network does beside its layers: one `core.layer.Operation` with what is left of it, computed on
    activations of so many `bits`."""

    kind: Arithmetic
    macs: int
    elements: int
    bits: int


def estimate_latency_ms(parts: Sequence[Part], profile: HardwareProfile, operations: Iterable[Executed] = ()) -> float:
    """Milliseconds of one inference at batch 1: of all parts, and of what is done beside them.

    Norm parts are free: they fold into the layer before. AutocompressError, a bug, when the result is not a positive
    number.
    """
    total_ms = profile.inference_overhead_ms + sum(part_ms(part, profile) for part in parts)
    total_ms += sum(operation_ms(operation, profile) for operation in operations)
    if not math.isfinite(total_ms) or total_ms <= 0:
        raise AutocompressError(
            f"an estimated latency must be above zero and finite, but {len(parts)} parts on {profile.id} "
            f"gave {total_ms} ms: this is a bug, please report it"
        )
    return total_ms


def part_ms(part: Part, profile: HardwareProfile) -> float:
    """Milliseconds that one part adds; a norm is free. What a module of another kind computes is an operation; its
    weights are fetched here."""
    if part.kind == "norm":
        return 0.0
    computed_as = profile.computed_as(part.weight_bits, part.activation_bits)
    moved = _weights_read(part) * min(part.weight_bits / 8, WIDTH[computed_as])
    if part.kind in ("conv", "linear", "recurrent"):
        written = part.out_channels * (part.out_positions or part.positions)
        moved += (part.in_channels * part.in_positions + written) * WIDTH[computed_as]
    seconds = max(_compute_s(part, profile.rates[computed_as]), moved / profile.bandwidth_bytes_per_s)
    return 1e3 * seconds + profile.layer_overhead_ms


def operation_ms(operation: Executed, profile: HardwareProfile) -> float:
    """Milliseconds that one operation beside the layers adds."""
    computed_as = profile.computed_as(operation.bits, operation.bits)
    seconds = operation.elements * WIDTH[computed_as] / profile.bandwidth_bytes_per_s
    if operation.kind != "none":
        seconds = max(seconds, operation.macs / profile.rates[computed_as].of(operation.kind))
    return 1e3 * seconds + profile.layer_overhead_ms


def _compute_s(part: Part, rates: KindRates) -> float:
    """A matrix that meets one vector is read as fast as it is multiplied; one that meets several is reused, but takes
    no less than for one."""
    if part.kind == "linear":
        return max(part.weights / rates.linear, part.macs / rates.of("matmul"))
    return part.macs / rates.of(arithmetic(part))


def arithmetic(part: Part) -> Arithmetic:
    """The kind of arithmetic that a convolution or linear layer is charged for."""
    if part.kind != "conv":
        return "linear"
    if part.groups == 1:
        return "pointwise" if math.prod(part.kernel) == 1 else "conv"
    return "depthwise" if part.groups == part.in_channels else "grouped"


def _weights_read(part: Part) -> int:
    """Values of its weight; of an embedding, of the rows that are looked up."""
    return part.positions * part.in_channels if part.kind == "embedding" else part.weights
