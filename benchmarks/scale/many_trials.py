"""A study of thousands of trials, and how long `show`, `report` and `--resume` take on it.

The search, its samplers, its database and its files are those of any other; only what evaluates is not: the first
plan is evaluated, the metrics of all others are drawn by their fingerprint, below those of the first, so that what
ships is what it is said to be. Of more than `SEARCHED` trials the others are stored without a search: the same plans
with metrics drawn anew.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import msgspec
from network import write_files
from optuna.trial import create_trial

import autocompress
from autocompress.core import wire
from autocompress.core.evaluation import Candidate, Evaluation
from autocompress.core.front import objectives
from autocompress.core.plan import Plan
from autocompress.search.databases import storage_url
from autocompress.search.engine import Event
from autocompress.search.executors.base import Executor, Job, Outcome, Workplace
from autocompress.search.storage import CANDIDATE
from autocompress.search.study_store import StudyStore
from autocompress.study import open_study
from autocompress.study.folder import read_description

# Bounded by what it may lose alone: proposals then cost little beside what a driver does with each of them.
MOST_LOST = "40%"
# Trials of a study that are asked for and told.
SEARCHED = 2000


class Drawn(Executor):
    """Evaluates one candidate, and draws the metrics of the others."""

    jobs = 1

    def __init__(self) -> None:
        self._workplace: Workplace | None = None
        self._first: Outcome | None = None
        self._plan: Plan | None = None

    def open(self, workplace: Workplace) -> None:
        """See `Executor`."""
        self._workplace = workplace

    def submit(self, job: Job) -> Future[Outcome]:
        """See `Executor`."""
        future: Future[Outcome] = Future()
        if self._first is None or job.plan == self._plan:
            assert self._workplace is not None
            self._first, self._plan = self._workplace.evaluate(job, lambda: False), job.plan
            future.set_result(self._first)
        else:
            future.set_result(msgspec.structs.replace(self._first, evaluation=drawn(job, self._first.evaluation)))
        return future


def drawn(job: Job, like: Evaluation, seed: int = 0) -> Evaluation:
    """An evaluation of a plan with the receipts of another one."""
    rng = random.Random(f"{job.plan.fingerprint} {seed}")
    share = rng.uniform(0.2, 1.1)
    metrics = dict(like.metrics)
    metrics["accuracy"] -= 0.05 + 0.25 * (1.1 - share) - 0.02 * job.rung + abs(rng.gauss(0, 0.01))
    metrics |= {"size_bytes": float(round(16_000 * share)), "latency_ms": 0.05 + 0.1 * share * rng.uniform(0.8, 1.2),
                "macs": float(round(1e6 * share * rng.uniform(0.7, 1.0))), "cross_entropy": rng.random()}
    return msgspec.structs.replace(like, rung=job.rung, metrics=metrics, timings={"score": 0.1})


def add(study: Path, trials: int) -> None:
    """Store trials until there are so many."""
    stored = StudyStore.read(storage_url(study, None), read_description(study).name, study)
    known = [(trial, candidate) for trial, candidate in zip(stored.study.trials, stored.candidates(), strict=True)
             if candidate.status == "complete" and candidate.plan is not None and candidate.evaluations]
    names = list(objectives(read_description(study).metric))
    for number in range(len(stored), trials):
        trial, like = known[number % len(known)]
        assert like.plan is not None
        evaluation = drawn(Job(plan=like.plan, rung=0), like.evaluations[0], seed=number)
        candidate = Candidate(trial=number, status="complete", plan=like.plan, evaluations=(evaluation,),
                              origin=like.origin)
        stored.study.add_trial(create_trial(
            params=trial.params, distributions=trial.distributions, values=[evaluation.metrics[n] for n in names],
            user_attrs={CANDIDATE: wire.encode(candidate)}))


def searched(folder: Path, trials: int, sampler: str) -> list[tuple[float, float]]:
    """Search in `folder`; wall clock and processor in seconds when each trial was told."""
    model, data, weights = write_files(folder)
    marks: list[tuple[float, float]] = []

    def told(event: Event) -> None:
        if event.kind == "result":
            marks.append((time.perf_counter(), time.process_time()))

    autocompress.search(model, data, weights=weights, max_drop=MOST_LOST, trials=trials, epochs=1, sampler=sampler,
                        effort="fast", executor=Drawn(), out=folder / "study", on_event=told)
    return marks


def per_trial(marks: list[tuple[float, float]], last: int, count: int = 90) -> str:
    """Milliseconds of processor and of wall clock of each of the `count` trials up to the `last`."""
    wall, processor = (1000 * (marks[last - 1][i] - marks[last - count - 1][i]) / count for i in range(2))
    return f"{processor:.1f} ms ({wall:.1f} ms)"


def driver_rows(folder: Path, trials: int, sampler: str) -> list[str]:
    """Lines of a table: what a driver does for each trial as a study grows, with evaluations left out."""
    marks, lines = searched(folder, trials, sampler), ["| at trial | processor (wall clock) |", "|---|---|"]
    last = min(trials, len(marks))  # a space may have fewer plans
    counts = [*(count for count in (100, 300, 1000, 2000) if count < last), last]
    return [*lines, *(f"| {count:,} | {per_trial(marks, count)} |" for count in counts)]


def fill(folder: Path, trials: int, sampler: str = "random") -> tuple[Path, float]:
    """A study of so many trials in `folder`, and the seconds of the driver for each of them, all told."""
    marks, study = searched(folder, min(trials, SEARCHED), sampler), folder / "study"
    add(study, trials)
    return study, (marks[-1][0] - marks[0][0]) / len(marks)


def commands(study: Path, trials: int) -> dict[str, list[str]]:
    """Command lines by name; the one that goes on has nothing left to try."""
    return {"show": ["show", str(study)], "show --trial N --json": ["show", str(study), "--trial", "7", "--json"],
            "report": ["report", str(study)],
            "search --resume": ["search", "--resume", "--out", str(study), "--trials", str(trials), "--sampler",
                                "random", "--effort", "fast", "--trust-code", "--json"]}


def timed(command: list[str]) -> tuple[float, float, int]:
    """Seconds of a command in a process of its own, seconds of processor, and its largest memory in MiB."""
    code = ("import resource, sys\nfrom autocompress.cli.main import main\ncode = main(sys.argv[1:])\n"
            "used = resource.getrusage(resource.RUSAGE_SELF)\n"
            "print('used', used.ru_utime + used.ru_stime, used.ru_maxrss // 1024, file=sys.stderr)\nsys.exit(code)")
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    processor, mebibytes = done.stderr.rpartition("used ")[2].split()
    return seconds, float(processor), int(mebibytes)


def rows(folder: Path, counts: list[int], say: Callable[[str], None] = print) -> list[str]:
    """Lines of a table: for each count of trials, seconds of each command, and bytes of the study and its report."""
    lines = ["| trials | driver per trial | " + " | ".join(f"`{name}`" for name in commands(folder, 1))
             + " | report | study.json | database |", "|---" * (5 + len(commands(folder, 1))) + "|"]
    for trials in counts:
        place = folder / str(trials)
        study = place / "study"
        each = "–"
        if not (study / "report").exists():
            each = f"{1000 * fill(place, trials)[1]:.1f} ms"
        cells = []
        for name, command in commands(study, trials).items():
            seconds, processor, mebibytes = timed(command)
            cells.append(f"{seconds:.1f} s ({processor:.1f} s), {mebibytes} MiB")
            say(f"{trials} trials, {name}: {cells[-1]}")
        sizes = [path.stat().st_size / 1e6 for path in (study / "report" / "pareto.html", study / "study.json",
                                                       study / "study.db")]
        assert len(open_study(study).candidates) >= trials
        lines.append(f"| {trials:,} | {each} | " + " | ".join(cells) + " | "
                     + " | ".join(f"{size:.1f} MB" for size in sizes) + " |")
    return lines
