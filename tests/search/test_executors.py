"""Our executors under the contract, and what is particular to each."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from autocompress.core.files import is_alive
from autocompress.errors import EnvironmentFault, InputError, TrialError
from autocompress.search.executors.base import Evaluate, Executor, Job, Outcome, Place, ShouldStop, Workplace, alone
from autocompress.search.executors.inline import Inline
from autocompress.search.executors.pool import Pool
from autocompress.search.executors.processes import Processes
from autocompress.testing.executor_contract import (
    ANSWER,
    HANG,
    PATIENCE,
    PLAN,
    RAISE,
    ExecutorContract,
    make_evaluation,
)


class TestInline(ExecutorContract):
    """The driver's own thread."""

    def make(self) -> Executor:
        """A new one."""
        return Inline()


class TestProcesses(ExecutorContract):
    """Two processes."""

    separate = True

    def make(self) -> Executor:
        """A new one."""
        return Processes(2)


class TestThreadPool(ExecutorContract):
    """A pool of threads that the user made."""

    @pytest.fixture(autouse=True)
    def pool_of_threads(self) -> Iterator[None]:
        """The user's own."""
        with ThreadPoolExecutor(2) as self.threads:
            yield

    def make(self) -> Executor:
        """A new one."""
        return Pool(self.threads, 2)


class TestProcessPool(ExecutorContract):
    """A pool of processes that the user made; one that has lost a process takes no more jobs."""

    separate = True

    @pytest.fixture(autouse=True)
    def pool_of_processes(self) -> Iterator[None]:
        """The user's own."""
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as self.processes:
            yield
            for process in (self.processes._processes or {}).values():
                process.kill()  # what was let go waits to be told

    def make(self) -> Executor:
        """A new one."""
        return Pool(self.processes, 1)


def _never(job: Job, should_stop: ShouldStop) -> Outcome:
    raise AssertionError


def _opened(executor: Any, make: Any = make_evaluation) -> Any:
    executor.open(Workplace(_never, make))
    return executor


@pytest.fixture
def pool() -> Iterator[Processes]:
    """One worker."""
    processes = _opened(Processes(1))
    yield processes
    processes.close()
    assert all(worker.process_id is None or _gone(worker.process_id) for worker in processes.workers)


