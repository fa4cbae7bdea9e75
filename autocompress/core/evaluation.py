"""Evaluations, the metrics of a plan at one rung, and candidates, plans with all of their evaluations."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any, Literal

import msgspec

from autocompress.core.metric import Metrics as Metrics
from autocompress.core.metric import Reference
from autocompress.core.model_selection import best_of
from autocompress.core.plan import Plan, Receipt

# Where latency is measured, LATENCY is CPU time of one thread; LATENCY_SPREAD is the distance of its 90th from its 10th
# percentile as a share of the median.
LATENCY, LATENCY_WALL, LATENCY_SPREAD = "latency_ms", "latency_wall_ms", "latency_spread"

# Rungs of the fidelity ladder.
CALIBRATED, SHORT, LONG, AVERAGED = range(4)
RUNG_NAMES = ("calibrated", "distilled briefly", "distilled", "averaged")

Source = Literal["estimated", "measured", "compiled"]
Status = Literal["running", "complete", "infeasible", "failed", "duplicate"]


def latency_on(device: str) -> str:
    """The metric that is the latency on a `device` beside the primary one, by its profile's id."""
    return f"{LATENCY}@{device}"


def further_latencies(metrics: Iterable[str]) -> list[str]:
    """Those among the names `metrics` that are latencies on further devices, in the order of their ids."""
    return sorted(name for name in metrics if name.startswith(latency_on("")))


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """The metrics of a plan at one rung.

    Attributes:
        rung: how long it was trained: 0 calibrated, 1 distilled briefly, 2 distilled, 3 averaged with relatives.
        metrics: values by name, the unit in the name.
        sources: by metric, whether it is estimated (from facts), measured (the real thing was run), or compiled (the
            device's compiler told it of the file).
        receipts: the outcomes of the plan's steps and of the training.
        timings: seconds by phase.
        file: SHA-256 of the file that was run.
        weights: hash of the file of trained weights that was scored; empty where there is none, and in older studies.
    """

    rung: int
    metrics: Metrics
    sources: dict[str, Source]
    receipts: tuple[Receipt, ...] = ()
    timings: dict[str, float] = {}
    file: str = ""
    weights: str = ""

    @property
    def seconds(self) -> float:
        """Wall clock of the whole evaluation."""
        return sum(self.timings.values())


class Candidate(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A trial of a search: its plan, and its evaluations at rising rungs.

    Attributes:
        trial: the number of the trial in the study.
        status: whether it runs, is complete or infeasible, failed, or has the plan of another trial.
        plan: None where none was made of the trial's setting.
        evaluations: by rung, the lowest first.
        reason: why it failed, is infeasible or was not evaluated.
        origin: who proposed it: the sampler's name, or `uniform` for the baseline plans.
        duplicate_of: the trial that had the same plan before.
        reference: the original's metric that it was compared with; not stored.
        most_drop: the largest drop against the reference that the budget allows: evaluations that lost more count only
            where all did. Not stored.
        at_least: the worst values that the budget allows of metrics of quality, by name, in the same way. Not stored.
    """

    trial: int
    status: Status
    plan: Plan | None = None
    evaluations: tuple[Evaluation, ...] = ()
    reason: str = ""
    origin: str = "sampler"
    duplicate_of: int | None = None
    reference: Reference | msgspec.UnsetType = msgspec.UNSET
    most_drop: float | msgspec.UnsetType = msgspec.UNSET
    at_least: dict[str, float] | msgspec.UnsetType = msgspec.UNSET

    @property
    def unjudged(self) -> Candidate:
        """The candidate as it is stored, without reference, largest drop and worst values."""
        return msgspec.structs.replace(self, reference=msgspec.UNSET, most_drop=msgspec.UNSET, at_least=msgspec.UNSET)

    @cached_property
    def best(self) -> Evaluation | None:
        """The evaluation that counts and is exported: the best as far as can be told (`model_selection.best_of`), of
        equals the highest rung. The first training may find better weights than a longer one. Of a candidate that was
        not judged, the evaluation at the highest rung."""
        if not self.evaluations or not self.reference:
            return max(self.evaluations, key=lambda e: e.rung, default=None)
        reference = self.reference
        enough = [e for e in self.evaluations if reference.metric.name in e.metrics
                  and (self.most_drop is msgspec.UNSET or reference.drop(e.metrics) <= self.most_drop)
                  and all(missed <= 0 for missed in reference.metric.missed(self.at_least or {}, e.metrics).values())]
        ranked = sorted(enough or self.evaluations, key=lambda e: -e.rung)
        return ranked[best_of([e.metrics for e in ranked], reference.metric)]

    @property
    def metrics(self) -> Metrics:
        """Metrics of the evaluation that counts, or nothing."""
        return self.best.metrics if self.best else {}

    @property
    def rung(self) -> int | None:
        """The rung of the evaluation that counts."""
        return self.best.rung if self.best else None

    @property
    def receipts(self) -> tuple[Receipt, ...]:
        """The receipts of the evaluation that counts, after those of whole-network training at earlier rungs."""
        if self.best is None:
            return ()
        before = (r for e in self.evaluations if e.rung < self.best.rung for r in e.receipts if not r.site)
        return (*before, *self.best.receipts)

    @property
    def reached(self) -> int | None:
        """The highest rung it was evaluated at."""
        return self.evaluations[-1].rung if self.evaluations else None

    def flat(self) -> dict[str, Any]:
        """One row of a table: values by column."""
        return {
            "trial": self.trial, "status": self.status, "rung": self.rung, "origin": self.origin,
            **self.metrics, "seconds": sum(e.seconds for e in self.evaluations),
            "plan_fingerprint": self.plan.fingerprint if self.plan else None, "reason": self.reason,
        }
