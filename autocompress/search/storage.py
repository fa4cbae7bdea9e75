"""What a study's database holds: what it must agree with, and its candidates.

A trial stores its rung-0 candidate; evaluations at higher rungs come later, when the trial is closed, and are
kept beside it as attributes of the study. Everything is written the moment it is known.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
import optuna
from optuna.trial import FrozenTrial, TrialState

from autocompress.core import wire
from autocompress.core.evaluation import Candidate, Evaluation
from autocompress.core.front import Direction
from autocompress.core.quiet import quiet
from autocompress.errors import StudyMismatchError
from autocompress.search.databases import storage_errors
from autocompress.search.stored_trials import StoredTrial, stored_trials, trial_counts

T = TypeVar("T")
CANDIDATE, IDENTITY, RUNG, FAILURE = "candidate", "identity", "rung", "failure"
TRACEBACK, TRIES, FIRST, REASON = "traceback", "tries", "first trials", "reason"
# The reason of trials whose process was killed again and again.
STOPPED = "the process was stopped before it finished"


def closed_trials(everyone: Iterable[Candidate]) -> int:
    """The number of trials that came to an end of their own."""
    return sum(candidate.status != "running" and STOPPED not in candidate.reason for candidate in everyone)


def create_study(storage: optuna.storages.BaseStorage, name: str, sampler: optuna.samplers.BaseSampler | None,
                 identity: Mapping[str, Any], objectives: Mapping[str, Direction]) -> optuna.Study:
    """A new study with its identity; `objectives` are directions by metric."""
    with storage_errors(name), quiet("optuna", logging.WARNING):
        study = optuna.create_study(storage=storage, study_name=name, sampler=sampler,
                                    directions=[*objectives.values()])
        study.set_user_attr(IDENTITY, dict(identity))
        return study


def load_study(storage: optuna.storages.BaseStorage, name: str,
               sampler: optuna.samplers.BaseSampler | None = None) -> optuna.Study | None:
    """A stored study, or None when there is none of this name."""
    with storage_errors(name):
        if name not in optuna.get_all_study_names(storage):
            return None
        return optuna.load_study(storage=storage, study_name=name, sampler=sampler)


def delete_study(storage: optuna.storages.BaseStorage, name: str) -> None:
    """Remove a stored study, if there is one of this name."""
    with storage_errors(name):
        if name in optuna.get_all_study_names(storage):
            optuna.delete_study(study_name=name, storage=storage)


def require_same(study: optuna.Study, identity: Mapping[str, Any],
                 objectives: Mapping[str, Direction],
                 former: Mapping[str, Collection[Any]] | None = None) -> None:
    """StudyMismatchError that lists what differs between the stored study and what was asked. `former`: by field,
    further values that stand for the same in what earlier releases stored."""
    stored, former = study.user_attrs.get(IDENTITY, {}), former or {}
    differences = [f"{key}: stored {stored.get(key)!r}, now {identity.get(key)!r}"
                   for key in sorted({*stored, *identity})
                   if stored.get(key) != identity.get(key) and stored.get(key) not in former.get(key, ())]
    if [d.name.lower() for d in study.directions] != list(objectives.values()):
        differences.append(f"directions: stored {[d.name.lower() for d in study.directions]}, "
                           f"now {list(objectives.values())}")
    if differences:
        raise StudyMismatchError(f"study {study.study_name!r} was made with other settings: " + "; ".join(differences)
                                 + ". Choose another --out, or start afresh with --force-new-study")


def store_candidate(trial: optuna.Trial, candidate: Candidate) -> None:
    """Keep a trial's candidate."""
    trial.set_user_attr(CANDIDATE, wire.encode(candidate.unjudged))


def store_rung(study: optuna.Study, trial: int, evaluation: Evaluation) -> None:
    """Keep the evaluation of a closed trial at a higher rung, or anew at the same one."""
    study.set_user_attr(f"{RUNG}:{trial}:{evaluation.rung}", wire.encode(evaluation))


