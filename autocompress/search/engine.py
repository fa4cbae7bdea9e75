"""The search: ask → decode → project → evaluate → tell, then promotion up the fidelity ladder."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from typing import Literal

import msgspec
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from autocompress.core.budget import Budget
from autocompress.core.evaluation import CALIBRATED, LONG, RUNG_NAMES, SHORT, Candidate, Evaluation
from autocompress.core.front import objectives
from autocompress.core.metric import Reference
from autocompress.errors import AutocompressError, EnvironmentFault, InfeasibleError, OutOfTime
from autocompress.search import fidelity
from autocompress.search.clock import Clock, Settings
from autocompress.search.executors.base import POLL_SECONDS, Executor, Job, Outcome, WorkerLost
from autocompress.search.jobs import Assignment, Rung
from autocompress.search.ledger import Ledger
from autocompress.search.left_to_try import MAX_REPEATS, repeats
from autocompress.search.samplers.initial_trials import ALWAYS_SOLVED, initial_trials
from autocompress.search.samplers.targets import SETTING
from autocompress.search.samplers.thompson_sampler import distributions
from autocompress.search.storage import (
    FIRST,
    STOPPED,
    TRACEBACK,
    candidates,
    failures,
    store_candidate,
    store_failure,
    store_rung,
    traceback_of,
)
from autocompress.search.stored_trials import trial_counts
from autocompress.search.study_store import StudyStore
from autocompress.search.trial_status import as_duplicate, describe_failure, judge, nearest, not_finite
from autocompress.search.trial_storage import together
from autocompress.space.projection import Projection
from autocompress.space.space import Values
from autocompress.techniques.knobs import from_stored, stored

log = logging.getLogger(__name__)

FAILURES_BEFORE_JUDGING = 5
MAX_FAILURE_SHARE = 0.5
# Processes whose cores one long training takes together. Two candidates on a core each came out below one on both
# (`benchmarks/fashion.md`); that it holds up to four is assumed.
MOST_THREADS = 4
MOST_LOSSES = 2  # how often an evaluation whose worker was lost is asked for again


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Progress, for whoever shows it. `text` is the phase; of a start, the trial; of "progress", what is at `done` of
    `total` steps within the phase, a few times a second or more. `workers` evaluate at once, as many as there are."""

    kind: Literal["phase", "start", "result", "progress"]
    text: str = ""
    candidate: Candidate | None = None
    done: int = 0
    total: int = 0
    feasible: int = 0
    best: Candidate | None = None
    seconds_left: float | None = None
    rung: int = 0
    workers: int = 0


