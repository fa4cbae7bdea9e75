"""Processes that evaluate candidates: what cannot go there."""

from __future__ import annotations

import time
from typing import Any

import pytest

from autocompress.core.plan import Plan
from autocompress.errors import InputError
from autocompress.search.workers import Processes


def test_what_cannot_be_sent_to_a_process_is_said_to_be_so() -> None:
    pool = Processes(lambda: None, jobs=2)  # type: ignore[arg-type, return-value]
    with pytest.raises(InputError, match=r"must be picklable.*path/to/file.py:factory, or jobs=1"):
        pool.submit(Plan(), 0)
    pool.close()


def _sleep(plan: Plan, rung: int, *_: Any) -> int:
    time.sleep(rung)
    return rung


def _sleeper() -> Any:
    return _sleep


@pytest.mark.parametrize(("seconds", "exit_code"), [(0, 0), (600, -15)])
def test_idle_processes_end_by_themselves_and_busy_ones_at_once(seconds: int, exit_code: int) -> None:
    pool = Processes(_sleeper, jobs=1)
    future = pool.submit(Plan(), seconds)
    if not seconds:
        assert future.result() == 0
    while not pool._pool._processes or not (seconds == 0 or future.running()):
        time.sleep(0.05)
    process = next(iter(pool._pool._processes.values()))
    pool.close()
    ended = time.monotonic() + 60
    while process.exitcode is None and time.monotonic() < ended:  # the pool may collect it before we do
        time.sleep(0.05)
    assert process.exitcode == exit_code