def store_failure(study: optuna.Study, trial: int, rung: int, reason: str, error: BaseException | None) -> None:
    """Keep why a closed trial did not reach a higher rung, with the traceback of the error, if there was one."""
    if error is not None:
        study.set_user_attr(f"{TRACEBACK}:{trial}:{rung}", traceback_of(error))
    study.set_user_attr(f"{FAILURE}:{trial}:{rung}", reason)


def traceback_of(error: BaseException) -> str:
    """The end of it, which is what tells."""
    return "".join(traceback.format_exception(error))[-4000:]


def failures(study: optuna.Study) -> dict[tuple[int, int], str]:
    """Why candidates failed above their calibration, by trial and rung; they may have got there later."""
    reasons = {}
    for key, reason in study.user_attrs.items():
        if key.startswith(f"{FAILURE}:"):
            _, trial, rung = key.split(":")
            reasons[int(trial), int(rung)] = str(reason)
    return reasons


def candidates(study: optuna.Study) -> list[Candidate]:
    """Every trial as a candidate, with all its rungs, in order of number."""
    higher = rungs_by_trial(study.user_attrs)
    return [candidate_of(trial, higher.get(trial.number, {}), study.study_name)
            for trial in stored_trials(study, CANDIDATE, REASON) if trial.state is not TrialState.WAITING]


def rungs_by_trial(attributes: Mapping[str, Any]) -> dict[int, dict[str, str]]:
    """The stored evaluations of closed trials at higher rungs, by trial and by key, of a study's attributes."""
    higher: dict[int, dict[str, str]] = {}
    for key, text in attributes.items():
        if key.startswith(f"{RUNG}:"):
            higher.setdefault(int(key.split(":")[1]), {})[key] = text
    return higher


def candidate_of(trial: StoredTrial | FrozenTrial, higher: Mapping[str, str], name: str) -> Candidate:
    """A trial of the study of that name as a candidate, with its evaluations at higher rungs as they are stored."""
    candidate = _candidate(trial)
    evaluations = [_decoded(text, Evaluation, f"{name} {key}") for key, text in higher.items()]
    by_rung = {e.rung: e for e in (*candidate.evaluations, *evaluations)}
    return msgspec.structs.replace(candidate, evaluations=tuple(by_rung[rung] for rung in sorted(by_rung)))


@lru_cache(maxsize=2**14)
def _decoded(text: str, kind: type[T], origin: str) -> T:
    """Once for each stored text: a search asks for all its candidates again and again."""
    return wire.decode(text, kind, origin)


def _candidate(trial: StoredTrial | FrozenTrial) -> Candidate:
    text = trial.user_attrs.get(CANDIDATE)
    if text is not None:
        candidate: Candidate = _decoded(text, Candidate, f"trial {trial.number}")
        return candidate
    if trial.state is TrialState.RUNNING:
        return Candidate(trial=trial.number, status="running", reason="not finished")
    return Candidate(trial=trial.number, status="failed", reason=trial.user_attrs.get(REASON, "no result was stored"))


def queue_interrupted(study: optuna.Study, retries: int = 2,
                      is_free: Callable[[FrozenTrial], bool] = lambda trial: True,
                      ) -> tuple[list[tuple[optuna.Trial, Candidate]], list[int]]:
    """Trials that a killed process left running are queued again as they are, at most `retries` times: the same number
    and the same settings, as if nothing had been.

    Args:
        is_free: whether a trial that runs is nobody's.

    Returns:
        Those whose result was stored already, to be closed, and the numbers of those that were queued or have failed.
    """
    finished: list[tuple[optuna.Trial, Candidate]] = []
    queued: list[int] = []
    if not trial_counts(study)[TrialState.RUNNING]:  # Optuna would read all trials to find none
        return finished, queued
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if not is_free(trial):
            continue
        tries = int(trial.user_attrs.get(TRIES, 0)) + 1
        if CANDIDATE in trial.user_attrs:
            finished.append((optuna.Trial(study, trial._trial_id), _candidate(trial)))
            continue
        queued.append(trial.number)
        if tries <= retries:
            study._storage.set_trial_user_attr(trial._trial_id, TRIES, tries)
            study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
        else:
            study._storage.set_trial_user_attr(trial._trial_id, REASON, STOPPED)
            study.tell(trial.number, state=TrialState.FAIL)
    return finished, queued
