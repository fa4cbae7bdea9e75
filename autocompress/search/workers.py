"""Where evaluations run: in this process, or in several that each hold their own copy of the networks."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol

from autocompress.core.checkpoint import controlled
from autocompress.core.evaluation import Evaluation
from autocompress.core.plan import Plan
from autocompress.errors import EnvironmentFault, InputError

DIED = ("a worker process died, perhaps for lack of memory: resume with fewer --jobs. In a script, call search behind "
        "`if __name__ == \"__main__\":`, because each process reads the script anew")


class Evaluate(Protocol):
    """Runs one plan at one rung. `seconds` bounds training; `should_stop` is asked now and then; `threads`, where
    given, is how many it runs with."""

    def __call__(self, plan: Plan, rung: int, seconds: float | None = None,
                 should_stop: Callable[[], bool] | None = None, threads: int | None = None) -> Evaluation:
        """TrialError when the candidate fails."""


class Inline:
    """Evaluations one after the other in this process."""

    jobs = 1

    def __init__(self, evaluate: Evaluate, should_stop: Callable[[], bool]) -> None:
        self._evaluate, self._should_stop = evaluate, should_stop

    def submit(self, plan: Plan, rung: int, seconds: float | None = None, threads: int = 1,
               deadline: float | None = None) -> Future[Evaluation]:
        """Evaluate now, with the threads that this process has; the future is already done. Past `deadline`
        (`time.perf_counter()`) the evaluation ends with OutOfTime."""
        future: Future[Evaluation] = Future()
        try:
            with controlled(self._should_stop, deadline):
                future.set_result(self._evaluate(plan, rung, seconds, self._should_stop))
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        """Nothing to close."""


class Processes:
    """A pool of `jobs` processes; `make` builds the evaluator in each (it must be picklable).

    One thread a process unless asked for more: threads that spin on shared cores slow training many times.
    """

    def __init__(self, make: Callable[[], Evaluate], jobs: int) -> None:
        self.jobs = jobs
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        self._pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin, (make,))
        self._begun: list[Future[Evaluation]] = []

    def submit(self, plan: Plan, rung: int, seconds: float | None = None, threads: int = 1,
               deadline: float | None = None) -> Future[Evaluation]:
        """Evaluate in some process, with so many threads; `deadline` as inline: the clock is the machine's."""
        try:
            self._begun.append(self._pool.submit(_work, deadline, plan, rung, seconds, None, threads))
            return self._begun[-1]
        except BrokenProcessPool as error:
            raise EnvironmentFault(DIED) from error
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise InputError("with jobs above 1, model and data go to other processes and must be picklable, but: "
                             f"{error}. Give them as path/to/file.py:factory, or jobs=1") from error

    def close(self) -> None:
        """Stop at once what is unfinished: it is queued again by --resume. Idle processes end by themselves, and leave
        nothing behind."""
        busy = not all(future.done() for future in self._begun)
        for process in list((self._pool._processes or {}).values()) if busy else ():
            process.terminate()
        self._pool.shutdown(wait=not busy, cancel_futures=True)


_evaluate: Evaluate | None = None


def _begin(make: Callable[[], Evaluate]) -> None:
    global _evaluate
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    _evaluate = make()


def _work(deadline: float | None, *args: Any) -> Evaluation:
    assert _evaluate is not None
    with controlled(deadline=deadline):
        return _evaluate(*args)
