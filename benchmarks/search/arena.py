"""Where contenders meet: one network, one space, one way to evaluate, and a clock that counts processor time."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import msgspec
import torch
from measures import Box, Point
from torch import nn

from autocompress.backend.training import distill, teacher
from autocompress.core.budget import Budget
from autocompress.core.evaluation import Evaluation, Metrics
from autocompress.core.plan import Plan
from autocompress.core.sensitivity import SensitivityTable
from autocompress.errors import TrialError
from autocompress.formats.onnx.runtime import Runtime
from autocompress.hardware.profile import load_profile
from autocompress.space.projection import MARGIN, Projection
from autocompress.space.solver.solver import Solver
from autocompress.space.space import Space, build_space
from autocompress.space.spec import load_space
from autocompress.study.sensitivity import sensitivity
from autocompress.study.workbench import Workbench
from autocompress.tasks.splits import TaskData

WORST_ERROR = 0.5
"""Validation error of the reference point."""
LADDER = 256
"""Sizes that a path is asked for, at most."""
TABLE = "sensitivity_table-*"
"""Files of the sensitivity table among the statistics: who uses it pays for it."""


class Arena:
    """A network, its data and the budget, `sizes[0]` bytes. Sets up once what every contender finds made: traced and
    exported network, statistics of the calibration data, the box in which hypervolume is counted."""

    def __init__(self, model: nn.Module, data: TaskData, sizes: list[int], space: str, images: int | None,
                 scratch: Path) -> None:
        validation = data.validation.take(torch.arange(min(images or len(data.validation), len(data.validation))))
        self._model, self._data, self._scratch = model, replace(data, validation=validation), scratch
        self._spec, self.sizes = load_space(space), sizes
        # Widths and rates of this machine's profile, but nothing is timed: the same plan has the same latency.
        self._profile = msgspec.structs.replace(load_profile("host"), latency="estimated")
        bench = self._bench(scratch / "first")
        self.original = bench.evaluator.baseline()
        self.images = len(validation)
        space_ = build_space(bench.network.table, self._spec, self._profile)
        projection = Projection(space_, Budget())
        least = {name: projection.estimate(projection.smallest(name))[name] for name in ("size_bytes", "latency_ms")}
        self.box = Box(WORST_ERROR, (least["size_bytes"], self.original["size_bytes"]),
                       (least["latency_ms"], self.original["latency_ms"]))
        self._warm = projection.smallest()
        self._ready(bench)

    def _bench(self, folder: Path) -> Workbench:
        (folder / "statistics").mkdir(parents=True, exist_ok=True)
        answers = self._scratch / "teacher"
        answers.mkdir(exist_ok=True)
        (folder / "teacher").symlink_to(answers, target_is_directory=True)
        return Workbench(self._model, self._data, self._profile, seed=0, folder=folder, epochs=1)

    def _ready(self, bench: Workbench) -> None:
        """What the first evaluation of any contender would make, made; layers that plans share are forgotten."""
        bench.evaluator.evaluate(self._warm, 0)
        bench.network.compressor.forget()

    @contextmanager
    def run(self, seed: int, seconds: float) -> Iterator[Run]:
        """One contender's own bench, with the statistics but neither table nor layers of those before."""
        folder = self._scratch / "run"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self._scratch / "first" / "statistics", folder / "statistics", copy_function=os.link,
                        ignore=shutil.ignore_patterns(TABLE))
        bench = self._bench(folder)
        space = build_space(bench.network.table, self._spec, self._profile)
        began = time.process_time()
        self._ready(bench)
        probe_s = time.process_time() - began
        yield Run(bench, space, self.sizes, self.original, seed, seconds, probe_s)
        shutil.rmtree(folder)


