"""Latency of files on this machine: which clock, how it is read, and what a ratio is of."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from autocompress.formats import base, timing
from autocompress.formats.onnx.runtime import Runtime
from autocompress.formats.timing import SLICE_SECONDS, Timing, speedup, time_files
from autocompress.testing.techniques import workbench

TASKS = Path("/proc/self/task")
ONE = {"input": np.zeros((1, 4), np.float32)}


@pytest.fixture(autouse=True)
def readings_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other tests take shorter ones."""
    monkeypatch.setattr(timing, "SLICE_SECONDS", SLICE_SECONDS)


class _Clocks:
    """A thread that works for `cpu` seconds in an inference, during which others work for `stolen` seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cpu = self.wall = 0.0
        monkeypatch.setattr(time, "thread_time", lambda: self.cpu)
        monkeypatch.setattr(time, "perf_counter", lambda: self.wall)

    def file(self, cpu: float, stolen: list[float]) -> base.Runtime:
        clocks = self

        class _File(base.Runtime):
            runs = 0

            def run(self, inputs: base.Arrays) -> dict[str, np.ndarray]:
                self.runs += 1
                clocks.cpu += cpu
                clocks.wall += cpu + stolen[self.runs % len(stolen)]
                return dict(inputs)

        return _File()


def test_work_of_other_processes_is_in_the_wall_time_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = _Clocks(monkeypatch)
    timed = time_files({"a": clocks.file(0.004, [0.0, 0.006, 0.006]), "b": clocks.file(0.002, [0.05])},
                       ONE, rounds=9, seconds=99.0)
    metrics = timed["a"].metrics()
    assert metrics["latency_ms"] == pytest.approx(4.0) and metrics["latency_wall_ms"] == pytest.approx(10.0)
    assert metrics["latency_spread"] == pytest.approx(0.0, abs=1e-9)
    assert speedup(timed["a"], timed["b"])["factor"] == pytest.approx(2.0)
    assert timed["b"].metrics("latency_ms@here").keys() == {"latency_ms@here", "latency_wall_ms@here",
                                                            "latency_spread@here"}


def test_a_short_inference_is_read_several_times_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = _Clocks(monkeypatch)
    short = clocks.file(3e-5, [0.0])
    timed = time_files({"short": short}, ONE, rounds=6, seconds=99.0)
    assert timed["short"].metrics()["latency_ms"] == pytest.approx(0.03)
    assert short.runs >= 6 * SLICE_SECONDS / 3e-5, "a reading takes two milliseconds at least"  # type: ignore


def test_a_clock_that_never_moves_within_a_run_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = _Clocks(monkeypatch)
    monkeypatch.setattr(time, "thread_time", lambda: clocks.cpu // 0.0156 * 0.0156)
    timed = time_files({"short": clocks.file(1e-4, [0.0])}, ONE, rounds=5, seconds=99.0)
    assert timed["short"].metrics()["latency_ms"] == pytest.approx(0.1, rel=0.5)


def test_the_ratio_has_the_spread_of_the_rounds() -> None:
    rounds = np.array([4.0, 4.0, 4.0, 8.0, 8.0])
    ratio = speedup(Timing(rounds, rounds), Timing(rounds / np.array([1.0, 2, 2, 2, 3]), rounds))
    assert ratio["low"] < 2 < ratio["high"] and ratio["low"] <= ratio["factor"] <= ratio["high"]
    assert ratio["rounds"] == 5 and "CPU" in str(ratio["clock"])


@pytest.mark.skipif(not TASKS.is_dir(), reason="counts threads by /proc")
def test_the_calling_thread_does_all_the_work() -> None:
    file = workbench("mlp").network.writer.original_file
    Runtime(file)  # the runtime's own environment may keep threads
    before = len(list(TASKS.iterdir()))
    runtime = Runtime(file)
    assert len(list(TASKS.iterdir())) == before, "a session of one thread starts none"
    timed = timing.time_files({"a": runtime}, {"input": np.zeros((1, 20), np.float32)}, rounds=5, seconds=0.1)
    assert timed["a"].metrics()["latency_ms"] > 0
