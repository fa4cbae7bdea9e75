"""A search of `--effort thorough` on 1 to 256 workers, simulated from the task times of a stored study.

Everything that is simulated was measured: seconds of each evaluation by rung, less timing; seconds of timing and of a
proposal, which the driver does in its one thread, one after the other; bytes that come back with each, over one gigabit
link. Trials, promotions and their order are the engine's: a worker that is free takes the next trial, behind the last
trial the best are promoted as results come, and nobody waits for a rung.
"""

from __future__ import annotations

import heapq
import random
import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from autocompress.core.evaluation import CALIBRATED, LONG, SHORT
from autocompress.search.efforts import EFFORTS
from autocompress.study import open_study

WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# Of one link to the driver, in bytes a second.
GIGABIT = 1.25e8
REPEATS = 20


@dataclass
class Measured:
    """Task times of one study in seconds: evaluations by rung, and timing of files; seconds of a proposal, and bytes of
    an answer by rung."""

    evaluations: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    timing: list[float] = field(default_factory=list)
    proposal: float = 0.05
    answer: dict[int, float] = field(default_factory=dict)


def measured(study: Path, proposal: float) -> Measured:
    """What a stored study says."""
    result, found = open_study(study), Measured(proposal=proposal)
    sizes: list[float] = []
    for candidate in result.candidates:
        for evaluation in candidate.evaluations if candidate.duplicate_of is None else ():
            if evaluation.rung in (CALIBRATED, SHORT, LONG):
                timing = evaluation.timings.get("time", 0.0)
                found.evaluations[evaluation.rung].append(evaluation.seconds - timing)
                found.timing.append(timing)
                sizes.append(evaluation.metrics["size_bytes"])
    weights = 4 * result.baseline["params"]  # trained weights come back in float
    found.answer = {CALIBRATED: statistics.mean(sizes), SHORT: weights, LONG: weights}
    return found


@dataclass(frozen=True)
class Limits:
    """How the driver works. `times`: files are timed; `timers` and `proposers`: on how many places beside its one
    thread files are timed and trials proposed; 0: in that thread."""

    times: bool = True
    timers: int = 0
    proposers: int = 0


class Places:
    """Does tasks one after the other on each of some places."""

    def __init__(self, count: int) -> None:
        self._free = [0.0] * count

    def end(self, at: float, seconds: float) -> float:
        """When a task ends that may begin at that time."""
        end = max(at, heapq.heappop(self._free)) + seconds
        heapq.heappush(self._free, end)
        return end


def seconds(found: Measured, workers: int, limits: Limits, seed: int) -> float:
    """Seconds of the trials of a thorough search."""
    rng, effort = random.Random(seed), EFFORTS["thorough"]
    left = {CALIBRATED: effort.trials, SHORT: effort.schedule.short, LONG: effort.schedule.long}
    ready = {SHORT: 0, LONG: 0}  # candidates that may be promoted
    driver, link = Places(1), Places(1)
    proposers = Places(limits.proposers) if limits.proposers else driver
    timers = Places(limits.timers) if limits.timers else driver
    free, now, events = workers, 0.0, list[tuple[float, int, bool]]()  # when, rung, whether its result is known
    while True:
        while free and (rung := _next(left, ready)) is not None:
            free, left[rung] = free - 1, left[rung] - 1
            begin = proposers.end(now, found.proposal) if rung == CALIBRATED else now
            if rung != CALIBRATED:
                ready[rung] -= 1
            heapq.heappush(events, (begin + rng.choice(found.evaluations[rung]), rung, False))
        if not events:
            return now
        now, rung, is_known = heapq.heappop(events)
        if is_known:
            free += 1
            if rung < LONG:
                ready[rung + 1] = min(left[rung + 1], ready[rung + 1] + 1)
        else:
            arrived = link.end(now, found.answer[rung] / GIGABIT)
            timing = rng.choice(found.timing) if limits.times else 0.0
            heapq.heappush(events, (timers.end(arrived, timing), rung, True))


def _next(left: dict[int, int], ready: dict[int, int]) -> int | None:
    """The rung of what a free worker does next: a trial while there are any, else a promotion."""
    if left[CALIBRATED]:
        return CALIBRATED
    return next((rung for rung in (SHORT, LONG) if left[rung] and ready[rung]), None)


def rows(study: Path, proposal: float) -> list[str]:
    """Lines of a table: time and speed-up by workers, as it is and with what would be changed."""
    found = measured(study, proposal)
    kinds = {"as it is": Limits(), "latency estimated": Limits(times=False),
             "timed on 8 places": Limits(timers=8), "and 8 proposals at once": Limits(timers=8, proposers=8)}
    medians = {rung: statistics.median(times) for rung, times in sorted(found.evaluations.items())}
    lines = [f"Task times of `{study.name}`: calibrated {medians[CALIBRATED]:.1f} s, distilled briefly "
             f"{medians[SHORT]:.1f} s, distilled {medians[LONG]:.1f} s, timing a file "
             f"{statistics.median(found.timing):.2f} s (medians); a proposal {1000 * proposal:.0f} ms.", "",
             "| workers | " + " | ".join(kinds) + " |", "|---" * (1 + len(kinds)) + "|"]
    alone = {name: statistics.mean(seconds(found, 1, limits, seed) for seed in range(REPEATS))
             for name, limits in kinds.items()}
    for workers in WORKERS:
        cells = []
        for name, limits in kinds.items():
            took = statistics.mean(seconds(found, workers, limits, seed) for seed in range(REPEATS))
            cells.append(f"{took:,.0f} s ({alone[name] / took:.1f}×)")
        lines.append(f"| {workers} | " + " | ".join(cells) + " |")
    return lines
