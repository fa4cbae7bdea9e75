"""The measure of quality of a task, and what the original reaches in it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from autocompress.quantities import format_percent

# Values by name, the unit in the name: that of the task's metric, its standard error as `{name}_error` and its finer
# metric (of classification the cross-entropy in nats); size_bytes, latency_ms, macs, params, peak_memory_bytes; of
# several devices the latency on each further one as `latency_ms@ID`; where latency is measured, latency_wall_ms and
# latency_spread.
Metrics = dict[str, float]

# The metric that tells candidates of equal quality apart where a task names no finer one: how far the outputs of a file
# are from the original's, as the task measures it (`Likelihood.divergence`).
DIVERGENCE = "divergence"
# How many times the original's value one unit of quality is, where lower values are better (see `Reference.scale`).
ERROR_SHARE = 5.0


class Metric(msgspec.Struct, frozen=True):
    """How good a network is at its task.

    Args:
        name: Key of the value among all metrics of a candidate, such as `mae`. Beside it stands `{name}_error`, the
            standard error of the value.
        unit: What stands behind a value for people, such as `m`. Values of unit `%` are shares, 0 to 1.
        higher_is_better: The direction.
        title: Heading for people; left out, the name.
        finer: Key of another metric, lower being better, that decides between values that the standard error does not
            tell apart.
        further: Metrics that are reported beside it and can be bounded; left out, there is none, and no trace of it in
            a stored study.
    """

    name: str
    unit: str = ""
    higher_is_better: bool = True
    title: str = ""
    finer: str = DIVERGENCE
    further: tuple[Metric, ...] | msgspec.UnsetType = msgspec.UNSET

    @property
    def every(self) -> tuple[Metric, ...]:
        """The metric and the further ones."""
        return (self, *(self.further or ()))

    def named(self, name: str) -> Metric | None:
        """The metric of a `name`, of this one and the further ones; None where there is none."""
        return next((metric for metric in self.every if metric.name == name), None)

    def missed(self, bounds: Mapping[str, float], metrics: Metrics) -> dict[str, float]:
        """By how many units of its metric each bound is missed; negative where it holds. A metric without a value is
        left out.

        Args:
            bounds: the worst allowed value by the name of the metric.
            metrics: of a candidate, by name.
        """
        metric_of = {name: self.named(name) for name in bounds}
        return {name: of.drop(bounds[name], metrics[name]) for name, of in metric_of.items()
                if of is not None and name in metrics}

    @property
    def words(self) -> str:
        """The heading within a sentence."""
        return self.heading if not self.heading[1:2].islower() else self.heading[:1].lower() + self.heading[1:]

    @property
    def heading(self) -> str:
        """The metric's title, or its name with a capital letter."""
        return self.title or self.name[:1].upper() + self.name[1:]

    @property
    def finer_heading(self) -> str:
        """Heading of the finer metric."""
        return (self.finer[:1].upper() + self.finer[1:]).replace("_", "-")

    @property
    def error(self) -> str:
        """Key of the standard error."""
        return f"{self.name}_error"

    @property
    def is_share(self) -> bool:
        """Whether values are shares, 0 to 1, that people read in percent."""
        return self.unit == "%"

    def quality(self, metrics: Metrics, missing: float = math.nan) -> float:
        """The value in the direction in which more is better.

        Args:
            metrics: of a candidate, by name.
            missing: what is returned where there is no value.
        """
        if self.name not in metrics:
            return missing
        return metrics[self.name] if self.higher_is_better else -metrics[self.name]

    def cost(self, metrics: Metrics) -> float:
        """The value among `metrics` in the direction in which less is better. KeyError where there is none."""
        return -metrics[self.name] if self.higher_is_better else metrics[self.name]

    def drop(self, before: float, after: float) -> float:
        """How much worse the value `after` is than the value `before`; negative where it is better."""
        return before - after if self.higher_is_better else after - before

    def drawn(self, value: float) -> float:
        """A `value` as figures draw it: shares in percent."""
        return 100 * value if self.is_share else value

    @property
    def suffix(self) -> str:
        """What stands behind a number on an axis."""
        return "%" if self.is_share else f" {self.unit}" if self.unit else ""

    def format(self, value: float) -> str:
        """A `value` for people: `93.11%`, `0.2134 m`."""
        return format_percent(value) if self.is_share else f"{value:.4g}{self.suffix}"

    def format_excess(self, value: float) -> str:
        """A `value` by which a bound on the drop is missed, for people: `1.2 points`, `0.012 m`."""
        return f"{100 * value:.2f} points" if self.is_share else f"{value:.3g}{self.suffix}"

    def format_change(self, difference: float) -> str:
        """A `difference` of two values for people: `+0.25 points`, `-0.012 m`."""
        return f"{100 * difference:+.2f} points" if self.is_share else f"{difference:+.3g}{self.suffix}"


class Reference(msgspec.Struct, frozen=True):
    """What candidates are compared with: the task's metric and the original's value of it on the validation split.

    Args:
        metric: the task's.
        value: the original's, in the metric's own unit.
    """

    metric: Metric
    value: float

    def drop(self, metrics: Metrics) -> float:
        """How much worse a candidate with these `metrics` is than the original. KeyError where it has no value."""
        return self.metric.drop(self.value, metrics[self.metric.name])

    @property
    def scale(self) -> float:
        """One unit of quality, in which rules say how much is a large or a small difference: 1 for shares, the
        original's value where higher is better, and several times it for errors, which double easily."""
        if self.metric.is_share:
            return 1.0
        size = abs(self.value) if math.isfinite(self.value) else 0.0
        return (size if self.metric.higher_is_better else ERROR_SHARE * size) or 1.0
