"""An executor of one's own: threads of this process. It takes turns, so it is an example, not a gain."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

import autocompress
from autocompress.search.executors.base import Executor, Job, Outcome, Workplace, work
from autocompress.testing.executor_contract import ExecutorContract
from autocompress.testing.networks import NETWORKS, task_data


class Threads(Executor):
    """Two threads that evaluate with what the search has in this process."""

    jobs = 2

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(self.jobs)
        self.done = 0

    def open(self, workplace: Workplace) -> None:
        """Take the evaluation of this process."""
        self._workplace = workplace

    def submit(self, job: Job) -> Future[Outcome]:
        """Run a job in a thread; it asks by itself whether to stop."""
        return self._threads.submit(self._work, job)

    def _work(self, job: Job) -> Outcome:
        outcome = work(self._workplace.evaluate, job, self._workplace.should_stop)
        self.done += 1
        return outcome

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)


class TestThreads(ExecutorContract):
    """What every executor must do."""

    def make(self) -> Executor:
        """A new one."""
        return Threads()


@pytest.mark.usefixtures("short_searches")
def test_a_search_by_threads_ends_in_a_verified_file(tmp_path: Path) -> None:
    network, threads = NETWORKS["chain"], Threads()
    result = autocompress.search(network.make(), task_data(network.input_shape), "9kB", trials=3, epochs=1,
                                 effort="fast", executor=threads, out=tmp_path / "study")
    assert result.artifact is not None and Path(result.artifact["path"]).is_file()
    assert threads.done == sum(len(c.evaluations) for c in result.candidates if c.status != "duplicate")
    assert result.best is not None and "latency_ms" in result.best.metrics, "timed by the driver"
    assert result.to_dict()["artifact"]["verified"]
