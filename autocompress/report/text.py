"""Values and plans in words, the same in figures, tables and on the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from autocompress.core.budget import AT_LEAST, Budget, shown_excess
from autocompress.core.evaluation import LATENCY, LATENCY_SPREAD, LATENCY_WALL, RUNG_NAMES, Metrics, further_latencies
from autocompress.core.layer import LayerTable
from autocompress.core.metric import Metric, Reference
from autocompress.core.plan import Plan
from autocompress.quantities import format_bytes, format_count, format_milliseconds
from autocompress.techniques.apply import Techniques
from autocompress.techniques.base import plural
from autocompress.techniques.table import TECHNIQUES

# Headings of the metrics that every task has.
TITLES = {"size_bytes": "Size", "latency_ms": "Latency", "macs": "MACs", "params": "Parameters",
          "peak_memory_bytes": "Peak memory"}
STATUSES = {
    "complete": "complete", "infeasible": "infeasible",
    "duplicate": "duplicate", "failed": "failed", "running": "running",
}
_FORMATS: dict[str, Callable[[float], str]] = {
    "size_bytes": format_bytes, "latency_ms": format_milliseconds, "macs": format_count, "params": format_count,
    "peak_memory_bytes": format_bytes,
}


def titles(metric: Metric) -> dict[str, str]:
    """Headings of all metrics of a study, in the order in which they are shown: the task's `metric` first, the finer
    one last."""
    return {**{each.name: each.heading for each in metric.every}, **TITLES, metric.finer: metric.finer_heading}


def axis_title(metric: Metric) -> str:
    """The metric's heading beside an axis, with its direction where that is not upwards."""
    return metric.heading if metric.higher_is_better else f"{metric.heading}, less is better"


def finer_of(metric: Metric) -> str:
    """The finer metric within a sentence."""
    return metric.finer_heading.lower()


def title_of(name: str, targets: Sequence[str] = (), metric: Metric | None = None) -> str:
    """What a metric is called: where there are several `targets`, the primary first, a latency says on which. `metric`:
    the task's."""
    name, _, device = name.partition("@")
    if name == LATENCY and targets:
        device = device or targets[0]
    names = TITLES if metric is None else titles(metric)
    return names.get(name, name) + (f" on {device}" if device else "")


def in_order(metrics: Iterable[str], metric: Metric) -> list[str]:
    """Those of the metrics that have a heading, in the order of `titles`, latencies together."""
    names = set(metrics)
    further = further_latencies(names)
    every = [name for first in titles(metric) for name in (first, *(further if first == LATENCY else ()))]
    return [name for name in every if name in names]


def format_metric(name: str, value: float | None, metric: Metric | None = None) -> str:
    """The value of the metric `name` with its unit; `–` when there is none. `metric`: the task's."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return str(value)
    of = None if metric is None else next((each for each in metric.every if name in (each.name, each.error)), None)
    if of is not None:
        return of.format(value)
    if metric is not None and name == metric.finer:
        return f"{value:.4f}"
    return _FORMATS.get(name.partition("@")[0], "{:.4g}".format)(value)


def format_rung(rung: int | None) -> str:
    """What a candidate of this rung was scored with."""
    if rung is None:
        return "not scored"
    return RUNG_NAMES[rung] if 0 <= rung < len(RUNG_NAMES) else f"rung {rung}"


def finite(metrics: Metrics, metric: str) -> float | None:
    """The metric when it is there and finite."""
    value = metrics.get(metric)
    return value if value is not None and math.isfinite(value) else None


def factor(before: float | None, after: float | None) -> float | None:
    """How many times less than before; None when either is unknown or not above zero."""
    return before / after if before and after and before > 0 and after > 0 else None


def format_factor(ratio: float | None, less: str, more: str) -> str:
    """7.4 → `7.4× smaller`, 0.5 → `2.0× larger`."""
    if ratio is None:
        return ""
    if 0.995 < ratio < 1.005:
        return "unchanged"
    times, word = (ratio, less) if ratio > 1 else (1 / ratio, more)
    digits = 0 if times >= 100 else 1 if times >= 1.05 else 2
    return f"{times:.{digits}f}× {word}"


def format_speedup(speedup: Mapping[str, float] | None) -> str:
    """Of a file against the original, timed in turn in one process: `2.3× faster (2.2 to 2.4)`, `1.4× slower (…)`. The
    range holds four fifths of the readings. Nothing where they were not timed together."""
    if not speedup:
        return ""
    factor, low, high = (speedup[name] for name in ("factor", "low", "high"))
    if factor < 1:
        low, high = 1 / high, 1 / low
    return f"{format_factor(factor, 'faster', 'slower')} ({low:.2f} to {high:.2f})"


def describe_source(metric: str, metrics: Metrics, source: str) -> str:
    """`estimated`, `measured`; of a latency that was measured, also with which clock, and what else it says."""
    device = metric.removeprefix(LATENCY)
    wall, spread = metrics.get(LATENCY_WALL + device), metrics.get(LATENCY_SPREAD + device)
    if not metric.startswith(LATENCY) or wall is None or spread is None:
        return source
    return f"{source}: CPU time, spread {spread:.0%}; wall time {format_milliseconds(wall)}"


def shorten(name: str, limit: int = 28) -> str:
    """Cut the middle out of a long name: its start and its end tell most."""
    head = (limit - 1) // 2
    return name if len(name) <= limit else f"{name[:head]}…{name[head + 1 - limit:]}"


def describe_plan(layers: LayerTable, plan: Plan | None, techniques: Techniques = TECHNIQUES) -> str:
    """A line for people: `prune 8 groups to 61% of their channels · quantize 20 layers (8 bit 12, 4 bit 8)`."""
    if plan is None:
        return "no plan"
    phrases = []
    for name in dict.fromkeys(step.technique for step in plan.steps):
        steps = plan.find(name).values()
        phrases.append(techniques[name].summary(steps, layers) if name in techniques
                       else f"{name} {plural(len(steps), 'site')}")
    return " · ".join(phrases) or "unchanged"


def nearest_miss(budget: Budget, rows: list[tuple[int, Metrics]], reference: Reference | None,
                 targets: Sequence[str] = ()) -> str:
    """Which trial comes closest to the budget, and by what it misses; nothing when none can be judged."""
    judged = []
    for trial, metrics in rows:
        over = {name: value for name, value in budget.excess(metrics, reference).items() if value > 0}
        if over and all(math.isfinite(value) for value in over.values()):
            worst = max(over, key=lambda name: over[name])
            judged.append((over[worst], trial, worst))
    if not judged:
        return ""
    value, trial, name = min(judged)
    what, by = f"the {title_of(name, targets).lower()} bound", f"{value:.1%}"
    if name == "max_drop" and reference is not None:
        what, by = f"the allowed {reference.metric.name} drop", shown_excess(name, value, reference.metric)
    elif name.startswith(AT_LEAST) and reference is not None:
        what, by = f"the bound on {name.removeprefix(AT_LEAST)}", shown_excess(name, value, reference.metric)
    return f"Nearest: trial {trial} misses {what} by {by}."
