"""What each technique of a plan bought and cost, and which of its steps carried it: plain data."""

from __future__ import annotations

import msgspec

from autocompress.core.evaluation import Metrics
from autocompress.core.metric import Metric


class TechniqueShare(msgspec.Struct, frozen=True, kw_only=True):
    """One technique of a plan, seen by leaving it out.

    `without`: estimated metrics of the plan without it; `alone`: of the original with nothing but it. Either is empty
    where there is no such plan. `measured`: metrics of the file of the plan without it, before training; empty where
    it was not built. `note`: why something that was asked is missing.
    """

    technique: str
    sites: int
    without: Metrics = {}
    alone: Metrics = {}
    measured: Metrics = {}
    note: str = ""


class StepShare(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a plan. `saved_bytes`: how much larger the file would be without it, estimated; None where the other
    steps need it. `sensitivity`: predicted, in nats of KL divergence from the original's answers; None where no table
    knows
    it."""

    site: str
    technique: str
    saved_bytes: int | None = None
    sensitivity: float | None = None


class Attribution(msgspec.Struct, frozen=True, kw_only=True):
    """Of one trial's plan: what its techniques do together, one by one, and step by step.

    What steps and techniques save overlaps: leaving out both saves another amount than the sum of the two.
    """

    trial: int
    plan_fingerprint: str
    original: Metrics
    """Estimated, nothing applied."""
    estimated: Metrics
    """Of the plan."""
    calibrated: Metrics
    """Of the plan's file before training, measured: what `TechniqueShare.measured` is to be set beside."""
    techniques: tuple[TechniqueShare, ...]
    """In the order of application."""
    steps: tuple[StepShare, ...]
    finished: bool = True
    """Whether all was measured that should be; not so when there was no time, or the user stopped."""

    def without(self, share: TechniqueShare, metric: str) -> tuple[float, float] | None:
        """A metric without the technique and with it; estimated where both are, else measured where both are."""
        for without, plan in ((share.without, self.estimated), (share.measured, self.calibrated)):
            if metric in without and metric in plan:
                return without[metric], plan[metric]
        return None

    def saved(self, share: TechniqueShare, metric: str) -> float | None:
        """How much less of a metric there is than without the technique; negative where it adds."""
        pair = self.without(share, metric)
        return None if pair is None else pair[0] - pair[1]

    def cost(self, share: TechniqueShare, metric: Metric) -> float | None:
        """How much worse in the task's metric the technique makes the plan before training, measured; negative where
        it makes it better."""
        pair = self.without(share, metric.name)
        return None if pair is None else metric.drop(*pair)
