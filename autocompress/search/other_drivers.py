"""Several drivers on one study: what one is at, the others leave alone, until it has not been heard of for a while.

A driver writes a lease to each trial that it evaluates, and a claim to the study for each training, and renews both.
No clocks of hosts are compared: a lease is stale when the one who reads it has seen no change of it for
`STALE_SECONDS`, or knows that its process is gone. Optuna offers no test-and-set, so a claim is written, and read again
after a moment: who finds its own has it.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from autocompress.core.evaluation import Candidate
from autocompress.core.files import is_alive
from autocompress.search.storage import REASON, STOPPED, candidate_of, queue_interrupted, rungs_by_trial

log = logging.getLogger(__name__)

LEASE, PLAN, CLAIM = "lease", "plan", "claim"
# Seconds between two renewals, and after how many without one a lease is nobody's.
RENEW_SECONDS, STALE_SECONDS = 10.0, 30.0
# Seconds in which all claims that were written at the same time can be read, and for which what others do is known.
SETTLE_SECONDS, NEWS_SECONDS = 0.3, 1.0
# The claim to begin a trial, which is asked for when no more than so many are left to begin.
ASK, LAST = "ask", 8
# What Optuna calls the settings of a trial that was queued.
QUEUED = "fixed_params"
# In place of a driver: what was claimed is done; a trial was given up.
DONE, NOBODY = "done", "nobody"


class Alone:
    """No other driver can reach the study: its folder is locked."""

    def __init__(self, study: optuna.Study) -> None:
        self._study = study

    @contextmanager
    def present(self) -> Iterator[None]:
        """Be one of the drivers while the body runs."""
        yield

    def interrupted(self) -> tuple[list[tuple[optuna.Trial, Candidate]], list[int]]:
        """Trials that a driver which is gone left open: those whose result was stored, to be closed, and the numbers of
        those that were queued again."""
        return queue_interrupted(self._study)

    def abandoned(self) -> tuple[list[tuple[optuna.Trial, Candidate]], list[int]]:
        """As `interrupted`, while this driver is at work: of drivers that are gone since."""
        return [], []

    def may_ask(self, most: int) -> bool:
        """Whether a further trial may be begun where there are to be `most` of all drivers."""
        return True

    def begin(self, trial: optuna.Trial, plan: str) -> int | None:
        """Say that this driver evaluates a trial of the plan of that fingerprint; returned is the number of another
        driver's trial that is under way and has the same plan. UpdateFinishedTrialError where another driver was given
        the same trial."""
        return None

    def holds(self, trial: optuna.Trial) -> bool:
        """Whether a trial is still this driver's to close."""
        return True

    def end(self, trial: optuna.Trial) -> None:
        """Say that this driver is done with a trial."""

    def claim(self, what: str) -> bool:
        """Whether this driver may do what only one should, until `done` or `leave`."""
        return True

    def done(self, what: str) -> None:
        """Say that what was claimed is done, for good or bad, and needs nobody else."""

    def leave(self, what: str) -> None:
        """Give up a claim: others may do it."""

    def claimed(self) -> set[str]:
        """What others have claimed or done."""
        return set()

    def news(self) -> list[Candidate]:
        """Candidates of others that have changed since this was last asked."""
        return []

    @property
    def are_undecided(self) -> bool:
        """Whether it has yet to be seen if somebody is still at what is open, or somebody is at what is short."""
        return False


