"""What is kept of every run, and the measures that are taken from it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from optuna._hypervolume import compute_hypervolume

from autocompress.core.front import non_dominated


class Box(msgspec.Struct, frozen=True):
    """Between the reference point (the worst) and the ideal one: an error of 0 and the least bytes and milliseconds
    that the space can reach; bytes and milliseconds in logarithms, as (least, worst)."""

    error: float
    size_bytes: tuple[float, float]
    latency_ms: tuple[float, float]

    def place(self, points: Sequence[Point]) -> np.ndarray:
        """Rows of three, 0 the ideal and 1 the reference; what is worse than the reference in anything is left out."""
        rows = np.array([[(1 - p.accuracy) / self.error, _share(p.size_bytes, self.size_bytes),
                          _share(p.latency_ms, self.latency_ms)] for p in points]).reshape(-1, 3)
        return np.maximum(rows[(rows <= 1).all(1)], 0.0)

    def hypervolume(self, points: Sequence[Point]) -> float:
        """Share of the box that the points dominate, 0 to 1."""
        return float(compute_hypervolume(self.place(points), np.ones(3)))


def _share(value: float, between: tuple[float, float]) -> float:
    least, worst = map(math.log10, between)
    return (math.log10(value) - least) / (worst - least)


class Point(msgspec.Struct, frozen=True, array_like=True):
    """A file inside the budget, when it was known, and the hypervolume from then on."""

    seconds: float
    accuracy: float
    size_bytes: int
    latency_ms: float
    hypervolume: float = 0.0


class Pick(msgspec.Struct, frozen=True):
    """Of all files within `limit` bytes the one most accurate on validation images. `trained`: its test accuracy after
    distillation."""

    limit: int
    size_bytes: int
    validation: float
    test: float
    trained: float | None = None


class Row(msgspec.Struct, frozen=True):
    """One contender with one seed; seconds of processor. `probe_s`: of one evaluation, the same for all, just before.
    `points` are those that no earlier one beats."""

    contender: str
    seed: int
    evaluated: int
    inside: int
    duplicates: int
    failed: int
    spent_s: float
    evaluating_s: float
    table_s: float
    probe_s: float
    points: list[Point]
    picks: list[Pick]

    def hypervolume(self, seconds: float) -> float:
        """After so many seconds."""
        return max((p.hypervolume for p in self.points if p.seconds <= seconds), default=0.0)

    def reached(self, hypervolume: float) -> float:
        """When a hypervolume was reached, or infinity."""
        return min((p.seconds for p in self.points if p.hypervolume >= hypervolume), default=math.inf)


class Results(msgspec.Struct, frozen=True):
    """All runs on one network under the same conditions."""

    network: str
    space: str
    images: int
    seconds: float
    sizes: list[int]
    original: dict[str, float]
    box: Box
    rows: list[Row] = []
    note: str = ""
    """What else must be known of them, for the page."""

    @property
    def conditions(self) -> tuple[object, ...]:
        """What must agree between rows that stand in one table."""
        return self.network, self.space, self.images, self.seconds, self.sizes


def rising(points: Sequence[Point], box: Box) -> list[Point]:
    """Points that no earlier one beats, each with the hypervolume of all until then."""
    kept: list[Point] = []
    for point in points:
        rows = [(-p.accuracy, p.size_bytes, p.latency_ms) for p in (*kept, point)]
        if len(rows) - 1 in non_dominated(rows):
            total = box.hypervolume([*kept, point])
            kept.append(msgspec.structs.replace(point, seconds=round(point.seconds, 2), hypervolume=round(total, 6)))
    return kept
