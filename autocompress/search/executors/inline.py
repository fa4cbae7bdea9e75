"""The executor of one worker: the driver's own process and thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from autocompress.core.evaluation import Evaluation
from autocompress.search.executors.base import Evaluate, Executor, Job, Outcome, Place, ShouldStop, Workplace, work


class Inline(Executor):
    """Evaluates in `submit`, one job after the other: the future is already done. A job that passes its limit is
    interrupted where it is."""

    jobs = 1

    def __init__(self) -> None:
        self._workplace: Workplace | None = None

    @classmethod
    def of(cls, evaluate: Callable[..., Evaluation], should_stop: ShouldStop = lambda: False) -> Inline:
        """The executor over a function, without a search.

        Args:
            evaluate: evaluates jobs.
            should_stop: whether to end early.
        """
        def evaluated(job: Job, should_stop: ShouldStop) -> Outcome:
            return Outcome(evaluation=evaluate(job.plan, job.rung, job.seconds, should_stop))

        def make(place: Place) -> Evaluate:
            return evaluated

        executor = cls()
        executor.open(Workplace(evaluated, make, should_stop=should_stop))
        return executor

    def open(self, workplace: Workplace) -> None:
        """See `Executor`."""
        self._workplace = workplace

    def submit(self, job: Job) -> Future[Outcome]:
        """See `Executor`."""
        assert self._workplace is not None, "open comes first"
        future: Future[Outcome] = Future()
        try:
            future.set_result(work(self._workplace.evaluate, job, self._workplace.should_stop))
        except (Exception, SystemExit) as error:  # a user's own code may call sys.exit
            future.set_exception(error)
        return future
