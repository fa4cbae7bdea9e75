"""Upper bounds on metrics, as the user gave them."""

from __future__ import annotations

import msgspec

from autocompress.core.evaluation import Metrics, latency_on
from autocompress.core.metric import Metric, Reference
from autocompress.errors import InputError
from autocompress.quantities import format_bytes, format_count, format_milliseconds, format_percent

# By how much a bound may be missed, as rounding makes it.
ROUNDING = 1e-12
# Stands before the metric's name in the name of a constraint.
AT_LEAST = "at least "


def shown_excess(constraint: str, excess: float, metric: Metric) -> str:
    """By how much a constraint is missed, for people.

    Args:
        constraint: its name, as `Budget.excess` has it.
        excess: by how much it is missed.
        metric: the task's.
    """
    if constraint == "max_drop":
        return metric.format_excess(excess)
    of = metric.named(constraint.removeprefix(AT_LEAST))
    return f"{excess:.1%}" if of is None or not constraint.startswith(AT_LEAST) else of.format_excess(excess)


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """The user's bounds. What is None, or left out, is not bounded; what is left out leaves no trace in a stored study.

    Attributes:
        size_bytes: of the exported file.
        latency_ms: milliseconds of one sample on the primary device.
        macs: multiply-accumulates of one sample.
        peak_memory_bytes: of the activations that are alive at once.
        max_drop: the largest loss in the task's metric against the original, in the unit in which values are stored
            (shares 0 to 1), or, with `max_drop_is_share`, a share of the original's value.
        further_latency_ms: milliseconds on devices beside the primary one, by the id of the profile.
        max_drop_is_share: whether `max_drop` is a share of the original's value.
        max_drop_unit: the unit or the name of the metric in which `max_drop` was given; settled by `of_metric`.
        at_least: the worst values that are allowed of metrics of the task, by name: the least ones where higher is
            better, else the largest.
    """

    size_bytes: int | None = None
    latency_ms: float | None = None
    macs: int | None = None
    peak_memory_bytes: int | None = None
    max_drop: float | None = None
    further_latency_ms: dict[str, float] | msgspec.UnsetType = msgspec.UNSET
    max_drop_is_share: bool | msgspec.UnsetType = msgspec.UNSET
    max_drop_unit: str | msgspec.UnsetType = msgspec.UNSET
    at_least: dict[str, float] | msgspec.UnsetType = msgspec.UNSET

    def of_metric(self, metric: Metric) -> Budget:
        """This budget, as a user gave it, for a task: a drop of 1% is a point of a metric in percent, and a hundredth
        of the original's value of any other.

        Args:
            metric: the task's.

        Raises:
            InputError: where `at_least` bounds what the task does not measure, or `max_drop` is in another unit, or
                more than a metric in percent can lose.
        """
        for name in self.at_least or {}:
            if metric.named(name) is None:
                names = ", ".join(each.name for each in metric.every)
                raise InputError(f"at_least must bound a metric of the task, {names}, but bounds {name!r}")
        if self.max_drop is None:
            return self
        if self.max_drop_unit:
            if self.max_drop_unit not in (metric.name, metric.unit):
                legal = " or ".join(f"{self.max_drop:g}{unit}" for unit in (metric.unit, metric.name) if unit)
                raise InputError(f"max_drop must be a share such as 1%, or an amount of the task's metric such as "
                                 f"{legal}, but is {self.max_drop:g}{self.max_drop_unit}")
            return msgspec.structs.replace(self, max_drop_unit=msgspec.UNSET)
        if metric.is_share:
            if self.max_drop > 1:
                raise InputError(f"max_drop must be at most 100% of {metric.name}, which has a share of 1 to lose, but "
                                 f"is {self.max_drop:.0%}")
            return self
        return msgspec.structs.replace(self, max_drop_is_share=True)

    def most_drop(self, reference: Reference) -> float | None:
        """The largest drop in the metric's own unit, or None where it is not bounded.

        Args:
            reference: the task's metric with the original's value.
        """
        if self.max_drop is None or not self.max_drop_is_share:
            return self.max_drop
        return self.max_drop * abs(reference.value)

    @property
    def resources(self) -> Budget:
        """The bounds on resources alone."""
        return msgspec.structs.replace(self, max_drop=None, at_least=msgspec.UNSET)

    @property
    def bounds(self) -> dict[str, float]:
        """The bounds on resources that are set, by metric name."""
        names = ("size_bytes", "latency_ms", "macs", "peak_memory_bytes")
        bounds = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return bounds | {latency_on(device): bound for device, bound in self._further.items()}

    @property
    def _further(self) -> dict[str, float]:
        return self.further_latency_ms or {}

    def excess(self, metrics: Metrics, reference: Reference | None = None) -> dict[str, float]:
        """By how much each constraint is missed; ≤ 0 means that it holds.

        A bounded metric that was not evaluated is left out: it cannot be judged.

        Args:
            metrics: of a candidate, by name.
            reference: the task's metric with the original's value; without it, the bounds on resources alone are looked
                at.

        Returns:
            By the name of the constraint: of resources the share of the bound by which it is missed; of `max_drop` and
            of `at least NAME`, units of the metric.
        """
        over = {name: metrics[name] / bound - 1 for name, bound in self.bounds.items() if name in metrics}
        if reference is not None and reference.metric.name in metrics:
            allowed = self.most_drop(reference)
            if allowed is not None:
                over["max_drop"] = reference.drop(metrics) - allowed
        if reference is not None:
            over |= {f"{AT_LEAST}{name}": missed
                     for name, missed in reference.metric.missed(self.at_least or {}, metrics).items()}
        return over

    def allows(self, metrics: Metrics, reference: Reference | None = None) -> bool:
        """Whether every constraint that can be judged holds; `metrics` and `reference` as of `excess`."""
        return all(value <= ROUNDING for value in self.excess(metrics, reference).values())

    def describe(self, metric: Metric | None = None) -> str:
        """For people: `size ≤ 2.00 MB, latency ≤ 5 ms`. `metric` is the task's."""
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
            in_unit = metric is not None and not (metric.is_share or self.max_drop_is_share)
            allowed = metric.format(self.max_drop) if metric and in_unit else format_percent(self.max_drop)
            whose = " of the original's value" if self.max_drop_is_share else ""
            texts.append(f"{metric.name if metric else 'metric'} drop ≤ {allowed}{whose}")
        for name, bound in (self.at_least or {}).items():
            of = None if metric is None else metric.named(name)
            texts.append(f"{name} at least {bound:g}" if of is None else
                         f"{name} {'≥' if of.higher_is_better else '≤'} {of.format(bound)}")
        return ", ".join(texts) or "no constraint"
