"""The search: ask → decode → project → evaluate → tell, then promotion up the fidelity ladder."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Literal

import msgspec
import optuna
from optuna.trial import TrialState

from autocompress.core.budget import Budget
from autocompress.core.evaluation import Candidate, Evaluation
from autocompress.core.front import OBJECTIVES, best
from autocompress.errors import AutocompressError, EnvironmentFault, InfeasibleError, TrialError
from autocompress.search import fidelity
from autocompress.search.solving import SolverSampler, distributions
from autocompress.search.storage import candidates, close_interrupted, store_candidate, store_rung
from autocompress.search.workers import Inline, Processes
from autocompress.space.projection import Projection
from autocompress.space.space import Values

UNIFORM_BITS = (4, 8, 3, 2)
WARM = "warm start"
"""The origin of trials that were given to begin with."""
FAILURES_BEFORE_JUDGING = 5
MAX_FAILURE_SHARE = 0.5


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How long and how to search. `seconds` bounds the wall clock from `started` (a `time.perf_counter()`), of
    which `reserve_seconds` are left for export and verification."""

    trials: int = 32
    seconds: float | None = None
    reserve_seconds: float = 0.0
    schedule: fidelity.Schedule = fidelity.Schedule()


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Progress, for whoever shows it."""

    kind: Literal["phase", "start", "result"]
    text: str = ""
    candidate: Candidate | None = None
    done: int = 0
    total: int = 0
    feasible: int = 0
    best: Candidate | None = None
    seconds_left: float | None = None


class Engine:
    """One run over a stored study; everything it learns is stored before the next step."""

    def __init__(self, study: optuna.Study, projection: Projection, budget: Budget,
                 baseline_accuracy: float, settings: Settings, started: float,
                 on_event: Callable[[Event], None], should_stop: Callable[[], bool],
                 seeds: Sequence[Values] = ()) -> None:
        self._seeds = seeds
        self._study, self._projection, self._budget = study, projection, budget
        self._space = projection.space
        self._baseline, self._settings, self._started = baseline_accuracy, settings, started
        self._on_event, self._should_stop = on_event, should_stop
        self._distributions = distributions(projection.space)
        self._began = time.perf_counter()
        self.overhead_seconds = 0.0
        self._always = 0

    def candidates(self) -> list[Candidate]:
        """All trials, judged by their highest rung against the budget."""
        return judged(candidates(self._study), self._budget, self._baseline)

    def run(self, pool: Inline | Processes) -> None:
        """Calibrate, then promote. InfeasibleError when nothing inside the budget came out; EnvironmentFault
        when most trials fail."""
        close_interrupted(self._study)
        began = time.perf_counter()
        self._enqueue_first()
        self.overhead_seconds += time.perf_counter() - began
        self._calibrate(pool)
        schedule = self._settings.schedule
        self._promote(pool, fidelity.SHORT, schedule.short, schedule.short_share)
        self._promote(pool, fidelity.LONG, max(schedule.long, pool.jobs), 1.0)
        if not self._should_stop() and best(self.candidates(), self._budget, self._baseline) is None:
            raise InfeasibleError(nearest(self.candidates(), self._budget, self._baseline))

    def _enqueue_first(self) -> None:
        """What is always tried: the seeds, a solver's solutions, where there is one, and uniform plans of one ratio and
        width: gains are honest only beside those, so a seed that is one of them counts as that."""
        if self._study.get_trials(deepcopy=False):
            return
        sampler = self._study.sampler
        widths: list[int | None] = [bits for bits in UNIFORM_BITS if bits in self._space.weight_bits]
        solved = sampler.solutions() if isinstance(sampler, SolverSampler) else []
        uniform = [self._space.uniform(bits) for bits in (widths[:2] if solved else widths) or [None]]
        # A short search tries other things too.
        first = [(fidelity.SOLVER, values) for values in solved[:max(1, self._settings.trials // 4)]]
        first += [("uniform", values) for values in uniform[:max(1, self._settings.trials // 2)]]
        known = {self._projection.project(values).plan.fingerprint for _, values in first}
        warm = [(WARM, dict(values)) for values in self._seeds
                if self._projection.project(values).plan.fingerprint not in known]
        seen = set()
        for origin, values in [*warm[:max(1, self._settings.trials // 4)], *first]:
            fingerprint = self._projection.project(values).plan.fingerprint
            if fingerprint not in seen:
                seen.add(fingerprint)
                self._study.enqueue_trial(values, user_attrs={"origin": origin})
        self._always = len(seen)

    def _calibrate(self, pool: Inline | Processes) -> None:
        total = self._settings.trials
        known = {c.plan.fingerprint: c for c in self.candidates() if c.plan and c.evaluations}
        count = sum(1 for c in self.candidates() if "process was stopped" not in c.reason)
        pending: dict[Future[Evaluation], tuple[optuna.Trial, Candidate]] = {}
        self._on_event(Event(kind="phase", text="calibrating candidates", total=total))
        while True:
            while len(pending) < pool.jobs and count < total and self._open(self._settings.schedule.calibration_share):
                began = time.perf_counter()
                trial, candidate = self._ask()
                self.overhead_seconds += time.perf_counter() - began
                count += 1
                twin = known.get(candidate.plan.fingerprint) if candidate.plan else None
                if twin is not None:
                    self._close(trial, msgspec.structs.replace(
                        candidate, status="duplicate", evaluations=twin.evaluations[:1], duplicate_of=twin.trial,
                        reason=f"same plan as trial {twin.trial}"), count)
                    continue
                assert candidate.plan is not None
                self._on_event(Event(kind="start", text=f"trial {trial.number}", candidate=candidate))
                pending[pool.submit(candidate.plan, fidelity.CALIBRATED)] = trial, candidate
            if not pending:
                return
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                trial, candidate = pending.pop(future)
                if self._should_stop() and future.exception() is not None:
                    continue  # cut short by the user: stays open, and is queued again on resume
                candidate = self._finished(trial, candidate, future)
                if candidate.plan and candidate.evaluations:
                    known[candidate.plan.fingerprint] = candidate
                self._close(trial, candidate, count)

    def _ask(self) -> tuple[optuna.Trial, Candidate]:
        trial = self._study.ask(self._distributions)
        origin = str(trial.user_attrs.get("origin", type(self._study.sampler).__name__))
        projected = self._projection.project(trial.params)
        trial.set_user_attr("squeeze", projected.squeeze)
        return trial, Candidate(trial=trial.number, status="running", plan=projected.plan, origin=origin)

    def _finished(self, trial: optuna.Trial, candidate: Candidate, future: Future[Evaluation]) -> Candidate:
        error = future.exception()
        if isinstance(error, BrokenProcessPool):
            raise EnvironmentFault("a worker process died, perhaps for lack of memory; resume with fewer --jobs")
        if isinstance(error, AutocompressError | KeyboardInterrupt):
            raise error
        if error is not None:
            trial.set_user_attr("traceback", "".join(traceback.format_exception(error))[-4000:])
            return msgspec.structs.replace(candidate, status="failed", reason=describe_failure(error))
        evaluation = future.result()
        if reason := not_finite(evaluation):
            return msgspec.structs.replace(candidate, status="failed", reason=reason)
        return judge(msgspec.structs.replace(candidate, evaluations=(evaluation,)), self._budget, self._baseline)

    def _close(self, trial: optuna.Trial, candidate: Candidate, count: int) -> None:
        began = time.perf_counter()
        store_candidate(trial, candidate)
        if candidate.metrics:
            for name, excess in self._budget.excess(candidate.metrics, self._baseline).items():
                trial.set_constraint(name, excess)
            self._study.tell(trial, [candidate.metrics[name] for name in OBJECTIVES])
        else:
            self._study.tell(trial, state=TrialState.FAIL)
        everyone = self.candidates()
        self.overhead_seconds += time.perf_counter() - began
        self._on_event(self._result_event(candidate, everyone, count, self._settings.trials))
        failed = sum(c.status == "failed" for c in everyone)
        if failed > MAX_FAILURE_SHARE * len(everyone) and len(everyone) >= FAILURES_BEFORE_JUDGING:
            raise EnvironmentFault(f"at least half of the candidates must be evaluated, but {failed} of "
                                   f"{len(everyone)} failed, the last with: {candidate.reason or 'see trials.csv'}")

    def _promote(self, pool: Inline | Processes, rung: int, places: int, share: float) -> None:
        chosen = fidelity.promote(self.candidates(), self._budget, rung, places)
        if not chosen or self._should_stop():
            return
        self._on_event(Event(kind="phase", text=f"candidates {fidelity.RUNG_NAMES[rung]}", total=len(chosen)))
        waves = math.ceil(len(chosen) / pool.jobs)
        seconds = self._slice(share, waves)  # the same for all: they are compared
        for wave in range(waves):
            if not self._open(1.0):
                return
            batch = chosen[wave * pool.jobs:(wave + 1) * pool.jobs]
            for candidate in batch:
                self._on_event(Event(kind="start", text=f"trial {candidate.trial}", candidate=candidate))
            futures = [(c, pool.submit(c.plan, rung, seconds)) for c in batch if c.plan]
            for number, (candidate, future) in enumerate(futures):
                error = future.exception()
                if error is None and not (reason := not_finite(future.result())):
                    store_rung(self._study, candidate.trial, future.result())
                elif error is None:  # as below
                    self._study.set_user_attr(f"failure:{candidate.trial}:{rung}", reason)
                elif isinstance(error, AutocompressError | KeyboardInterrupt | BrokenProcessPool):
                    raise error
                elif self._should_stop():
                    return
                else:  # the candidate keeps what it reached
                    self._study.set_user_attr(f"failure:{candidate.trial}:{rung}", describe_failure(error))
                everyone = self.candidates()
                now = next(c for c in everyone if c.trial == candidate.trial)
                self._on_event(self._result_event(now, everyone, wave * pool.jobs + number + 1, len(chosen)))

    def _result_event(self, candidate: Candidate, everyone: list[Candidate], done: int, total: int) -> Event:
        return Event(kind="result", candidate=candidate, done=done, total=total,
                     feasible=sum(c.status == "complete" for c in everyone),
                     best=best(everyone, self._budget, self._baseline), seconds_left=self._left(1.0))

    def _left(self, share: float) -> float | None:
        if self._settings.seconds is None:
            return None
        end = self._started + self._settings.seconds - self._settings.reserve_seconds
        return self._began + share * max(0.0, end - self._began) - time.perf_counter()

    def _open(self, share: float) -> bool:
        """Whether the phase that ends at `share` of the time may start something. One trial always may, and what
        is always tried as long as there is time at all."""
        if self._should_stop():
            return False
        left, whole = self._left(share), self._left(1.0)
        if left is None or whole is None or left > 0:
            return True
        states = (TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING)
        begun = len(self._study.get_trials(deepcopy=False, states=states))
        return begun == 0 or (whole > 0 and begun < self._always)

    def _slice(self, share: float, waves: int) -> float | None:
        left = self._left(share)
        if left is None:
            return None
        return max(1.0, left / waves)


def judge(candidate: Candidate, budget: Budget, baseline_accuracy: float) -> Candidate:
    """Complete or infeasible, by the metrics at the highest rung, with the reason."""
    if candidate.status in ("failed", "duplicate", "pruned") or not candidate.metrics:
        return candidate
    excess = {n: v for n, v in budget.excess(candidate.metrics, baseline_accuracy).items() if v > 1e-12}
    if not excess:
        return msgspec.structs.replace(candidate, status="complete", reason="")
    texts = [f"{name} over by {100 * value:.1f}{' points' if name == 'max_drop' else '%'}"
             for name, value in excess.items()]
    return msgspec.structs.replace(candidate, status="infeasible", reason=", ".join(texts))


def judged(everyone: list[Candidate], budget: Budget, baseline_accuracy: float) -> list[Candidate]:
    """`judge` for all."""
    return [judge(c, budget, baseline_accuracy) for c in everyone]


def nearest(everyone: list[Candidate], budget: Budget, baseline_accuracy: float) -> str:
    """Why nothing is feasible: the nearest candidate and the constraint that blocks it."""
    measured = [c for c in everyone if c.metrics]
    if not measured:
        reasons = sorted({c.reason for c in everyone if c.reason}) or ["no trial was run"]
        return f"no candidate could be evaluated: {reasons[0]}"
    closest = min(measured, key=lambda c: max(0.0, *budget.excess(c.metrics, baseline_accuracy).values()))
    return (f"no candidate meets {budget.describe()}; nearest is trial {closest.trial}: {closest.reason}. "
            "Give it more trials or time, or raise that bound")


def not_finite(evaluation: Evaluation) -> str:
    """Which metric is NaN or infinite, as a reason, or nothing."""
    bad = [name for name, value in evaluation.metrics.items() if not math.isfinite(value)]
    return f"nan: {bad[0]} is not finite" if bad else ""


def describe_failure(error: BaseException) -> str:
    """One line for the table: the kind of fault first."""
    first = next(iter(str(error).splitlines()), "") or type(error).__name__
    if isinstance(error, MemoryError) or "out of memory" in first.lower():
        return f"oom: {first}"
    return first if isinstance(error, TrialError) else f"{type(error).__name__}: {first}"

