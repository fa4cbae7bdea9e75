"""Latency of files on this machine: CPU time beside wall time, files interleaved.

A runtime with one thread works in the calling one, so its CPU time (`CLOCK_THREAD_CPUTIME_ID`) is what an inference
costs; wall time also counts what other processes took in between, and on a busy machine it is two to three times as
long.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from autocompress.core.evaluation import LATENCY, LATENCY_SPREAD, LATENCY_WALL, Metrics
from autocompress.formats.base import Arrays, Runtime

WARM_UP = 3
LEAST_ROUNDS = 5
# Least CPU time of one reading: a file that is faster is run several times for it.
SLICE_SECONDS = 0.002
# Least steps of a coarse clock that one reading takes.
CLOCK_STEPS = 20
CLOCK = "CPU time of the one thread, medians of readings taken in turn"


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one inference of a file: of CPU time and of wall time, one entry a round."""

    cpu_ms: np.ndarray
    wall_ms: np.ndarray

    def metrics(self, name: str = LATENCY) -> Metrics:
        """`latency_ms`: the median of CPU time; `latency_wall_ms`: of wall time; `latency_spread`: how far the 90th
        percentile of CPU time is above the 10th, as a share of the median. `name`: `latency_ms` or that of a device,
        which the others then say too."""
        low, middle, high = (float(value) for value in np.quantile(self.cpu_ms, (0.1, 0.5, 0.9)))
        device = name.removeprefix(LATENCY)
        return {name: middle, LATENCY_WALL + device: float(np.median(self.wall_ms)),
                LATENCY_SPREAD + device: (high - low) / middle}


def time_files(files: Mapping[str, Runtime], example: Arrays, rounds: int = 30,
               seconds: float = 1.0) -> dict[str, Timing]:
    """Time one inference of `example`, one sample, for each file (loaded with one thread), in turn.

    Taking turns lets a change of the processor's clock or of its caches' other users meet all files alike. Stops after
    `rounds`, or after `seconds` of wall time, whichever is first, but not before five rounds.
    """
    runs = {name: _runs(runtime, example) for name, runtime in files.items()}
    readings: dict[str, list[tuple[float, float]]] = {name: [] for name in files}
    deadline = time.perf_counter() + seconds
    for number in range(rounds):
        if number >= LEAST_ROUNDS and time.perf_counter() > deadline:
            break
        for name, runtime in files.items():
            readings[name].append(_reading(runtime, example, runs[name]))
    return {name: Timing(*(1e3 * np.array(values).T)) for name, values in readings.items()}


def speedup(before: Timing, after: Timing) -> dict[str, float | int | str]:
    """Return how many times faster `after` is than `before`, both from one call of `time_files`: `factor`, the ratio
    of the medians; `low` and `high`, the 10th and the 90th percentile of the ratio over the rounds; `rounds`;
    `clock`."""
    low, high = np.quantile(before.cpu_ms / after.cpu_ms, (0.1, 0.9))
    factor = np.median(before.cpu_ms) / np.median(after.cpu_ms)
    return {"factor": float(factor), "low": min(float(low), float(factor)), "high": max(float(high), float(factor)),
            "rounds": len(after.cpu_ms), "clock": CLOCK}


def _runs(runtime: Runtime, example: Arrays) -> int:
    """Return how many inferences one reading takes; the file is warm afterwards."""
    for _ in range(WARM_UP):
        runtime.run(example)
    least = max(SLICE_SECONDS, CLOCK_STEPS * time.get_clock_info("thread_time").resolution)
    runs = 1
    while (spent := _reading(runtime, example, runs)[0] * runs) < least:
        runs = min(10 * runs, int(runs * 1.2 * least / spent) + 1) if spent else 10 * runs
    return runs


def _reading(runtime: Runtime, example: Arrays, runs: int) -> tuple[float, float]:
    """Return seconds of CPU time and of wall time of one of `runs` inferences."""
    reading = runtime.time(example, runs)
    return reading.cpu_seconds, reading.wall_seconds
