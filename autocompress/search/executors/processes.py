"""The executor of several processes on this machine, each with its own copy of the networks."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

from autocompress.search.executors.base import Executor, Job, Outcome, Workplace
from autocompress.search.executors.worker_process import Worker


class Processes(Executor):
    """Evaluates in `jobs` spawned processes of one thread each, or of as many as a job asks for.

    A process that passes the limit of its job is killed; the next job finds a new one, as it does where one died.
    """

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self.workers: list[Worker] = []
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(jobs)
        self._begun: list[Future[Outcome]] = []

    def open(self, workplace: Workplace) -> None:
        """See `Executor`. Processes start with their first job."""
        self.workers = [Worker(workplace.make, workplace.store) for _ in range(self.jobs)]
        for worker in self.workers:
            self._idle.put(worker)

    def submit(self, job: Job) -> Future[Outcome]:
        """See `Executor`. The limit counts from when the process is ready."""
        self._begun.append(self._threads.submit(self._run, job, time.perf_counter()))
        return self._begun[-1]

    def _run(self, job: Job, submitted: float) -> Outcome:
        worker = self._idle.get()
        try:
            return worker.run(job, submitted)
        finally:
            self._idle.put(worker)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """See `Executor`. Processes are halted by SIGSTOP and go on by SIGCONT, where there are such signals."""
        with ExitStack() as stack:
            for worker in self.workers:
                stack.enter_context(worker.halted())
            yield

    def stop(self) -> None:
        """See `Executor`."""
        for worker in self.workers:
            worker.stop()

    def close(self) -> None:
        """See `Executor`. Idle processes end by themselves and leave nothing behind."""
        busy = not all(future.done() for future in self._begun)
        for worker in self.workers:
            worker.kill() if busy else worker.close()
        self._threads.shutdown(wait=True, cancel_futures=True)
