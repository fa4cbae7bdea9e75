"""The executor over any `concurrent.futures.Executor`: of Dask, mpi4py, loky or the standard library."""

from __future__ import annotations

import pickle
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Executor as FuturesExecutor
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec

from autocompress.core.store import STATISTICS, MemoryStore, Reference
from autocompress.errors import EnvironmentFault, InputError, TrialError
from autocompress.search.executors.base import (
    Evaluate,
    Executor,
    Job,
    Outcome,
    Place,
    ShouldStop,
    WorkerLost,
    Workplace,
    alone,
    work,
)
from autocompress.search.executors.lending import needed
from autocompress.search.executors.worker_process import RemoteTraceback, portable

METHODS = ("connect", "measuring_place", "open", "submit", "quiet", "stop", "close")

# What a job may read of the store: the header of a file of weights, empty for others, and the bytes.
Lent = tuple[dict[str, str], bytes]


class Answer(msgspec.Struct, frozen=True):
    """What a worker's process answers. `unprepared`: it has no evaluation yet, and was not sent how to make one."""

    outcome: Outcome | None = None
    error: BaseException | None = None
    traceback: str = ""
    unprepared: bool = False


class Pool(Executor):
    """Sends jobs to a pool that the user made, and that stays the user's: it is not shut down.

    How to make the evaluation goes to a worker that says it has none, so about once to each. Whatever else goes wrong
    than the evaluation itself is the pool's, and a lost worker. What a training may need of the store goes with its
    job.

    A thread pool evaluates in this process, one job at a time. Jobs that run in other processes when the user stops the
    search are let go: they end by themselves, at their limits, and nobody waits for them.

    Args:
        pool: any `concurrent.futures.Executor`.
        jobs: how many jobs it is given at a time.
    """

    def __init__(self, pool: FuturesExecutor, jobs: int) -> None:
        self.jobs, self._pool, self._key = jobs, pool, uuid.uuid4().hex
        self._factory = b""
        self._workplace: Workplace | None = None
        self._open: dict[Future[Outcome], Future[Answer]] = {}

    def open(self, workplace: Workplace) -> None:
        """See `Executor`."""
        self._workplace = workplace
        if isinstance(self._pool, ThreadPoolExecutor):
            _EVALUATIONS[self._key] = workplace.evaluate, None
            return
        try:
            self._factory = pickle.dumps(workplace.make)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise InputError("with an executor, model and data go to other processes and must be picklable, but: "
                             f"{error}. Give them as path/to/file.py:factory") from error

    def submit(self, job: Job) -> Future[Outcome]:
        """See `Executor`. EnvironmentFault where the pool takes no more jobs."""
        future: Future[Outcome] = Future()
        self._send(future, job, b"")
        return future

    def _send(self, future: Future[Outcome], job: Job, factory: bytes) -> None:
        assert self._workplace is not None, "open comes first"
        # A thread can be told; a process elsewhere cannot.
        should_stop = self._workplace.should_stop if isinstance(self._pool, ThreadPoolExecutor) else None
        try:
            answered = self._pool.submit(_work, self._key, job, self._lent(job), factory, should_stop)
        except Exception as error:
            raise EnvironmentFault("the executor must take jobs while a search runs, but "
                                   f"{type(error).__name__}: {error}") from error
        self._open[future] = answered
        answered.add_done_callback(partial(self._done, future, job))

    def _lent(self, job: Job) -> dict[str, Lent]:
        """What the job may read of the store, by key."""
        assert self._workplace is not None
        store = self._workplace.store
        keys = {} if isinstance(self._pool, ThreadPoolExecutor) else needed(store, job)
        return {key: (dict(header), data) for key, header in keys.items() if (data := store.get(key)) is not None}

    def _done(self, future: Future[Outcome], job: Job, answered: Future[Answer]) -> None:
        self._open.pop(future, None)
        try:
            answer = answered.result()
        except BaseException as error:  # not of the evaluation: that answers with its errors
            _settle(future, error=WorkerLost(f"the executor lost the job: {type(error).__name__}: {error}"))
            return
        if answer.unprepared:
            try:
                self._send(future, job, self._factory)
            except Exception as error:
                _settle(future, error=error)
        elif answer.error is not None:
            answer.error.__cause__ = RemoteTraceback(answer.traceback)
            _settle(future, error=answer.error)
        else:
            _settle(future, answer.outcome)

    def stop(self) -> None:
        """See `Executor`."""
        if isinstance(self._pool, ThreadPoolExecutor):
            return  # they ask
        for future, answered in list(self._open.items()):
            answered.cancel()
            _settle(future, error=TrialError("stopped by the user"))

    def close(self) -> None:
        """See `Executor`. What has not begun is cancelled."""
        for answered in list(self._open.values()):
            answered.cancel()
        _EVALUATIONS.pop(self._key, None)