class Run:
    """One contender with one seed. Its clock starts now and is of this process alone: waiting for others who use the
    machine does not count. `probe_s`: what one evaluation, the same for all, took before: how fast the machine was."""

    def __init__(self, bench: Workbench, space: Space, sizes: list[int], original: Metrics, seed: int,
                 seconds: float, probe_s: float = 0.0) -> None:
        self.bench, self.space, self.seed, self.original, self.probe_s = bench, space, seed, original, probe_s
        self.budget = Budget(size_bytes=sizes[0])
        self.projection = Projection(space, self.budget)
        self.points: list[Point] = []
        self.evaluated: dict[str, tuple[Plan, Metrics]] = {}
        self.duplicates = self.failed = self.late = 0
        self.table_s = self.evaluating_s = 0.0
        self._sizes, self._seconds = sizes, seconds
        self._began = time.process_time()

    @property
    def spent_s(self) -> float:
        """Processor seconds since the start."""
        return time.process_time() - self._began

    def closed(self) -> bool:
        """Whether the time is up."""
        return self.spent_s >= self._seconds

    def sensitivity_table(self) -> SensitivityTable:
        """The sensitivity table, at the contender's own cost."""
        began = self.spent_s
        table = sensitivity(self.bench, self.space)
        self.table_s += self.spent_s - began
        return table

    @cached_property
    def solver(self) -> Solver:
        """With the table, for the budget."""
        return Solver(self.projection, self.sensitivity_table())

    def path(self) -> Iterator[int]:
        """Budgets for a path, ever finer between the whole one, which is first, and the smallest that can be reached,
        evenly in their logarithm. Nobody is told the further sizes at which files are judged."""
        for number in range(LADDER):
            yield self.between(_spread(number))

    def between(self, share: float) -> int:
        """From the smallest size that can be reached, 0, to the budget, 1, evenly in its logarithm."""
        return math.ceil(self._least * (self._sizes[0] / self._least) ** share)

    @cached_property
    def _least(self) -> float:
        return self.projection.estimate(self.projection.smallest())["size_bytes"] / MARGIN

    def evaluate(self, plan: Plan, rung: int, seconds: float | None = None,
                 should_stop: Callable[[], bool] | None = None, threads: int | None = None) -> Evaluation:
        """The one way to evaluate, for all: calibrated file, validation images. What ends too late does not count."""
        if rung:
            raise ValueError(f"searchers are compared on calibrated files, rung 0, but rung {rung} was asked for")
        began = self.spent_s
        try:
            evaluation = self.bench.evaluator.evaluate(plan, 0, seconds, should_stop, threads)
        except TrialError:
            self.failed += 1
            raise
        finally:
            ended = self.spent_s
            self.evaluating_s += ended - began
        metrics = evaluation.metrics
        if ended > self._seconds:
            self.late += 1
            return evaluation
        self.evaluated[plan.fingerprint] = plan, metrics
        if self.budget.allows(metrics):
            self.points.append(Point(ended, metrics["accuracy"], int(metrics["size_bytes"]), metrics["latency_ms"]))
        return evaluation

    def attempt(self, plan: Plan) -> Metrics | None:
        """Metrics of a plan, known ones where it is not new, nothing where it fails."""
        if plan.fingerprint in self.evaluated:
            self.duplicates += 1
            return self.evaluated[plan.fingerprint][1]
        try:
            return self.evaluate(plan, 0).metrics
        except TrialError:
            return None

    def best(self, size: int) -> tuple[Plan, Metrics] | None:
        """The plan of most accurate file within a size, on validation images; of equals the smaller."""
        inside = [(plan, metrics) for plan, metrics in self.evaluated.values() if metrics["size_bytes"] <= size]
        return min(inside, key=lambda pair: (-pair[1]["accuracy"], pair[1]["size_bytes"]), default=None)

    def test_accuracy(self, plan: Plan, rung: int = 0) -> float:
        """Of the file of a plan, on the test split."""
        built = self.bench.network.write(self.bench.trainer.rebuild(plan, rung))
        return self.bench.evaluator.score(Runtime(built.data, self.bench.evaluator.threads), "test").metrics["accuracy"]

    def trained(self, plan: Plan, seconds: float) -> float:
        """Test accuracy after so many processor seconds of distillation."""
        processor = SimpleNamespace(**{**vars(time), "perf_counter": time.process_time})
        with mock.patch.object(distill, "time", processor), mock.patch.object(teacher, "time", processor):
            self.bench.evaluator.evaluate(plan, 1, seconds)  # whose clock is else the wall's
        return self.test_accuracy(plan, 1)


def _spread(number: int) -> float:
    """1, 0, then halves, quarters and so on between them: any first part is even (van der Corput, 1935)."""
    if number < 2:
        return 1.0 - number
    place, share = number - 1, 0.0
    half = 0.5
    while place:
        share += half * (place & 1)
        place, half = place >> 1, half / 2
    return share
