"""Rates of a profile brought to what one machine takes, so that plans can be ranked before any file is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from autocompress.hardware.profile import HardwareProfile, KindRates

BISECTIONS = 40
# Factors between which the rates of integers are looked for.
LEAST, MOST = 1e-3, 1e3


def calibrated(profile: HardwareProfile, float_ms: float, original_ms: Callable[[HardwareProfile], float],
               integer_ms: float | None = None,
               integers_ms: Callable[[HardwareProfile], float] | None = None) -> HardwareProfile:
    """A profile that estimates: everything is scaled until the original, estimated by `original_ms`, takes `float_ms`,
    then the integer rates alone until its 8-bit form, by `integers_ms`, takes `integer_ms`, as nearly as they can."""
    estimating = msgspec.structs.replace(profile, latency="estimated", targets=())
    factor = float_ms / original_ms(estimating)
    scaled = msgspec.structs.replace(
        estimating, rates={kind: _slower(rates, factor) for kind, rates in profile.rates.items()},
        bandwidth_bytes_per_s=profile.bandwidth_bytes_per_s / factor,
        layer_overhead_ms=profile.layer_overhead_ms * factor,
        inference_overhead_ms=profile.inference_overhead_ms * factor)
    if integer_ms is None or integers_ms is None or "int8" not in scaled.rates:
        return scaled

    def with_integers(slower: float) -> HardwareProfile:
        return msgspec.structs.replace(scaled, rates={**scaled.rates, "int8": _slower(scaled.rates["int8"], slower)})

    low, high = LEAST, MOST
    for _ in range(BISECTIONS):  # the estimate never falls as rates do
        middle = (low * high) ** 0.5
        low, high = (middle, high) if integers_ms(with_integers(middle)) < integer_ms else (low, middle)
    return with_integers(high)


def _slower(rates: KindRates, factor: float) -> KindRates:
    """All of the rates divided by a factor."""
    slower: dict[str, Any] = {kind: None if rate is None else rate / factor
                              for kind, rate in msgspec.structs.asdict(rates).items()}
    return KindRates(**slower)