def as_executor(user_executor: Any, jobs: int) -> Executor:
    """A user's own executor as the engine wants it.

    Args:
        user_executor: an `Executor`, or a `concurrent.futures.Executor`, which is put inside a `Pool`.
        jobs: how many jobs the pool gets at a time; where it is 1, as many as the pool says that it runs.

    Raises:
        InputError: for what is neither.
    """
    if isinstance(user_executor, FuturesExecutor):
        size = getattr(user_executor, "_max_workers", None) or getattr(user_executor, "num_workers", None)
        return Pool(user_executor, jobs if jobs > 1 or not isinstance(size, int) else size)
    if not all(callable(getattr(user_executor, name, None)) for name in METHODS):
        raise InputError("executor must be a concurrent.futures.Executor, or an object with what "
                         f"autocompress.search.executors.base.Executor asks for, but got {user_executor!r}")
    executor: Executor = user_executor
    return executor


def _settle(future: Future[Outcome], outcome: Outcome | None = None, error: BaseException | None = None) -> None:
    with suppress(InvalidStateError):  # it was let go
        if outcome is None:
            future.set_exception(error)
        else:
            future.set_result(outcome)


# -- in a worker -----------------------------------------------------------------------------------------

# By search; a thread of the driver's process writes to the driver's own store.
_EVALUATIONS: dict[str, tuple[Evaluate, MemoryStore | None]] = {}


def _work(key: str, job: Job, lent: Mapping[str, Lent], factory: bytes, should_stop: ShouldStop | None) -> Answer:
    """Run a job in a worker's process, which keeps its evaluation for the next job of the same search."""
    try:
        with alone(should_stop or _never):
            if key not in _EVALUATIONS:
                if not factory:
                    return Answer(unprepared=True)
                began = time.perf_counter()
                _prepare(key, pickle.loads(factory))
                job = job.after(time.perf_counter() - began)
            evaluate, store = _EVALUATIONS[key]
            if store is None:
                return Answer(work(evaluate, job, should_stop or _never))
            store.lend({name: Reference(header, partial(bytes, data)) for name, (header, data) in lent.items()})
            try:
                return Answer(work(evaluate, job, should_stop or _never, store))
            finally:
                for name in (*lent, *store.keys(STATISTICS)):
                    store.remove(name)
    except (Exception, SystemExit) as error:  # a user's own code may call sys.exit
        return Answer(error=portable(error), traceback="".join(traceback.format_exception(error)))


def _prepare(key: str, make: Callable[[Place], Evaluate]) -> None:
    for other in [other for other, (_, store) in _EVALUATIONS.items() if store is not None]:  # of an earlier search
        del _EVALUATIONS[other]
    store = MemoryStore()
    evaluate = make(Place(store, threads=1))
    for name in store.keys(STATISTICS):  # they stay where they were measured
        store.remove(name)
    _EVALUATIONS[key] = evaluate, store


def _never() -> bool:
    return False