def _gone(process: int, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while is_alive(process) and time.monotonic() < end:
        time.sleep(0.05)
    return not is_alive(process)


def _process(outcome: Outcome) -> int:
    return int(outcome.evaluation.metrics["process"])


def test_what_cannot_be_sent_to_a_process_is_said_to_be_so() -> None:
    pool = _opened(Processes(2), lambda place: None)
    with pytest.raises(InputError, match=r"must be picklable.*path/to/file.py:factory, or jobs=1"):
        pool.submit(Job(plan=PLAN, rung=ANSWER)).result()
    pool.close()


def test_a_process_is_kept_and_the_environment_is_as_it_was(pool: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    first, second = (pool.submit(Job(plan=PLAN, rung=ANSWER)).result(PATIENCE) for _ in range(2))
    assert _process(first) == _process(second) != os.getpid()
    assert "OMP_NUM_THREADS" not in os.environ


def test_what_hangs_is_killed_and_the_next_job_has_another_process(pool: Processes) -> None:
    first = pool.submit(Job(plan=PLAN, rung=ANSWER)).result(PATIENCE)
    with pytest.raises(TrialError, match=r"timeout"):
        pool.submit(Job(plan=PLAN, rung=HANG, limit=0.2)).result(PATIENCE)
    second = pool.submit(Job(plan=PLAN, rung=ANSWER, limit=PATIENCE)).result(PATIENCE)
    assert _process(first) != _process(second) and _gone(_process(first))


def test_errors_arrive_with_the_traceback_of_the_worker(pool: Processes) -> None:
    with pytest.raises(KeyError, match="layer3") as caught:
        pool.submit(Job(plan=PLAN, rung=RAISE)).result(PATIENCE)
    assert "executor_contract.py" in str(caught.value.__cause__)


def _dying(place: Place) -> Evaluate:
    os._exit(3)


def test_a_process_that_cannot_begin_ends_the_search() -> None:
    pool = _opened(Processes(1), _dying)
    with pytest.raises(EnvironmentFault, match=r"died before it could work.*__main__"):
        pool.submit(Job(plan=PLAN, rung=ANSWER)).result(PATIENCE)
    pool.close()


def test_closing_ends_busy_processes_at_once(pool: Processes) -> None:
    process = _process(pool.submit(Job(plan=PLAN, rung=ANSWER)).result(PATIENCE))
    pool.submit(Job(plan=PLAN, rung=HANG))
    began = time.monotonic()
    pool.close()
    assert time.monotonic() - began < 30 and _gone(process)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the state of a process is read from /proc")
def test_processes_are_halted_while_the_driver_times(pool: Processes) -> None:
    process = _process(pool.submit(Job(plan=PLAN, rung=ANSWER)).result(PATIENCE))
    job = pool.submit(Job(plan=PLAN, rung=HANG, limit=PATIENCE))

    def state() -> str:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]

    for _ in range(2):
        with pytest.raises(ZeroDivisionError), pool.quiet():
            _until(lambda: state() == "T")
            raise ZeroDivisionError
        _until(lambda: state() != "T")
    assert not job.done()


def _until(condition: Any, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def _hanging_parent(place: str) -> None:
    pool = _opened(Processes(2))
    for _ in range(2):
        pool.submit(Job(plan=PLAN, rung=HANG))
    while not all(worker._ready for worker in pool.workers):
        time.sleep(0.01)
    with pool.quiet():  # it is killed while they are halted
        Path(place).write_text(" ".join(str(worker.process_id) for worker in pool.workers))
        time.sleep(1000)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells a halted process of its parent's end there")
def test_processes_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    place = tmp_path / "numbers"
    parent = multiprocessing.get_context("spawn").Process(target=_hanging_parent, args=(str(place),))
    parent.start()
    while not place.exists() or not place.read_text():
        time.sleep(0.05)
    parent.kill()
    parent.join()
    assert all(_gone(int(number)) for number in place.read_text().split())


@pytest.mark.parametrize("hang", ["sleep", "loop", "wait", "swallow"])
@pytest.mark.parametrize("thread", [False, True], ids=["main thread", "other thread"])
def test_what_hangs_in_this_process_is_interrupted(hang: str, thread: bool) -> None:
    if thread and hang in ("sleep", "wait"):
        pytest.skip("only signals reach a thread that waits")

    def evaluate(*_: Any) -> Any:
        while True:
            try:
                if hang == "sleep":
                    time.sleep(1000)
                elif hang == "wait":
                    threading.Event().wait()
            except Exception:
                pass

    def submit() -> None:
        futures.append(Inline.of(evaluate).submit(Job(plan=PLAN, rung=0, limit=0.2)))

    futures: list[Any] = []
    if thread:
        other = threading.Thread(target=submit)
        other.start()
        other.join(60)
    else:
        submit()
    with pytest.raises(TrialError, match="timeout"):
        futures[0].result()


def test_what_is_in_time_is_not_interrupted_later() -> None:
    done: Any = object()
    executor = _opened(Inline())
    executor.open(Workplace(lambda job, should_stop: done, make_evaluation))
    future: Any = executor.submit(Job(plan=PLAN, rung=0, limit=0.2))
    time.sleep(0.4)
    assert future.result() is done


def test_a_process_has_one_evaluation_at_a_time_and_the_wait_can_be_stopped() -> None:
    held, release, stop = threading.Event(), threading.Event(), threading.Event()

    def hold() -> None:
        with alone():
            held.set()
            release.wait(60)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(60)
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(TrialError, match="stopped by the user"), alone(stop.is_set):
        pytest.fail("another thread has it")
    release.set()
    other.join()
    with alone():
        pass
