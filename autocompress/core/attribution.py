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
    """One step of a plan.

    `saved_bytes` is the estimated growth of the file without the step, None where other steps need it. `sensitivity` is
    the predicted KL divergence from the original's outputs in nats, None where no table lists it.
    """

    site: str
    technique: str
    saved_bytes: int | None = None
    sensitivity: float | None = None


class Attribution(msgspec.Struct, frozen=True, kw_only=True):
    """The attribution of one trial's plan: what its techniques save and cost together, one by one, and by step.

    What steps and techniques save overlaps: leaving out both saves another amount than the sum of the two.
    """

    trial: int
    plan_fingerprint: str
    # Estimated metrics of the original.
    original: Metrics
    # Estimated metrics of the plan.
    estimated: Metrics
    # Measured metrics of the plan's file before training, which `TechniqueShare.measured` is compared with.
    calibrated: Metrics
    # The techniques in the order of application.
    techniques: tuple[TechniqueShare, ...]
    steps: tuple[StepShare, ...]
    # Whether every measurement was made; False where time ran out or the user stopped.
    finished: bool = True

    def without(self, share: TechniqueShare, metric: str) -> tuple[float, float] | None:
        """Return a metric without the technique and with it, both estimated, or both measured where not estimated."""
        for without, plan in ((share.without, self.estimated), (share.measured, self.calibrated)):
            if metric in without and metric in plan:
                return without[metric], plan[metric]
        return None

    def saved(self, share: TechniqueShare, metric: str) -> float | None:
        """Return by how much the technique lowers a metric; negative where it raises it."""
        pair = self.without(share, metric)
        return None if pair is None else pair[0] - pair[1]

    def cost(self, share: TechniqueShare, metric: Metric) -> float | None:
        """Return the drop of the task's metric that the technique causes before training, measured; negative where the
        metric improves."""
        pair = self.without(share, metric.name)
        return None if pair is None else metric.drop(*pair)