class Drivers(Alone):
    """Other drivers may be at work on the study.

    Args:
        study: in a storage that others reach.
        renew_seconds: see `RENEW_SECONDS`; a lease is stale after three times that.
    """

    def __init__(self, study: optuna.Study, renew_seconds: float = RENEW_SECONDS) -> None:
        super().__init__(study)
        self._renew, self._stale = renew_seconds, STALE_SECONDS / RENEW_SECONDS * renew_seconds
        self._me, self._beat = secrets.token_hex(6), 0
        self._trials: dict[int, int] = {}  # numbers by Optuna's id
        self._claims: set[str] = set()
        self._watched: dict[str, tuple[Any, float]] = {}
        self._alive: set[str] = set()  # drivers whose leases were seen to change
        self._seen: dict[int, tuple[TrialState, int]] = {}
        self._attributes: dict[str, Any] = {}
        self._asked = self._looked = -NEWS_SECONDS
        self._lock, self._over = threading.Lock(), threading.Event()

    @contextmanager
    def present(self) -> Iterator[None]:
        """See `Alone`. Leases are renewed by a thread; at the end what is open is given up."""
        self._over.clear()
        thread = threading.Thread(target=self._renew_all, name="leases", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join(self._renew)
            with self._lock:
                trials, claims = list(self._trials), set(self._claims)
            for trial in trials:
                with suppress(Exception):  # it ends in any case, and becomes stale
                    self._storage.set_trial_user_attr(trial, LEASE, {"by": NOBODY})
            for what in claims:
                with suppress(Exception):
                    self.leave(what)
            self._trials.clear()

    @property
    def _storage(self) -> optuna.storages.BaseStorage:
        return self._study._storage

    # -- trials ------------------------------------------------------------------------------------------

    def interrupted(self) -> tuple[list[tuple[optuna.Trial, Candidate]], list[int]]:
        """See `Alone`."""
        return queue_interrupted(self._study, is_free=self._is_free)

    def abandoned(self) -> tuple[list[tuple[optuna.Trial, Candidate]], list[int]]:
        """See `Alone`. Looked for at most once in `NEWS_SECONDS`."""
        if time.monotonic() - self._looked < NEWS_SECONDS:
            return [], []
        self._looked = time.monotonic()
        return self.interrupted()

    def may_ask(self, most: int) -> bool:
        """See `Alone`. Of the last few trials, one at a time is begun."""
        started = self._begun()
        if started < most - LAST:
            return True
        if started >= most or not self.claim(ASK):
            return False
        if self._begun() < most:
            return True
        self.leave(ASK)
        return False

    def _begun(self) -> int:
        return sum(trial.state is not TrialState.WAITING and trial.user_attrs.get(REASON) != STOPPED
                   for trial in self._study.get_trials(deepcopy=False))

    def _is_free(self, trial: FrozenTrial) -> bool:
        return trial._trial_id not in self._trials and self._is_stale(f"trial {trial.number}",
                                                                      trial.user_attrs.get(LEASE))

    def begin(self, trial: optuna.Trial, plan: str) -> int | None:
        """See `Alone`."""
        with self._lock:
            self._trials[trial._trial_id] = trial.number
        self._storage.set_trial_user_attr(trial._trial_id, LEASE, self._lease())
        self._storage.set_trial_user_attr(trial._trial_id, PLAN, plan)
        if QUEUED in self._storage.get_trial(trial._trial_id).system_attrs:  # SQLite may give two drivers the same one
            time.sleep(SETTLE_SECONDS)
            if not self.holds(trial):
                self.end(trial)
                raise UpdateFinishedTrialError(f"trial {trial.number} is another driver's")
        if ASK in self._claims:
            self.leave(ASK)
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        same = [other.number for other in running if other.user_attrs.get(PLAN) == plan and not self._is_free(other)]
        return next((number for number in same if number < trial.number), None)

    def holds(self, trial: optuna.Trial) -> bool:
        """See `Alone`."""
        stored = self._storage.get_trial(trial._trial_id)
        return stored.state is TrialState.RUNNING and (stored.user_attrs.get(LEASE) or {}).get("by") == self._me

    def end(self, trial: optuna.Trial) -> None:
        """See `Alone`."""
        with self._lock:
            self._trials.pop(trial._trial_id, None)

    # -- claims ------------------------------------------------------------------------------------------

    def claim(self, what: str) -> bool:
        """See `Alone`."""
        key = f"{CLAIM}:{what}"
        self._attributes = self._storage.get_study_user_attrs(self._study._study_id)
        if not self._may_have(key):
            return False
        self._write(key, self._lease())
        time.sleep(SETTLE_SECONDS)
        self._attributes = self._storage.get_study_user_attrs(self._study._study_id)
        if self._attributes[key].get("by") != self._me:
            return False
        with self._lock:
            self._claims.add(what)
        return True

    def done(self, what: str) -> None:
        """See `Alone`."""
        self._release(what, {"by": DONE})

    def leave(self, what: str) -> None:
        """See `Alone`."""
        self._release(what, None)

    def _release(self, what: str, value: Any) -> None:
        with self._lock:
            self._claims.discard(what)
        self._write(f"{CLAIM}:{what}", value)

    def claimed(self) -> set[str]:
        """See `Alone`."""
        return {key.partition(":")[2] for key in self._attributes
                if key.startswith(f"{CLAIM}:") and not self._may_have(key)}

    def _may_have(self, key: str) -> bool:
        value = self._attributes.get(key)
        return value is None or value["by"] == self._me or (value["by"] != DONE and self._is_stale(key, value))

    def _write(self, key: str, value: Any) -> None:
        self._storage.set_study_user_attr(self._study._study_id, key, value)

    # -- what is known of others -------------------------------------------------------------------------

    def news(self) -> list[Candidate]:
        """See `Alone`. Asked at most once in `NEWS_SECONDS`."""
        if time.monotonic() - self._asked < NEWS_SECONDS:
            return []
        self._asked = time.monotonic()
        self._attributes = self._storage.get_study_user_attrs(self._study._study_id)
        higher, changed = rungs_by_trial(self._attributes), []
        with self._lock:
            numbers = set(self._trials.values())
        for trial in self._study.get_trials(deepcopy=False):
            rungs = higher.get(trial.number, {})
            now = trial.state, len(rungs)
            if trial.number in numbers or self._seen.get(trial.number) == now:
                continue
            self._seen[trial.number] = now
            if trial.state is not TrialState.WAITING:
                changed.append(candidate_of(trial, rungs, self._study.study_name))
        return changed

    @property
    def are_undecided(self) -> bool:
        """See `Alone`."""
        others = {f"trial {trial.number}": trial.user_attrs.get(LEASE)
                  for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
                  if trial._trial_id not in self._trials}
        others |= {key: value for key, value in self._attributes.items()
                   if key.startswith(f"{CLAIM}:") and value is not None and value["by"] not in (DONE, self._me)}
        return any((value or {}).get("by") not in self._alive for value in others.values())

    def _lease(self) -> dict[str, Any]:
        self._beat += 1
        return {"by": self._me, "host": socket.gethostname(), "process": os.getpid(), "beat": self._beat}

    def _is_stale(self, key: str, lease: Any) -> bool:
        """Whether a lease is nobody's: given up, of a process that is gone, or seen unchanged for long enough."""
        if lease is not None and (lease["by"] == NOBODY or (lease["host"] == socket.gethostname()
                                                            and not is_alive(lease["process"]))):
            return True
        seen = self._watched.get(key)
        if seen is None or seen[0] != lease:
            if seen is not None and lease is not None:
                self._alive.add(lease["by"])
            self._watched[key] = lease, time.monotonic()
            return False
        return time.monotonic() - seen[1] > self._stale

    def _renew_all(self) -> None:
        while not self._over.wait(self._renew):
            with self._lock:
                trials, claims = list(self._trials), set(self._claims)
            try:
                for trial in trials:
                    with suppress(UpdateFinishedTrialError, KeyError):  # it was closed meanwhile
                        self._storage.set_trial_user_attr(trial, LEASE, self._lease())
                for what in claims:
                    with self._lock:
                        if what in self._claims:
                            self._write(f"{CLAIM}:{what}", self._lease())
            except Exception as error:  # the search itself will hear of it, and says it
                log.debug("leases cannot be renewed: %s", error)
