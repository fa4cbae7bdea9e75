"""Bytes that a search by actors of Ray puts into the object store and sends, once and for each evaluation."""

from __future__ import annotations

import pickle
import statistics
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import cloudpickle
from network import write_files

import autocompress
from autocompress.core.evaluation import RUNG_NAMES
from autocompress.search.executors.base import Workplace
from autocompress.search.executors.ray import RayActors
from autocompress.search.executors.ray_worker import Lent


class Counting(RayActors):
    """Counts what goes to the actors and comes back."""

    def __init__(self, most: int) -> None:
        super().__init__("ray", most=most)
        # Of network and data, put once; by rung, of new references of each job, of the job itself, and of its answer.
        self.once = 0
        self.put: list[int] = []
        self.sent: dict[int, list[tuple[int, int, int]]] = defaultdict(list)

    def open(self, workplace: Workplace) -> None:
        """See `Executor`."""
        self.once = len(cloudpickle.dumps(workplace.make))
        super().open(workplace)
        self.once += sum(self.put)

    def _lent(self, keys: Mapping[str, Mapping[str, str]]) -> dict[str, Lent]:
        before = set(self._references)
        lent = super()._lent(keys)
        self.put.append(sum(len(self._workplace.store.get(key) or b"") for key in set(lent) - before))
        return lent

    def _begin(self, actor: Any, call: Any) -> None:
        super()._begin(actor, call)
        call.put = self.put[-1]

    def _answered(self, actor: Any, call: Any, done: Future[Any]) -> None:
        if done.exception() is None:
            self.sent[call.job.rung].append((call.put, len(pickle.dumps(call.job)), len(pickle.dumps(done.result()))))
        super()._answered(actor, call, done)


def rows(folder: Path, trials: int, width: int) -> list[str]:
    """Lines of a table: bytes by rung, the median (largest) of all evaluations there."""
    model, data, weights = write_files(folder, width=width)
    executor = Counting(2)
    result = autocompress.search(model, data, weights=weights, max_drop="40%", trials=trials, epochs=1, effort="fast",
                                 executor=executor, out=folder / "study")
    lines = [f"Original {result.baseline['size_bytes']:,.0f} bytes; network, data and statistics, put once: "
             f"{executor.once:,} bytes.", "",
             "| | evaluations | put for it | the job | its answer |", "|---|---|---|---|---|"]
    for rung, sizes in sorted(executor.sent.items()):
        cells = " | ".join(f"{statistics.median(column):,.0f} ({max(column):,})" for column in zip(*sizes, strict=True))
        lines.append(f"| {RUNG_NAMES[rung]} | {len(sizes)} | {cells} |")
    return lines
