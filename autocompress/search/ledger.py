"""The candidates of a running search in memory: the database is read when a run begins, and only written after that."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from autocompress.core.budget import Budget
from autocompress.core.evaluation import Candidate, Evaluation
from autocompress.core.front import best
from autocompress.core.metric import Reference
from autocompress.search.storage import STOPPED
from autocompress.search.trial_status import judge

# Standard errors below the highest value of the metric from which a candidate may still become the best.
MARGIN = 3.0


class Ledger:
    """Candidates by trial, judged against a budget; what is asked after each trial costs the same however many there
    are."""

    def __init__(self, budget: Budget, reference: Reference, candidates: Iterable[Candidate] = ()) -> None:
        self._budget, self._reference = budget, reference
        self._known: dict[int, Candidate] = {}
        self._contenders: dict[int, Candidate] = {}
        self._top: Candidate | None = None  # the contender that is highest in the task's metric
        self._best: list[Candidate | None] = []  # of the contenders, until they change
        # Candidates that are complete, and that failed by themselves.
        self.feasible = self.failed = 0
        self._stopped = 0
        for candidate in candidates:
            self.put(candidate)

    def put(self, candidate: Candidate) -> Candidate:
        """Take in a candidate, in place of what was known of its trial; it comes back judged."""
        candidate = judge(candidate, self._budget, self._reference)
        before = self._known.get(candidate.trial)
        if before is not None:
            self._count(before, -1)
        self._known[candidate.trial] = candidate
        self._count(candidate, 1)
        self._contend(candidate)
        return candidate

    def add(self, trial: int, evaluation: Evaluation) -> Candidate:
        """Take in an evaluation of a trial at a higher rung."""
        candidate = self._known[trial]
        rungs = sorted([*candidate.evaluations, evaluation], key=lambda e: e.rung)
        return self.put(msgspec.structs.replace(candidate, evaluations=tuple(rungs)))

    def of(self, trial: int) -> Candidate:
        """What is known of a trial."""
        return self._known[trial]

    def has(self, trial: int) -> bool:
        """Whether a trial was begun."""
        return trial in self._known

    def __len__(self) -> int:
        """Trials that were begun."""
        return len(self._known)

    @property
    def candidates(self) -> list[Candidate]:
        """All, by number."""
        return [self._known[trial] for trial in sorted(self._known)]

    @property
    def judged(self) -> int:
        """Candidates that no killed process left open."""
        return len(self._known) - self._stopped

    @property
    def best(self) -> Candidate | None:
        """As `front.best` of all of them."""
        if not self._best:
            contenders = [self._contenders[trial] for trial in sorted(self._contenders)]
            self._best = [best(contenders, self._budget, self._reference)]
        return self._best[0]

    def _count(self, candidate: Candidate, by: int) -> None:
        stopped = STOPPED in candidate.reason
        self._stopped += by * stopped
        self.feasible += by * (candidate.status == "complete")
        self.failed += by * (candidate.status == "failed" and not stopped)

    def _contend(self, candidate: Candidate) -> None:
        """A candidate that is far below the highest in the task's metric cannot be the best, whatever comes."""
        metric, before = self._reference.metric, self._contenders.pop(candidate.trial, None)
        if before is not None:
            self._best = []
        if before is self._top:
            self._top = max(self._contenders.values(), key=lambda c: metric.quality(c.metrics), default=None)
        if best([candidate], self._budget, self._reference) is None:
            return
        quality, top = metric.quality(candidate.metrics), self._top or candidate
        reach = MARGIN * max(c.metrics.get(metric.error, 0.0) for c in (top, candidate))
        if quality < metric.quality(top.metrics) - reach:
            return
        self._contenders[candidate.trial], self._best = candidate, []
        if self._top is None or quality > metric.quality(top.metrics):
            self._top = candidate
            self._contenders = {n: c for n, c in self._contenders.items()
                                if metric.quality(c.metrics) >= quality - reach}
