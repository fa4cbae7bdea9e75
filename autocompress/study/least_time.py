"""The least time that a search takes: known from one forward pass, and said before anything else takes long; and what
is kept for the export.

Whatever the limit is, the original is measured, one candidate is calibrated and scored, and its file is verified. Where
a network is so slow that these passes alone take longer than the limit, nobody should learn it by waiting.
"""

from __future__ import annotations

import logging
import time

import torch
from torch import nn

from autocompress.core.batch_sizes import calibration_rows
from autocompress.core.warnings import Warned, warn
from autocompress.errors import InputError
from autocompress.quantities import format_seconds
from autocompress.study.racing import LEAST_SLOW, TESTED, VALIDATED
from autocompress.study.robustness import disturbed_runs
from autocompress.study.traced import CALIBRATION_SAMPLES
from autocompress.study.workbench import Workbench
from autocompress.tasks.base import Task

log = logging.getLogger(__name__)

# Samples of the pass that is timed.
TIMED = 4
# Samples of all proofs about the graph and of the checks of files together.
PROOFS = 60
# Times that all calibration inputs, or as many, are run: outputs, norms of the original and of a candidate twice,
# moments of twice as many, ranges.
CALIBRATIONS = 7
# Finalists that time is kept for to be scored on more samples.
FINALISTS = 2
# Seconds in which an exported file is opened, in a process of its own too, and timed.
OPENING_SECONDS = 5.0
# What a search may take beyond its limit: seconds, or a share of the limit where that is more.
OVERRUN, OVERRUN_SHARE = 20.0, 0.1


def pass_seconds(network: nn.Module, task: Task) -> float:
    """Seconds of one sample's forward pass, by the faster of two passes of a few samples.

    Args:
        network: in eval mode.
        task: whose training samples are taken.
    """
    inputs = task.inputs("train", slice(0, TIMED))
    took = []
    with torch.no_grad():
        network(inputs[:1])  # prepares more than it computes
        for _ in range(2):
            began = time.perf_counter()
            network(inputs)
            took.append(time.perf_counter() - began)
    return min(took) / len(inputs)


def least_passes(task: Task) -> int:
    """Return how many samples go through the network, or a file of it, in the shortest search."""
    shape = tuple(task.inputs("train", slice(0, 1)).shape[1:])
    calibration = min(task.samples("train"), calibration_rows(shape, CALIBRATION_SAMPLES))
    return (PROOFS + CALIBRATIONS * calibration + VALIDATED * min(LEAST_SLOW, task.samples("validation"))
            + TESTED * min(LEAST_SLOW, task.samples("test")))


def require_time(each: float, task: Task, limit: float, elapsed: float = 0.0) -> None:
    """InputError where the shortest search takes so long that the time limit cannot be kept; a warning where it takes
    all of the limit.

    Args:
        each: seconds of one sample's pass.
        task: with its data.
        limit: seconds of the search.
        elapsed: seconds that loading has taken of it.
    """
    passes = least_passes(task)
    least = elapsed + each * passes
    if least <= limit:
        return
    what = (f"one sample takes {each:.2g} s here, and measuring the original, one candidate and its file takes about "
            f"{passes} of them, {format_seconds(least)} with loading")
    # Of a quick network the passes do not decide: a machine that loads it slowly is no reason to refuse it.
    if least > limit + max(OVERRUN, OVERRUN_SHARE * limit) and each * passes > OVERRUN:
        raise InputError(f"timeout must be long enough for one candidate of this network, but is "
                         f"{format_seconds(limit)}: {what}. Give more time, several times as much for a search, or "
                         "smaller inputs")
    warn(log, Warned("time-is-short", f"{format_seconds(limit)} are short for this network: {what}"))


def export_seconds(bench: Workbench, macs: float) -> float:
    """A bound on the seconds of an export, from those in which the original was scored: it runs on the test split, the
    file on that and on the validation split, and both on disturbed samples; a file counts as half of the original."""
    task, sizes = bench.network.task, bench.evaluator.sizes
    scored = task.samples("validation") if sizes is None else sizes.last
    tested = task.samples("test") if sizes is None else sizes.test
    finalists = 0 if sizes is None else FINALISTS + 0.5
    runs = 1.5 * (tested + disturbed_runs(bench, macs)) + (0.5 + finalists) * scored
    return OPENING_SECONDS + bench.evaluator.scoring_seconds * runs / scored
