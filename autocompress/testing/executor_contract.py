"""The contract of an executor: inherit `ExecutorContract`, say how to make one, and pytest runs it all.

    class TestMine(ExecutorContract):
        def make(self):
            return MyExecutor()

Jobs are told apart by their rung: nothing is trained, and an evaluation that waits does so for as long as it may.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from pathlib import Path

import pytest

from autocompress.core.cancellation import checkpoint
from autocompress.core.evaluation import Evaluation
from autocompress.core.plan import Plan, Step
from autocompress.core.store import FolderStore, Store, weights_key
from autocompress.errors import OutOfTime, TrialError
from autocompress.search.executors.base import (
    Evaluate,
    Executor,
    Job,
    Outcome,
    Place,
    ShouldStop,
    WorkerLost,
    Workplace,
)
from autocompress.testing.store_contract import weights_of

# What a job does, by its rung: answer, read the store and write to it, wait until it is told to stop, do so by the
# checks of long work, wait for ever, raise, call `sys.exit`, kill its process.
ANSWER, READ, WAIT, ASK, HANG, RAISE, LEAVE, DIE = range(8)
PLAN = Plan.of([Step("conv", "quantize", {"weight_bits": 8})])
# Seconds in which a worker must have begun.
PATIENCE = 60.0


class _Evaluation:
    """Evaluates in one worker, by the rung of a job."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def __call__(self, job: Job, should_stop: ShouldStop) -> Outcome:
        metrics = {"threads": float(job.threads), "process": float(os.getpid())}
        match job.rung:
            case 1:
                ((key, _),) = self._place.store.nearest(job.plan)
                metrics["bytes"] = float(len(self._place.store.get(key) or b""))
                self._place.store.put(weights_key(job.plan, 2), weights_of(job.plan))
            case 2:
                while not should_stop():
                    time.sleep(0.01)
                raise TrialError("stopped by the user")
            case 3:
                while True:
                    checkpoint()
                    time.sleep(0.01)
            case 4:
                while True:
                    time.sleep(0.01)
            case 5:
                raise KeyError("layer3")
            case 6:
                sys.exit("enough")
            case 7:
                os.kill(os.getpid(), signal.SIGKILL)
        return Outcome(evaluation=Evaluation(rung=job.rung, metrics=metrics, sources={}), file=bytes(1000))


def make_evaluation(place: Place) -> Evaluate:
    """What a worker makes of its place: an evaluation that answers jobs without a network.

    Args:
        place: of the worker.
    """
    return _Evaluation(place)


class ExecutorContract:
    """What every executor must do."""

    # Whether workers are other processes, which may die alone.
    separate = False
    # Whether a job that hangs is ended at its limit.
    interrupts = True

    def make(self) -> Executor:
        """Return one that is not open yet."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        """The driver's: it has the weights of one plan."""
        store = FolderStore(tmp_path)
        store.put(weights_key(PLAN, 1), weights_of(PLAN))
        return store

    @pytest.fixture
    def stop_requested(self) -> threading.Event:
        """Set when the user asks to stop."""
        return threading.Event()

    @pytest.fixture
    def executor(self, store: Store, stop_requested: threading.Event) -> Iterator[Executor]:
        """One that is open."""
        executor = self.make()
        executor.open(Workplace(make_evaluation(Place(store)), make_evaluation, store, stop_requested.is_set))
        yield executor
        executor.close()

    def test_every_job_is_answered(self, executor: Executor) -> None:
        assert executor.jobs >= 1
        futures = [executor.submit(Job(plan=PLAN, rung=ANSWER, threads=1)) for _ in range(executor.jobs)]
        for outcome in [future.result(PATIENCE) for future in futures]:
            assert outcome.evaluation.metrics["threads"] == 1 and outcome.file == bytes(1000)

    def test_workers_read_the_store_and_send_back_what_they_put(self, executor: Executor, store: Store) -> None:
        outcome = executor.submit(Job(plan=PLAN, rung=READ)).result(PATIENCE)
        assert outcome.evaluation.metrics["bytes"] == len(weights_of(PLAN))
        for key, data in outcome.stored.items():
            store.put(key, data)
        assert store.get(weights_key(PLAN, 2)) == weights_of(PLAN)

    def test_errors_arrive_with_class_and_words(self, executor: Executor) -> None:
        with pytest.raises(KeyError, match="layer3"):
            executor.submit(Job(plan=PLAN, rung=RAISE)).result(PATIENCE)
        with pytest.raises(SystemExit, match="enough"):
            executor.submit(Job(plan=PLAN, rung=LEAVE)).result(PATIENCE)
        assert executor.submit(Job(plan=PLAN, rung=ANSWER)).result(PATIENCE).evaluation

    def test_what_has_no_time_left_is_broken_off(self, executor: Executor) -> None:
        with pytest.raises(OutOfTime):
            executor.submit(Job(plan=PLAN, rung=ASK, seconds_left=0.05)).result(PATIENCE)

    def test_what_hangs_is_ended_at_its_limit(self, executor: Executor) -> None:
        if not self.interrupts:
            pytest.skip("it cannot")
        executor.submit(Job(plan=PLAN, rung=ANSWER)).result(PATIENCE)
        with pytest.raises(TrialError, match=r"timeout: the evaluation took longer than 0\.3 s"):
            executor.submit(Job(plan=PLAN, rung=HANG, limit=0.3)).result(PATIENCE)
        assert executor.submit(Job(plan=PLAN, rung=ANSWER, limit=PATIENCE)).result(PATIENCE).evaluation

    def test_stopping_reaches_the_workers(self, executor: Executor, stop_requested: threading.Event) -> None:
        futures: list[Future[Outcome]] = []

        def stop() -> None:
            stop_requested.set()
            executor.stop()

        timer = threading.Timer(0.3, stop)
        timer.start()
        futures += [executor.submit(Job(plan=PLAN, rung=rung, seconds_left=PATIENCE)) for rung in (WAIT, ASK)]
        assert not wait(futures, PATIENCE).not_done
        for future in futures:
            assert isinstance(future.exception(), TrialError)
        timer.join()

    def test_a_lost_worker_is_told_from_a_failure(self, executor: Executor) -> None:
        if not self.separate:
            pytest.skip("its workers do not die alone")
        with pytest.raises(WorkerLost):
            executor.submit(Job(plan=PLAN, rung=DIE)).result(PATIENCE)

    def test_nothing_computes_while_the_driver_times(self, executor: Executor) -> None:
        executor.submit(Job(plan=PLAN, rung=ANSWER)).result(PATIENCE)
        with executor.quiet():
            pass
        assert executor.submit(Job(plan=PLAN, rung=ANSWER)).result(PATIENCE).evaluation

    def test_closing_twice_is_closing_once(self, executor: Executor) -> None:
        executor.submit(Job(plan=PLAN, rung=ANSWER)).result(PATIENCE)
        executor.close()
        executor.close()
