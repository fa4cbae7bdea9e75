"""Processes that evaluate candidates: what cannot go there."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autocompress.core.files import is_alive
from autocompress.core.plan import Plan
from autocompress.errors import EnvironmentFault, InputError, TrialError
from autocompress.search.executors.executors import Inline, Processes


def test_what_cannot_be_sent_to_a_process_is_said_to_be_so() -> None:
    pool = Processes(lambda: None, jobs=2)  # type: ignore[arg-type, return-value]
    with pytest.raises(InputError, match=r"must be picklable.*path/to/file.py:factory, or jobs=1"):
        pool.submit(Plan(), 0).result()
    pool.close()


def _work(plan: Plan, rung: int, seconds: Any, should_stop: Any, threads: int) -> Any:
    """By rung: answer, sleep for ever, until told to stop, raise, leave, die by a signal, die once."""
    match rung:
        case 1:
            time.sleep(1000)
        case 2:
            while not should_stop():
                time.sleep(0.01)
        case 3:
            raise KeyError("layer3")
        case 4:
            sys.exit("enough")
        case 5:
            os.kill(os.getpid(), signal.SIGKILL)
        case 6 if not Path(str(seconds)).exists():
            Path(str(seconds)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid(), os.environ["OMP_NUM_THREADS"]


def _worker() -> Any:
    return _work


def _dying() -> Any:
    os._exit(3)


def _hanging_parent(place: str) -> None:
    pool = Processes(_worker, jobs=2)
    for _ in range(2):
        pool.submit(Plan(), 1)
    while not all(worker._ready for worker in pool.workers):
        time.sleep(0.01)
    Path(place).write_text(" ".join(str(worker.process_id) for worker in pool.workers))
    time.sleep(1000)


def _gone(process: int, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while is_alive(process) and time.monotonic() < end:
        time.sleep(0.05)
    return not is_alive(process)


@pytest.fixture
def pool() -> Iterator[Processes]:
    """One worker."""
    made = Processes(_worker, jobs=1)
    yield made
    made.close()
    assert all(worker.process_id is None or _gone(worker.process_id) for worker in made.workers)


def test_a_worker_answers_and_is_kept_and_the_environment_is_as_it_was(pool: Processes,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found: Any = [pool.submit(Plan(), 0).result() for _ in range(2)]
    assert found[0] == found[1] and found[0][1] == "1"
    assert "OMP_NUM_THREADS" not in os.environ


def test_what_hangs_is_killed_and_the_next_job_has_another_worker(pool: Processes) -> None:
    first: Any = pool.submit(Plan(), 0).result()
    with pytest.raises(TrialError, match=r"timeout: the evaluation took longer than 0\.5 s"):
        pool.submit(Plan(), 1, limit=0.5).result()
    second: Any = pool.submit(Plan(), 0, limit=60.0).result()
    assert first[0] != second[0] and _gone(first[0])


def test_errors_arrive_with_the_traceback_of_the_worker(pool: Processes) -> None:
    with pytest.raises(KeyError, match="layer3") as caught:
        pool.submit(Plan(), 3).result()
    assert "in _work" in str(caught.value.__cause__)
    with pytest.raises(SystemExit, match="enough"):
        pool.submit(Plan(), 4).result()
    assert pool.submit(Plan(), 0).result()


def test_a_worker_that_dies_is_replaced_and_its_job_given_once_more(pool: Processes, tmp_path: Path) -> None:
    place: Any = tmp_path / "died"
    assert pool.submit(Plan(), 6, place).result() and place.exists()
    with pytest.raises(TrialError, match=r"worker process died \(killed by signal 9, perhaps for lack of memory\)"):
        pool.submit(Plan(), 5).result()
    assert pool.submit(Plan(), 0).result()


def test_one_that_cannot_begin_ends_the_search() -> None:
    pool = Processes(_dying, jobs=1)
    with pytest.raises(EnvironmentFault, match=r"died before it could work.*__main__"):
        pool.submit(Plan(), 0).result()
    pool.close()


def test_stopping_reaches_the_workers() -> None:
    asked = threading.Event()
    pool = Processes(_worker, 1, asked.is_set)
    future = pool.submit(Plan(), 2)
    assert not future.done()
    asked.set()
    assert future.result(timeout=60)
    pool.close()


def test_closing_ends_busy_workers_at_once() -> None:
    pool = Processes(_worker, jobs=1)
    pool.submit(Plan(), 0).result()
    pool.submit(Plan(), 1)
    began = time.monotonic()
    pool.close()
    assert time.monotonic() - began < 30
    process = pool.workers[0].process_id
    assert process is not None and _gone(process)


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
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
        futures.append(Inline(evaluate, lambda: False).submit(Plan(), 0, limit=0.2))

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
    future: Any = Inline(lambda *_: 1, lambda: False).submit(Plan(), 0, limit=0.2)  # type: ignore[arg-type, return-value]
    time.sleep(0.4)
    assert future.result() == 1
