"""What a job may need of the driver's store, for executors whose workers cannot ask for it."""

from __future__ import annotations

from collections.abc import Mapping

from autocompress.core.evaluation import CALIBRATED, SHORT
from autocompress.core.store import TEACHER, Store, weights_key
from autocompress.search.executors.base import Job

# Weights of so many trained candidates, the nearest in plan, go with a training that may inherit from one.
MOST_RELATIVES = 3


def needed(store: Store, job: Job) -> dict[str, Mapping[str, str]]:
    """The keys that a job may read, with the headers of weights: for a training the weights that it goes on from, or
    those nearest in plan, and the teacher's answers; for a calibration none."""
    if job.rung == CALIBRATED:
        return {}
    near = dict(store.nearest(job.plan, MOST_RELATIVES if job.rung == SHORT else None))
    start = weights_key(job.plan, job.rung - 1)
    if start in near:
        near = {start: near[start]}
    return {key: near.get(key, {}) for key in (*list(near)[:MOST_RELATIVES], *store.keys(TEACHER))}
