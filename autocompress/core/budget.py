"""Upper bounds on metrics, as the user gave them."""

from __future__ import annotations

import msgspec

from autocompress.core.evaluation import Metrics, latency_on
from autocompress.quantities import format_bytes, format_count, format_milliseconds, format_percent

ROUNDING = 1e-12
"""By how much a bound may be missed, as rounding makes it."""


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """None means unbounded. `max_drop` is the largest loss of accuracy against the original, 0 to 1.
    `further_latency_ms` bounds the latency on devices beside the primary one, by id; left out, it leaves no trace."""

    size_bytes: int | None = None
    latency_ms: float | None = None
    macs: int | None = None
    peak_memory_bytes: int | None = None
    max_drop: float | None = None
    further_latency_ms: dict[str, float] | msgspec.UnsetType = msgspec.UNSET

    @property
    def bounds(self) -> dict[str, float]:
        """The bounds on resources that are set, by metric name."""
        names = ("size_bytes", "latency_ms", "macs", "peak_memory_bytes")
        bounds = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return bounds | {latency_on(device): bound for device, bound in self._further.items()}

    @property
    def _further(self) -> dict[str, float]:
        return self.further_latency_ms or {}

    def excess(self, metrics: Metrics, baseline_accuracy: float | None = None) -> dict[str, float]:
        """For each constraint, by how much it is missed relative to its bound; ≤ 0 means it holds.

        A bounded metric that was not evaluated is left out: it cannot be judged.
        """
        over = {name: metrics[name] / bound - 1 for name, bound in self.bounds.items() if name in metrics}
        if self.max_drop is not None and baseline_accuracy is not None and "accuracy" in metrics:
            over["max_drop"] = baseline_accuracy - metrics["accuracy"] - self.max_drop
        return over

    def allows(self, metrics: Metrics, baseline_accuracy: float | None = None) -> bool:
        """Whether every constraint that can be judged holds."""
        return all(value <= ROUNDING for value in self.excess(metrics, baseline_accuracy).values())

    def describe(self) -> str:
        """For people: `size ≤ 2.00 MB, latency ≤ 5 ms`."""
        texts = []
        if self.size_bytes is not None:
            texts.append(f"size ≤ {format_bytes(self.size_bytes)}")
        if self.latency_ms is not None:
            texts.append(f"latency ≤ {format_milliseconds(self.latency_ms)}")
        texts += [f"latency on {device} ≤ {format_milliseconds(bound)}" for device, bound in self._further.items()]
        if self.macs is not None:
            texts.append(f"MACs ≤ {format_count(self.macs)}")
        if self.peak_memory_bytes is not None:
            texts.append(f"peak memory ≤ {format_bytes(self.peak_memory_bytes)}")
        if self.max_drop is not None:
            texts.append(f"accuracy drop ≤ {format_percent(self.max_drop)}")
        return ", ".join(texts) or "no constraint"
