"""Moving a plan into the budget before anything is built.

Soft constraints waste most trials of a black-box search, so every sampled setting is made to fit: all prune
ratios (and rank shares) move towards their maxima by one common amount, the smallest that fits, which keeps
the proportions that the sampler chose; only when that is not enough are bit-widths capped, step by step.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection
from functools import cached_property

import msgspec

from autocompress.core.budget import Budget
from autocompress.core.evaluation import LATENCY, Metrics, further_latencies
from autocompress.core.plan import Plan
from autocompress.errors import AutocompressError, InfeasibleError
from autocompress.estimate import estimate
from autocompress.quantities import format_bytes, format_count, format_milliseconds
from autocompress.space.encode import encode
from autocompress.space.space import KnobKey, Space, Value, Values
from autocompress.space.whole_layers import stays_whole

log = logging.getLogger(__name__)

# Share of each bound that an estimate may use: the exported file differs from it by less than the rest.
MARGIN = 0.995

# The same of a device's memories: by metric.
MARGINS = {"size_bytes": MARGIN, "peak_memory_bytes": 1.0}

# Resolution of the squeeze: finer than the channel grid of any layer that matters.
STEPS = 256


class Projected(msgspec.Struct, frozen=True, dict=True):
    """A plan inside the budget, and how far it was moved.

    Attributes:
        space: whose plan it is.
        plan: the plan.
        metrics: its estimated metrics.
        squeeze: how far every number was moved towards the end where plans are smallest, 0 to 1.
        bits_cap: the largest weight width in bits.
    """

    space: Space
    plan: Plan
    metrics: Metrics
    squeeze: float
    bits_cap: int

    @cached_property
    def values(self) -> dict[KnobKey, Value]:
        """The setting that says what the plan does: of a ratio that was moved, what the legal number of channels left.
        """
        return encode(self.space, self.plan)


class Projection:
    """Moves settings of one space into one budget; estimates are remembered by plan.

    Args:
        space: the knobs, the network and the device.
        budget: the bounds.
        predicted: metrics that are measured in the end, and only predicted here: where no plan is predicted to meet
            their bound, they bound nothing.
    """

    def __init__(self, space: Space, budget: Budget, predicted: Collection[str] = ()) -> None:
        self.space = space
        self._estimates: dict[str, Metrics] = {}
        of_original = self.estimate(Plan())
        bounds = {name: bound * MARGIN for name, bound in budget.bounds.items() if name in of_original}
        self._told = {name: budget.bounds[name] for name in bounds}  # as a message has them
        for name, (most, _) in space.profile.memories.items():
            if most * MARGINS[name] < bounds.get(name, math.inf):
                bounds[name], self._told[name] = most * MARGINS[name], most
        self.bounds = bounds
        for name in predicted:
            if name in bounds and self.estimate(self.smallest(name))[name] > bounds[name]:
                log.info("%s bounds nothing before files are measured: no plan is predicted to meet its bound", name)
                del self.bounds[name]

    def estimate(self, plan: Plan) -> Metrics:
        """The estimated metrics of a `plan`, remembered. AutocompressError for one that cannot be: a fault of ours."""
        if plan.fingerprint not in self._estimates:
            metrics = estimate(self.space.table, plan, self.space.profile, self.space.file_format,
                               self.space.techniques)
            for name in ("size_bytes", LATENCY, *further_latencies(metrics)):
                if not 0 < metrics.get(name, 1.0) < math.inf:
                    raise AutocompressError(f"the estimate of {name} must be above zero and finite, but is "
                                            f"{metrics[name]} for plan {plan.fingerprint}; please report this")
            self._estimates[plan.fingerprint] = metrics
        return self._estimates[plan.fingerprint]

    def fits(self, plan: Plan) -> bool:
        """Whether a `plan` keeps every bound that can be estimated."""
        metrics = self.estimate(plan)
        return all(metrics[name] <= bound for name, bound in self.bounds.items())

    def project(self, values: Values) -> Projected:
        """The setting itself when it fits, else the least squeezed one that does.

        Args:
            values: by knob.

        Raises:
            InfeasibleError: when even the smallest plan does not fit; `require_feasible` says so beforehand.
        """
        caps = sorted(self.space.weight_bits, reverse=True)
        for cap in [32, *(c for c in caps if c < 32)]:
            if self.fits(self.space.decode(values, 1.0, cap)):
                low, high = -1, STEPS  # `high` fits, `low` does not
                while high - low > 1:
                    middle = (low + high) // 2
                    if self.fits(self.space.decode(values, middle / STEPS, cap)):
                        high = middle
                    else:
                        low = middle
                return self._projected(values, high / STEPS, cap)
        for smallest, cap in self._extremes:
            if self.fits(self.space.decode(smallest, 1.0, cap)):
                return msgspec.structs.replace(self._projected(smallest, 1.0, cap), bits_cap=min(caps))
        raise InfeasibleError(self._shortfall())

    def _projected(self, values: Values, squeeze: float, cap: int) -> Projected:
        plan = self.space.decode(values, squeeze, cap)
        return Projected(self.space, plan, self.estimate(plan), squeeze, cap)

    @cached_property
    def extremes(self) -> list[Plan]:
        """The smallest plans: by bytes, by each bounded metric, and without any decomposition."""
        return [self.space.decode(values, 1.0, cap) for values, cap in self._extremes]

    @cached_property
    def _extremes(self) -> list[tuple[dict[KnobKey, Value], int]]:
        """Values and cap of each of `extremes`, to be squeezed whole."""
        cap, _ = self._plain("size_bytes")
        metrics = dict.fromkeys(("size_bytes", *self.bounds))
        return [*(self._smallest(metric) for metric in metrics), (self.space.uniform(cap), cap)]

    def smallest(self, metric: str = "size_bytes") -> Plan:
        """The plan with the least of one `metric`: all knobs at their cheapest, methods chosen one at a time."""
        values, cap = self._smallest(metric)
        return self.space.decode(values, 1.0, cap)

    def _smallest(self, metric: str) -> tuple[dict[KnobKey, Value], int]:
        space = self.space
        cap, best = self._plain(metric)
        values = space.uniform(cap)
        for knob in space.knobs:
            for choice in knob.choices if knob.saves else ():
                plan = space.decode({**values, knob.key: choice}, 1.0, cap)
                if self.estimate(plan)[metric] < self.estimate(best)[metric]:
                    best, values = plan, {**values, knob.key: choice}
        return values, cap

    def _plain(self, metric: str) -> tuple[int, Plan]:
        """The width at which a uniform plan has the least of a metric, and that plan: in a small file the tables
        that unpack fewer bits can outweigh what they save."""
        plans = {bits: self.space.decode(self.space.uniform(bits), 1.0, bits) for bits in self.space.weight_bits}
        least = min(sorted(plans), key=lambda bits: self.estimate(plans[bits])[metric])
        return least, plans[least]

    def require_feasible(self) -> None:
        """InfeasibleError with the smallest reachable value of each bound that cannot be met."""
        shortfall = self._shortfall()
        if shortfall:
            raise InfeasibleError(shortfall)

    def _shortfall(self) -> str:
        profile = self.space.profile
        texts: dict[str, tuple[str, Callable[[float], str]]] = {
            "size_bytes": ("size", format_bytes), "macs": ("MACs", format_count),
            "peak_memory_bytes": ("peak memory", format_bytes)}
        texts |= {name: (f"estimated latency{f' on {device.id}' if profile.targets else ''}", format_milliseconds)
                  for name, device in profile.latencies.items()}
        lines = []
        for name, bound in self.bounds.items():
            least = self.estimate(self.smallest(name))[name]
            if least > bound:
                what, text = texts[name]
                exact = f" ({least:.0f} bytes)" if name.endswith("_bytes") else ""
                lines.append(f"{what} must be at most {text(self._told[name])}{self._memory(name)}, but the smallest "
                             f"reachable on {profile.id} in this space is {text(least)}{exact}")
        if not lines and any(self.fits(plan) for plan in self.extremes):
            return ""
        if not lines:
            limits = " and ".join(f"{texts[name][0]} of {texts[name][1](self._told[name])}" for name in self.bounds)
            lines = [f"{limits} can each be met on {profile.id} in this space, but no plan was found that meets them "
                     "together"]
        return "; ".join(lines) + ". Raise the bound, or choose a space with fewer bits or higher prune ratios" \
            + stays_whole(self.space.table)

    def _memory(self, metric: str) -> str:
        """Whose memory it is that bounds a metric, if any: ` (the flash of stm32h743 less what its runtime takes)`."""
        most, owner = self.space.profile.memories.get(metric, (math.inf, ""))
        if most != self._told[metric]:
            return ""
        word = {"size_bytes": "flash", "peak_memory_bytes": "largest block of RAM"}[metric]
        return f" (the {word} of {owner} that its runtime leaves)"
