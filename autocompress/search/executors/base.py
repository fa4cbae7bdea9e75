"""The protocol of executors: where evaluations run.

An executor takes jobs and gives futures of their outcomes. Its workers evaluate: this process, other processes,
threads, actors on other machines. What a worker needs comes once, by `open`: a function of this process that evaluates,
a picklable factory that makes one elsewhere, and a store. What an evaluation leaves behind, its file and its weights,
comes back inside the outcome, so that no worker needs a folder that the driver sees too.

Nothing here knows torch, files or formats.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from autocompress.core.cancellation import controlled
from autocompress.core.evaluation import Evaluation
from autocompress.core.plan import Plan
from autocompress.core.store import MemoryStore, Store
from autocompress.errors import TrialError
from autocompress.search.executors.limits import time_limit

ShouldStop = Callable[[], bool]
# How often a driver that waits looks whether it was asked to stop.
POLL_SECONDS = 0.1
_process = threading.RLock()


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One evaluation that is asked for: plain data that can be pickled.

    Attributes:
        plan: what is evaluated.
        rung: of the fidelity ladder, see `core.evaluation`.
        seconds: of training; None where epochs bound it.
        threads: how many CPU threads it runs with, where the worker has so many.
        seconds_left: after which it is broken off where it asks (`core.cancellation`); None for no such limit.
        limit: seconds after which it is ended wherever it is, with TrialError; None for no such limit.
        samples: of the validation split that its file is scored on; None for all.
    """

    plan: Plan
    rung: int
    seconds: float | None = None
    threads: int = 1
    seconds_left: float | None = None
    limit: float | None = None
    samples: int | None = None

    def after(self, seconds: float) -> Job:
        """The job as it is when it has waited for so many `seconds`."""
        return self if self.seconds_left is None else msgspec.structs.replace(
            self, seconds_left=self.seconds_left - seconds)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a job: plain data that can be pickled.

    Attributes:
        evaluation: the metrics; latency that is measured is left out, see `Executor.quiet`.
        file: the bytes of the file that was scored.
        stored: what the worker has put into its store, by key, for the driver to put into its own.
    """

    evaluation: Evaluation
    file: bytes = b""
    stored: dict[str, bytes] = {}


class WorkerLost(TrialError):
    """The worker was lost in the middle of a job: killed, crashed, or no longer reached. Nothing is said about the
    candidate; the engine asks for the job again, at most twice."""


class Evaluate(Protocol):
    """Evaluates jobs, one after the other."""

    def __call__(self, job: Job, should_stop: ShouldStop) -> Outcome:
        """Evaluate a job.

        Args:
            job: the plan, the rung and the limits.
            should_stop: is asked now and then whether to end early.

        Returns:
            What came of it.

        Raises:
            TrialError: where the candidate fails.
        """


@dataclass(frozen=True)
class Place:
    """What is local to one worker.

    Attributes:
        store: where it reads and writes weights, the teacher's answers and statistics.
        threads: CPU threads that it has; None for those of its process.
        device: of torch; None for that of the search.
        gpus: GPUs that it has; of a share of one it takes no more than that share of the memory.
    """

    store: Store
    threads: int | None = None
    device: str | None = None
    gpus: float = 0.0


@dataclass(frozen=True)
class Workplace:
    """What a search gives to its executor.

    Attributes:
        evaluate: evaluates in this process and keeps what comes of it in `store` itself.
        make: makes the same in a worker; picklable where network and data are. Call it once a worker: it loads them.
        store: of the study. Workers elsewhere get a `MemoryStore` with references to it, or what they need of it.
        should_stop: whether the user has asked to stop.
        statistics: keys of what was measured of the original, which every worker will ask for.
    """

    evaluate: Evaluate
    make: Callable[[Place], Evaluate]
    store: Store = field(default_factory=MemoryStore)
    should_stop: ShouldStop = lambda: False
    statistics: Sequence[str] = ()


class Executor(Protocol):
    """Runs jobs on workers. `autocompress.testing.executor_contract` holds every implementation to this:

    * Each submitted job's future ends, with an Outcome or with the error of the evaluation; errors of a user's code
      arrive with their class where it can be sent, and always with their words. A worker that was lost is a WorkerLost.
    * A job that takes longer than its `limit` ends with TrialError; afterwards other jobs still run.
    * After `stop`, what runs ends soon: evaluations hear of it by `should_stop`, or are cut off.
    * After `close` nothing that the executor started is left.
    """

    # How many jobs it runs at once, at least 1; it may change. The engine submits no more before one is done.
    jobs: int
    # Whether the workers' cores are those of one machine, so that one long training may take those of several.
    shares_cores: bool = True
    # Whether workers may be on machines that do not have the user's files: network and data are sent, not loaded again.
    elsewhere: bool = False

    def connect(self) -> None:
        """Reach the workers. Called once, before network and data are loaded. `close` follows, whatever comes between.

        Raises:
            InputError, EnvironmentFault: for what cannot be used or reached.
        """
        return None

    def measuring_place(self, make: Callable[[], object]) -> Callable[..., Any] | None:
        """Make an object at the one place where latency is measured, where that is not the driver's machine.

        Args:
            make: picklable; makes the object.

        Returns:
            What calls a method of the object, by its name and arguments; None where the driver times files itself.
            Called between `connect` and `close`, it raises EnvironmentFault where the place does not answer.
        """
        return None

    def open(self, workplace: Workplace) -> None:
        """Take what workers need. Called once, before the first job.

        Args:
            workplace: how to evaluate here and in workers, and the study's store.

        Raises:
            InputError: where workers cannot have it.
        """
        return None

    def submit(self, job: Job) -> Future[Outcome]:
        """Begin a job as soon as a worker is free; it may be done when this returns.

        Args:
            job: the plan, the rung and the limits.

        Returns:
            The future of its outcome.
        """
        raise NotImplementedError

    def quiet(self) -> AbstractContextManager[None]:
        """Return a context within which no worker computes on the driver's machine, so that the driver can time files
        there. Workers of other machines go on. Left as it is: workers do not disturb the driver."""
        return nullcontext()

    def stop(self) -> None:
        """Tell the workers to end what they run. Called once, from any thread."""
        return None

    def close(self) -> None:
        """End the workers, at once where they are busy. May be called twice."""
        return None


def work(evaluate: Evaluate, job: Job, should_stop: ShouldStop, store: MemoryStore | None = None,
         interrupt: bool = True) -> Outcome:
    """Run a job in this process, as a worker does: one at a time, whatever thread asks.

    Args:
        evaluate: see `Workplace`.
        job: its `seconds_left` and `limit` begin now.
        should_stop: whether the driver wants the job to end.
        store: of a worker that has its own; what was put there comes back in the outcome.
        interrupt: end the job at its `limit` from inside; False where the executor does it from outside.

    Returns:
        The outcome of the job.

    Raises:
        TrialError: where the candidate fails or takes too long.
    """
    began = time.perf_counter()
    with alone(should_stop):
        deadline = None if job.seconds_left is None else began + job.seconds_left
        with time_limit(job.limit if interrupt else None), controlled(should_stop, deadline):
            outcome = evaluate(job, should_stop)
    return outcome if store is None else msgspec.structs.replace(outcome, stored={**outcome.stored, **store.taken()})


@contextmanager
def alone(should_stop: ShouldStop = lambda: False) -> Iterator[None]:
    """A context in which nothing else of a search computes in this process: torch's random numbers and its number of
    threads belong to the process.

    Args:
        should_stop: is asked, while it waits, whether the user has stopped the search.

    Raises:
        TrialError: where the user stops the wait.
    """
    while not _process.acquire(timeout=POLL_SECONDS):
        if should_stop():
            raise TrialError("stopped by the user")
    try:
        yield
    finally:
        _process.release()
