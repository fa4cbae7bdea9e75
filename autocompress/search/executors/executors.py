"""Where evaluations run: in this process, or in several that each hold their own copy of the networks."""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from autocompress.core.cancellation import controlled
from autocompress.core.evaluation import Evaluation
from autocompress.core.plan import Plan
from autocompress.search.executors.limits import time_limit
from autocompress.search.executors.worker_process import Worker, WorkerDied


class Evaluate(Protocol):
    """Runs one plan at one rung. `seconds` bounds training; `should_stop` is asked now and then; `threads`, where
    given, is how many it runs with."""

    def __call__(self, plan: Plan, rung: int, seconds: float | None = None,
                 should_stop: Callable[[], bool] | None = None, threads: int | None = None) -> Evaluation:
        """TrialError when the candidate fails."""


class Inline:
    """Evaluations one after the other in this process. One that passes its limit is interrupted."""

    jobs = 1

    def __init__(self, evaluate: Evaluate, should_stop: Callable[[], bool]) -> None:
        self._evaluate, self._should_stop = evaluate, should_stop

    def submit(self, plan: Plan, rung: int, seconds: float | None = None, threads: int = 1,
               deadline: float | None = None, limit: float | None = None) -> Future[Evaluation]:
        """Evaluate now, with the threads that this process has; the future is already done. Past `deadline`
        (`time.perf_counter()`) the evaluation ends with OutOfTime where it asks; after `limit` seconds it fails with
        TrialError wherever it is."""
        future: Future[Evaluation] = Future()
        try:
            with time_limit(limit), controlled(self._should_stop, deadline):
                result = self._evaluate(plan, rung, seconds, self._should_stop)
            future.set_result(result)
        except (Exception, SystemExit) as error:  # a user's own code may call sys.exit
            future.set_exception(error)
        return future

    def close(self) -> None:
        """Nothing to close."""


class Processes:
    """A pool of `jobs` processes; `make` builds the evaluator in each (it must be picklable).

    One thread a process unless asked for more. A process that passes the limit of its job is killed, and one that died
    in a job is given it once more; the next job finds a new one. All hear of it when `should_stop` says so.
    """

    def __init__(self, make: Callable[[], Evaluate], jobs: int,
                 should_stop: Callable[[], bool] = lambda: False) -> None:
        self.jobs, self._should_stop = jobs, should_stop
        self.workers = [Worker(make) for _ in range(jobs)]
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self.workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(jobs)
        self._begun: list[Future[Evaluation]] = []
        self._closing = False

    def submit(self, plan: Plan, rung: int, seconds: float | None = None, threads: int = 1,
               deadline: float | None = None, limit: float | None = None) -> Future[Evaluation]:
        """Evaluate in some process, with so many threads. `deadline` as inline: the clock is the machine's. `limit`:
        seconds, from when the process is ready, after which it is killed."""
        self._begun.append(self._threads.submit(self._run, (deadline, plan, rung, seconds, threads), limit))
        return self._begun[-1]

    def _run(self, job: tuple[Any, ...], limit: float | None) -> Evaluation:
        worker = self._idle.get()
        try:
            result: Evaluation = self._run_on(worker, job, limit)
            return result
        finally:
            self._idle.put(worker)

    def _run_on(self, worker: Worker, job: tuple[Any, ...], limit: float | None) -> Evaluation:
        try:
            return worker.run(job, limit, self._should_stop)  # type: ignore[no-any-return]
        except WorkerDied:
            if self._closing or self._should_stop():
                raise
            return worker.run(job, limit, self._should_stop)  # type: ignore[no-any-return]

    def close(self) -> None:
        """Stop at once what is unfinished: it is queued again by --resume. Idle processes end by themselves, and leave
        nothing behind."""
        self._closing = True
        busy = not all(future.done() for future in self._begun)
        for worker in self.workers:
            worker.kill() if busy else worker.close()
        self._threads.shutdown(wait=True, cancel_futures=True)
