"""What a row of the benchmark is about: a network, the search that a user would start, and a measure of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Measured:
    """A metric of a file on the test split.

    Args:
        rows: what each sample contributes, `(N, …)`, or objects `(N,)`.
        value: the metric of any rows; of None it is their mean.
    """

    rows: np.ndarray
    value: Callable[[np.ndarray], float] | None = None

    def with_error(self, resamples: int = 200) -> tuple[float, float]:
        """The metric, and its standard error by bootstrap over samples."""
        value = self.value or (lambda rows: float(np.mean(rows)))
        draw = np.random.default_rng(0)
        others = [value(self.rows[draw.integers(0, len(self.rows), len(self.rows))]) for _ in range(resamples)]
        return value(self.rows), float(np.nanstd(others))


@dataclass(frozen=True)
class Subject:
    """One network of the benchmark.

    Args:
        name: the key of its rows.
        kind: of network, as the page calls it.
        source: packages and data, in words.
        network: makes it, in eval mode, with its weights.
        search: arguments of `autocompress search` but for limits and folders.
        inputs: of a split, `train` (at most a few hundred samples, for the competitor's calibration) or `test`, arrays
            `(N, …)` by the names of the arguments of `forward`.
        measure: of the outputs of a file for the test split, arrays `(N, …)` by name.
        metric: what `measure` gives, in words.
        unit: of its values; those of `%` are shares.
        higher_is_better: its direction.
        outputs: names, in the order in which `forward` returns them.
        dynamic: whether the competitor is ONNX Runtime's dynamic int8, as for transformers and recurrent networks,
            rather than its static one.
        reported: the metric of the search that `measure` computes anew, on the same samples; empty where they differ.
        note: for the page.
    """

    name: str
    kind: str
    source: str
    network: Callable[[], nn.Module]
    search: Callable[[], list[str]]
    inputs: Callable[[str], Arrays]
    measure: Callable[[Mapping[str, np.ndarray]], Measured]
    metric: str
    unit: str = "%"
    higher_is_better: bool = True
    outputs: tuple[str, ...] = ("output",)
    dynamic: bool = False
    reported: str = ""
    note: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def packages(path: str = "") -> Path:
    """A path inside the folder into which packages were installed."""
    return Path(os.environ["TASKS_PACKAGES"]) / path


def shared(path: str) -> Path:
    """A path inside the folder of shared data."""
    return Path(os.environ["TASKS_SHARED"]) / path


def stored(name: str, write: Callable[[Path], None]) -> Path:
    """A file or folder that is written once, below the packages, for all searches."""
    path = packages(f"tasks/{name}")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"partial_{path.name}")
        write(partial)
        partial.rename(path)
    return path


def right(outputs: np.ndarray, labels: np.ndarray) -> Measured:
    """Accuracy of scores `(N, classes)`."""
    return Measured((outputs.argmax(1) == labels).astype(np.float64))
