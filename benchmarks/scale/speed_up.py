"""How many candidates two workers of Ray calibrate against one, on a machine of two cores, and what travels for each.

Short runs with one and with two workers take turns, for what else runs on the machine changes by the minute: the load
stands beside each rate. Proposals are random, so that both try the same.
"""

from __future__ import annotations

import os
import pickle
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from network import write_files

import autocompress
from autocompress.search.engine import Event
from autocompress.search.executors import ray as ray_actors


class EnoughError(Exception):
    """All candidates are calibrated."""


class Counted:
    """Counts what goes through the object store while the body runs: what is put once, what is lent, and answers."""

    def __init__(self) -> None:
        self.put, self.answers = list[int](), list[int]()

    def __enter__(self) -> Counted:
        import ray

        self._put, self._settle = ray.put, ray_actors._settle

        def put(value: Any, **options: Any) -> Any:
            self.put.append(len(value) if isinstance(value, bytes) else len(pickle.dumps(value)))
            return self._put(value, **options)

        def settle(future: Any, outcome: Any = None, error: Any = None) -> None:
            if outcome is not None:
                self.answers.append(len(pickle.dumps(outcome)))
            self._settle(future, outcome, error)

        ray.put, ray_actors._settle = put, settle
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        ray.put, ray_actors._settle = self._put, self._settle


def rate(folder: Path, workers: int, trials: int, width: int, profile: str) -> tuple[float, Counted]:
    """Candidates calibrated in a minute by so many workers, behind the first third: workers begin with loading torch,
    and not at the same time."""
    model, data, weights = write_files(folder / "task", width=width, side=32)
    results: list[float] = []

    def told(event: Event) -> None:
        if event.kind == "result":
            results.append(time.perf_counter())
            if len(results) == trials:
                raise EnoughError

    try:
        with tempfile.TemporaryDirectory() as out, Counted() as counted:
            autocompress.search(model, data, weights=weights, max_drop="40%", trials=trials, sampler="random",
                                profile=profile, effort="fast", workers="ray", jobs=workers, out=f"{out}/study",
                                on_event=told)
    except EnoughError:
        pass
    behind = results[trials // 3:]
    return 60 * (len(behind) - 1) / (behind[-1] - behind[0]), counted


def rows(folder: Path, rounds: int, trials: int, width: int, profile: str) -> list[str]:
    """Lines of a table: rates of one and of two workers in turn, with the load of the machine."""
    lines = ["| round | 1 worker | 2 workers | ratio | load before |", "|---|---|---|---|---|"]
    ratios, counted = list[float](), Counted()
    for number in range(rounds):
        load = os.getloadavg()[0]
        rates = {}
        for workers in (1, 2) if number % 2 == 0 else (2, 1):
            rates[workers], counted = rate(folder, workers, trials, width, profile)
        ratios.append(rates[2] / rates[1])
        lines.append(f"| {number + 1} | {rates[1]:.1f}/min | {rates[2]:.1f}/min | {ratios[-1]:.2f} | {load:.1f} |")
        print(lines[-1], flush=True)
    lines += ["", f"Median ratio {statistics.median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}.", "",
              f"Object store: {sum(counted.put):,} bytes put once in {len(counted.put)} objects (how to evaluate: "
              f"network and data; statistics of the original), then {statistics.mean(counted.answers):,.0f} bytes for "
              "each calibrated candidate."]
    return lines
