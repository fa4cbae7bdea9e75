"""What each technique of a plan bought and cost, and which of its steps carried it: plain data."""

from __future__ import annotations

import msgspec

from autocompress.core.evaluation import Metrics
from autocompress.core.metric import Metric


class TechniqueShare(msgspec.Struct, frozen=True, kw_only=True):
    """What one technique of a plan bought and cost, found by leaving it out.

    Attributes:
        technique: its name.
        sites: how many of its steps the plan has.
        without: estimated metrics of the plan without it; empty where there is no such plan.
        alone: estimated metrics of the original with nothing but it; empty where there is no such plan.
        measured: metrics of the file of the plan without it, before training; empty where it was not built.
        note: why a figure that was wanted is missing.
    """

    technique: str
    sites: int
    without: Metrics = {}
    alone: Metrics = {}
    measured: Metrics = {}
    note: str = ""


class StepShare(msgspec.Struct, frozen=True, kw_only=True):
    """What one step of a plan bought and cost.

    Attributes:
        site: of the step.
        technique: of the step.
        saved_bytes: the estimated growth of the file without the step, None where other steps need it.
        sensitivity: the predicted KL divergence from the original's outputs in nats, None where no table lists it.
    """

    site: str
    technique: str
    saved_bytes: int | None = None
    sensitivity: float | None = None


class Attribution(msgspec.Struct, frozen=True, kw_only=True):
    """The attribution of one trial's plan: what its techniques save and cost together, one by one, and by step.

    What steps and techniques save overlaps: leaving out both saves another amount than the sum of the two.

    Attributes:
        trial: the number of the trial.
        plan_fingerprint: of its plan.
        original: estimated metrics of the original.
        estimated: estimated metrics of the plan.
        calibrated: measured metrics of the plan's file before training, which `TechniqueShare.measured` is compared
            with.
        techniques: in the order of application.
        steps: of the plan.
        finished: whether every measurement was made; False where time ran out or the user stopped.
    """

    trial: int
    plan_fingerprint: str
    original: Metrics
    estimated: Metrics
    calibrated: Metrics
    techniques: tuple[TechniqueShare, ...]
    steps: tuple[StepShare, ...]
    finished: bool = True

    def without(self, share: TechniqueShare, metric: str) -> tuple[float, float] | None:
        """A metric without a technique and with it, both estimated, or both measured where not estimated.

        Args:
            share: of the technique.
            metric: its name.
        """
        for without, plan in ((share.without, self.estimated), (share.measured, self.calibrated)):
            if metric in without and metric in plan:
                return without[metric], plan[metric]
        return None

    def saved(self, share: TechniqueShare, metric: str) -> float | None:
        """By how much a technique lowers a metric; negative where it raises it.

        Args:
            share: of the technique.
            metric: its name.
        """
        pair = self.without(share, metric)
        return None if pair is None else pair[0] - pair[1]

    def cost(self, share: TechniqueShare, metric: Metric) -> float | None:
        """The drop of the task's metric that a technique causes before training, measured; negative where the metric
        improves.

        Args:
            share: of the technique.
            metric: the task's.
        """
        pair = self.without(share, metric.name)
        return None if pair is None else metric.drop(*pair)