class Engine:
    """One run over a stored study; everything it learns is stored before the next step.

    `seeds` are tried first. `fit` moves what the sampler draws into the budget, where it does not do so itself.
    """

    def __init__(self, store: StudyStore, projection: Projection, budget: Budget, reference: Reference,
                 settings: Settings, started: float, on_event: Callable[[Event], None], should_stop: Callable[[], bool],
                 seeds: Sequence[Values] = (), fit: Callable[[Values], Values] | None = None) -> None:
        self._seeds, self._fit, self._study, self._drivers = seeds, fit, store.study, store.drivers
        self._projection, self._budget, self._reference, self._settings = projection, budget, reference, settings
        self._on_event, self._should_stop = on_event, should_stop
        self._distributions = distributions(projection.space)
        self._clock = Clock(settings, started)
        self.overhead_seconds = 0.0
        self._always = self._workers = 0
        self._ledger: Ledger | None = None
        self._known: dict[str, Candidate] = {}
        self._twins: dict[str, list[tuple[optuna.Trial, Candidate]]] = {}
        self._lost: list[Assignment] = []
        self._count, self._repeats, self._most_threads = 0, 0, MOST_THREADS
        # Trainings that came to their end, and that failed.
        self._trained = self._untrained = 0
        self._rungs = {CALIBRATED: Rung("calibrating candidates", settings.trials),
                       **{rung: Rung(f"candidates {RUNG_NAMES[rung]}") for rung in (SHORT, LONG)}}
        self._shown: Rung | None = None

    def candidates(self) -> list[Candidate]:
        """All trials, judged by their best rung against the budget."""
        return self._ledger.candidates if self._ledger is not None else self._read().candidates

    def _read(self) -> Ledger:
        return Ledger(self._budget, self._reference, candidates(self._study))

    def run(self, executor: Executor, receive: Callable[[Outcome], Evaluation] = lambda outcome: outcome.evaluation,
            ) -> None:
        """Calibrate, then promote, on an open executor; `receive` keeps what came of an evaluation and completes its
        metrics, in this thread. InfeasibleError when nothing inside the budget came out; EnvironmentFault when most
        trials fail."""
        with self._drivers.present():
            self._run(executor, receive)

    def _run(self, executor: Executor, receive: Callable[[Outcome], Evaluation]) -> None:
        for trial, candidate in self._drivers.interrupted()[0]:  # killed between storing and closing
            self._tell_study(trial, candidate)
        self._ledger = ledger = self._read()
        before = ledger.candidates
        self._known = {c.plan.fingerprint: c for c in before if c.plan and c.evaluations and c.duplicate_of is None}
        self._count = self._rungs[CALIBRATED].done = sum(1 for c in before if STOPPED not in c.reason)
        self._repeats = repeats(before)
        reached = {(c.trial, e.rung) for c in before for e in c.evaluations}
        failed = {key: reason for key, reason in failures(self._study).items() if key not in reached}
        for (number, rung), reason in failed.items():  # what failed would fail again
            if not reason.startswith("timeout"):
                self._rungs[rung].started.add(number)
        self._trained, self._untrained = sum(rung > 0 for _, rung in reached), len(failed)
        began, self._most_threads = time.perf_counter(), MOST_THREADS if executor.shares_cores else 1
        self._enqueue_first()
        self.overhead_seconds += time.perf_counter() - began
        running: dict[Future[Outcome], Assignment] = {}
        stopped = False
        while True:
            while len(running) < (jobs := executor.jobs):
                self._workers = jobs
                if (assignment := self._next(jobs, list(running.values()))) is None:
                    break
                running[executor.submit(self._job(assignment))] = assignment
            if not running and not self._waits_for_others():
                break
            done = wait(running, POLL_SECONDS, FIRST_COMPLETED).done
            if not stopped and self._should_stop():
                executor.stop()
                stopped = True
            for future in sorted(done, key=lambda future: future.exception() is not None):  # a failure may end it all
                self._take(running.pop(future), future, receive)
        if self._repeats >= MAX_REPEATS and self._count < self._settings.trials:
            log.warning("tried no more than %d of %d trials: the last %d proposals repeated plans that were tried, so "
                        "this space has few others", self._count, self._settings.trials, self._repeats)
        if not self._should_stop() and ledger.best is None:
            raise InfeasibleError(nearest(ledger.candidates, self._budget, self._reference))

    def _waits_for_others(self) -> bool:
        """Whether there may be more to do once it is known what other drivers are at."""
        if self._should_stop() or not self._open(1.0) or not self._drivers.are_undecided:
            return False
        time.sleep(POLL_SECONDS)
        return True

    def _enqueue_first(self) -> None:
        while FIRST not in self._study.user_attrs and not self._drivers.claim(FIRST):
            if self._should_stop():
                return
            time.sleep(POLL_SECONDS)
        there = trial_counts(self._study).total()
        if FIRST in self._study.user_attrs or any(c.status != "running" for c in self.candidates()):
            return
        first = initial_trials(self._study.sampler, self._projection, self._settings.trials, self._seeds)
        for origin, values in first[there:]:  # a process may have been killed in between
            self._study.enqueue_trial(stored(values), user_attrs={"origin": origin})
        self._study.set_user_attr(FIRST, len(first))
        self._drivers.done(FIRST)
        solved = sum(origin == fidelity.SOLVER for origin, _ in first)
        self._always = len(first) - max(0, solved - ALWAYS_SOLVED)

    # -- what to run next --------------------------------------------------------------------------------

    def _next(self, jobs: int, running: list[Assignment]) -> Assignment | None:
        """What lost its worker, else a new candidate as long as there are any to try, else a promotion: one of `jobs`
        workers that is free never waits for one that is busy, unless a clock gives all of a rung the same time
        anyway."""
        if self._lost and not self._should_stop():
            return self._lost.pop(0)
        self._hear_of_others()
        schedule, assignment = self._settings.schedule, self._new_trial()
        if assignment is not None:
            return self._started_at(assignment)
        everyone, timed = self.candidates(), self._settings.seconds is not None
        together = max(1, jobs // self._most_threads)
        short_share = min(1.0, schedule.short_share + self._clock.late_share)
        for level, places, lanes, share in ((SHORT, schedule.short, jobs, short_share),
                                            (LONG, schedule.long, together, 1.0)):
            threads = jobs // lanes
            before = any(other.rung < level for other in running)
            if not self._open(1.0) or len(running) >= lanes or (before and (timed or threads > 1)):
                return None
            rung = self._rungs[level]
            places = math.ceil(places / lanes) * lanes  # the last of them trained beside others cost no time
            elsewhere = {number for number, at in map(_training, self._drivers.claimed()) if at == level}
            promoted = fidelity.promote(everyone, self._budget, self._reference, level, places,
                                        rung.started | elsewhere, timed)
            if promoted and self._drivers.claim(f"{promoted[0].trial}:{level}"):
                if not rung.started:  # the same for all: they are compared
                    rung.seconds = self._clock.training_seconds(share, math.ceil(len(promoted) / lanes), promoted)
                rung.total = len(rung.started) + len(promoted)
                rung.started.add(promoted[0].trial)
                assert promoted[0].plan is not None
                return self._started_at(Assignment(promoted[0], promoted[0].plan, level, rung.seconds, threads))
        return None

    def _started_at(self, assignment: Assignment) -> Assignment:
        rung = self._rungs[assignment.rung]
        if rung is not self._shown:
            self._shown = rung
            self._on_event(Event(kind="phase", text=rung.phase, total=rung.total))
        self._on_event(Event(kind="start", text=f"trial {assignment.candidate.trial}",
                             candidate=assignment.candidate, rung=assignment.rung, workers=self._workers))
        return assignment

    def _new_trial(self) -> Assignment | None:
        """The next candidate that is not one that there is already."""
        while (self._count < self._settings.trials and self._repeats < MAX_REPEATS
               and self._open(self._clock.calibration_share(self._count))
               and self._drivers.may_ask(self._settings.trials)):
            began = time.perf_counter()
            with together(self._study):
                trial, candidate = self._ask()
            assert candidate.plan is not None
            try:
                other = self._drivers.begin(trial, candidate.plan.fingerprint)
            except UpdateFinishedTrialError:
                continue
            self._all.put(candidate)
            self.overhead_seconds += time.perf_counter() - began
            self._count += 1
            twin, twins = self._known.get(candidate.plan.fingerprint), self._twins.get(candidate.plan.fingerprint)
            if twin is None and twins is None and other is None:
                self._repeats, self._twins[candidate.plan.fingerprint] = 0, []
                return Assignment(candidate, candidate.plan, CALIBRATED, trial=trial)
            self._repeats += 1
            if twin is not None:
                self._close(trial, as_duplicate(candidate, twin))
            elif twins is not None:  # to be closed with the one that is under way
                twins.append((trial, candidate))
            elif other is not None:
                self._close(trial, msgspec.structs.replace(
                    candidate, status="duplicate", duplicate_of=other,
                    reason=f"same plan as trial {other}, which another driver evaluates"))
        return None

    def _hear_of_others(self) -> None:
        """Take in what other drivers of the study have done, and take over what those have left that are gone."""
        finished, queued = self._drivers.abandoned()
        for trial, candidate in finished:
            self._tell_study(trial, candidate)
        self._count -= len(queued)
        for candidate in self._drivers.news():
            self._count += not self._all.has(candidate.trial)
            self._all.put(candidate)
            if candidate.plan is not None and candidate.evaluations and candidate.duplicate_of is None:
                self._known.setdefault(candidate.plan.fingerprint, candidate)

    def _ask(self) -> tuple[optuna.Trial, Candidate]:
        trial, sampler = self._study.ask(self._distributions), self._study.sampler
        origin = trial.user_attrs.get("origin")
        values: Values = from_stored(trial.params)
        if self._fit is not None and not origin:
            values = self._fit(values)
        projected = self._projection.project(values)
        trial.set_user_attr("squeeze", projected.squeeze)
        if self._fit is not None or projected.squeeze or projected.bits_cap < 32:  # it may not be what was proposed
            trial.set_user_attr(SETTING, stored(projected.values))
        return trial, Candidate(trial=trial.number, status="running", plan=projected.plan,
                                origin=origin or str(getattr(sampler, "name", type(sampler).__name__)))

    # -- what came of it ---------------------------------------------------------------------------------

    def _take(self, assignment: Assignment, future: Future[Outcome], receive: Callable[[Outcome], Evaluation]) -> None:
        """Store a result, good or bad. What the user or the clock cut short stays open: resuming tries it again."""
        error, evaluation = future.exception(), None
        if error is None:
            try:
                evaluation = receive(future.result())
            except Exception as failed:
                error = failed
        if error is not None and (self._should_stop() or isinstance(error, OutOfTime)):
            return
        if isinstance(error, WorkerLost) and assignment.losses < MOST_LOSSES:
            log.info("trial %d is evaluated again: %s", assignment.candidate.trial, error)
            self._lost.append(replace(assignment, losses=assignment.losses + 1))
            return
        if isinstance(error, AutocompressError | KeyboardInterrupt):
            raise error
        reason = describe_failure(error) if error is not None else not_finite(evaluation) if evaluation else ""
        if assignment.trial is None:
            self._climbed(assignment, evaluation, error, reason)
            self._require_success(reason)
            return
        self._clock.calibration_ended()
        candidate = (msgspec.structs.replace(assignment.candidate, status="failed", reason=reason)
                     if reason or evaluation is None else
                     judge(msgspec.structs.replace(assignment.candidate, evaluations=(evaluation,)), self._budget,
                           self._reference))
        if candidate.evaluations:
            self._known[assignment.plan.fingerprint] = candidate
        self._close(assignment.trial, candidate, error)
        for trial, twin in self._twins.pop(assignment.plan.fingerprint, []):
            self._close(trial, as_duplicate(twin, candidate))

    def _climbed(self, assignment: Assignment, evaluation: Evaluation | None, error: BaseException | None,
                 reason: str) -> None:
        trial = assignment.candidate.trial
        if reason or evaluation is None:  # the candidate keeps what it reached
            store_failure(self._study, trial, assignment.rung, reason, error)
            self._untrained += 1
        else:
            self._trained += 1
            store_rung(self._study, trial, evaluation)
            self._all.add(trial, evaluation)
        self._drivers.done(f"{trial}:{assignment.rung}")
        self._tell(self._all.of(trial), self._rungs[assignment.rung])

    def _close(self, trial: optuna.Trial, candidate: Candidate, error: BaseException | None = None) -> None:
        began = time.perf_counter()
        try:
            with together(self._study):
                if not self._drivers.holds(trial):
                    raise UpdateFinishedTrialError
                if error is not None:
                    trial.set_user_attr(TRACEBACK, traceback_of(error))
                store_candidate(trial, candidate)
                self._tell_study(trial, candidate)
        except UpdateFinishedTrialError:  # this driver was not heard of for long, as on a machine that slept
            log.warning("trial %d was taken over by another driver: what came of it here is left out", trial.number)
            return
        finally:
            self._drivers.end(trial)
        self._all.put(candidate)
        self.overhead_seconds += time.perf_counter() - began
        self._tell(candidate, self._rungs[CALIBRATED])
        self._require_success(candidate.reason)

    def _tell_study(self, trial: optuna.Trial, candidate: Candidate) -> None:
        """Close a trial whose candidate is stored."""
        if candidate.metrics:
            for name, excess in self._budget.excess(candidate.metrics, self._reference).items():
                if name not in trial.constraints:  # a process may have been killed in between
                    trial.set_constraint(name, excess)
            names = objectives(self._reference.metric, candidate.metrics)
            self._study.tell(trial, [candidate.metrics[name] for name in names])
        else:
            self._study.tell(trial, state=TrialState.FAIL)

    def _require_success(self, reason: str) -> None:
        """EnvironmentFault when most evaluations fail, calibrations and trainings together, the last for `reason`."""
        failed = self._all.failed + self._untrained
        tried = self._all.judged + self._trained + self._untrained
        if failed > MAX_FAILURE_SHARE * tried and tried >= FAILURES_BEFORE_JUDGING:
            raise EnvironmentFault(f"at least half of the evaluations must succeed, but {failed} of {tried} failed, "
                                   f"the last with: {reason or 'see trials.csv'}")

    @property
    def _all(self) -> Ledger:
        assert self._ledger is not None
        return self._ledger

    def _tell(self, candidate: Candidate, rung: Rung) -> None:
        rung.done += 1
        self._on_event(Event(
            kind="result", text=rung.phase, candidate=candidate, done=rung.done, total=rung.total,
            feasible=self._all.feasible, best=self._all.best, seconds_left=self._clock.left(1.0),
            workers=self._workers))

    def _job(self, assignment: Assignment) -> Job:
        return Job(plan=assignment.plan, rung=assignment.rung, seconds=assignment.seconds, threads=assignment.threads,
                   seconds_left=self._clock.seconds_left(assignment.trial is None, self._count),
                   limit=self._clock.limit(is_first=not self._known),
                   samples=self._settings.samples.get(assignment.rung))

    def _open(self, share: float) -> bool:
        """Whether the phase that ends at `share` of the time may start something."""
        return not self._should_stop() and self._clock.is_open(share, len(self._all), self._always)


def _training(claim: str) -> tuple[int, int]:
    """The trial and the rung that a claim is of; of any other, none."""
    number, _, rung = claim.partition(":")
    return (int(number), int(rung)) if number.isdigit() and rung.isdigit() else (-1, -1)
