"""Everything a report shows of a study, as plain data: reports read this and nothing else."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import msgspec

from autocompress.core.attribution import Attribution
from autocompress.core.budget import Budget
from autocompress.core.evaluation import Candidate, Metrics
from autocompress.core.layer import LayerTable, Part
from autocompress.core.metric import Metric, Reference
from autocompress.core.warnings import Warned
from autocompress.techniques.apply import Techniques
from autocompress.techniques.table import TECHNIQUES

# The largest number of trials that figures describe in full, and that they draw: thousands would be most of the page.
MOST_IN_DETAIL, MOST_DRAWN = 300, 2000


class StudyView(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One study at one moment."""

    name: str
    profile: str
    budget: Budget
    # The task's metric.
    metric: Metric
    seed: int
    space: str
    # The original's metrics on the validation data.
    baseline: Metrics
    # For each metric, `measured` or `estimated`.
    sources: dict[str, str]
    candidates: tuple[Candidate, ...]
    # Trial numbers.
    front: tuple[int, ...]
    best: int | None
    layers: LayerTable
    # The parts of the best plan; empty when there is none.
    parts: tuple[Part, ...]
    # Layers that no technique touches, with the reason.
    untouched: dict[str, str]
    # The exported file: path, size_bytes, the task's metric, latency_ms, each of the original's as `baseline_…`,
    # speedup (`formats.timing.speedup`), verified. The metric is of the test data. A key that is absent or None was not
    # measured.
    artifact: dict[str, Any] | None
    # Seconds by phase.
    timings: dict[str, float]
    # Ids of the profiles where there are several, the primary first.
    targets: tuple[str, ...] = ()
    # What the techniques of the best plan bought and cost; None when nobody looked into that.
    attribution: Attribution | None = None
    # Predicted sensitivities in nats, by trial.
    sensitivities: dict[int, float] = {}
    # Warnings of the run and of the exported file.
    warnings: tuple[Warned, ...] = ()
    # The available techniques, which describe their steps.
    techniques: Techniques = msgspec.field(default_factory=lambda: TECHNIQUES)

    @property
    def shipped(self) -> dict[str, Any] | None:
        """The exported file where it is the best trial's: another trial may have been exported last."""
        return self.artifact if self.artifact and self.artifact.get("trial", self.best) == self.best else None

    def speedup_of(self, trial: int, latency: str) -> float | None:
        """How many times faster than the original a trial is, where both are estimated, or were timed together."""
        candidate = self.trial(trial)
        if candidate is None or self.source(latency, candidate) == "measured":
            return self.timed_together(trial).get("factor")
        before, after = self.baseline.get(latency), self.metrics_of(candidate).get(latency)
        return before / after if before and after and before > 0 and after > 0 else None

    def timed_together(self, trial: int) -> dict[str, Any]:
        """What was found when the file of a trial was timed beside the original; empty where it never was."""
        facts = self.artifact or {}
        return facts.get("speedup") or {} if facts.get("trial", self.best) == trial else {}

    def trial(self, number: int | None) -> Candidate | None:
        """The candidate of one trial number, or nothing."""
        return None if number is None else self._by_number.get(number)

    @cached_property
    def _by_number(self) -> dict[int, Candidate]:
        return {c.trial: c for c in reversed(self.candidates)}

    @cached_property
    def in_detail(self) -> frozenset[int]:
        """Trials that figures tell all about: of a large study the front, the trained and the best in the metric."""
        if len(self.candidates) <= MOST_IN_DETAIL:
            return frozenset(c.trial for c in self.candidates)
        told = {*self.front, *([] if self.best is None else [self.best])}
        ranked = sorted(self.candidates, key=lambda c: (-(c.reached or 0), -self.metric.quality(c.metrics, -math.inf),
                                                          c.trial))
        return frozenset(told | {c.trial for c in ranked[:MOST_IN_DETAIL // 2]})

    @cached_property
    def drawn(self) -> tuple[Candidate, ...]:
        """Trials that figures draw, in order: of a very large study those of `in_detail`, which hold the front whole,
        and of the others evenly many by number."""
        if len(self.candidates) <= MOST_DRAWN:
            return self.candidates
        others = [c.trial for c in self.candidates if c.trial not in self.in_detail]
        places = MOST_DRAWN - len(self.in_detail)
        sampled = {others[i * len(others) // places] for i in range(places)} if places > 0 else set[int]()
        return tuple(c for c in self.candidates if c.trial in self.in_detail or c.trial in sampled)

    @cached_property
    def hovers(self) -> dict[int, str]:
        """What figures say of trials, by number, as far as they were asked: all figures say the same."""
        return {}

    def metrics_of(self, candidate: Candidate) -> Metrics:
        """Its metrics; a duplicate without its own has those of the trial it repeats."""
        if candidate.metrics or candidate.duplicate_of is None:
            return candidate.metrics
        original = self.trial(candidate.duplicate_of)
        return original.metrics if original else {}

    def source(self, metric: str, candidate: Candidate | None = None) -> str:
        """`measured` or `estimated`, as the candidate's evaluation says, else the study, else nothing."""
        evaluated = candidate.best.sources if candidate and candidate.best else {}
        return evaluated.get(metric) or self.sources.get(metric, "")

    def feasible(self, candidate: Candidate) -> bool:
        """Complete, with finite metrics, and inside the budget."""
        return (candidate.status == "complete" and not math.isnan(self.metric.quality(candidate.metrics))
                and self.budget.allows(candidate.metrics, self.reference))

    @property
    def reference(self) -> Reference | None:
        """The task's metric with the original's value, where that is known."""
        value = self.baseline.get(self.metric.name)
        return None if value is None else Reference(self.metric, value)

    def value(self, metrics: Metrics) -> float | None:
        """The task's metric as figures draw it, where it is there and finite."""
        value = metrics.get(self.metric.name)
        return None if value is None or not math.isfinite(value) else self.metric.drawn(value)
