"""The time of a search: how much is left for what, and after which time an evaluation is ended."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from autocompress.core.evaluation import Candidate
from autocompress.search import efforts

# Of the time limit, that measuring a trained candidate may take beyond it.
GRACE_SHARE = 0.05
# What an evaluation may take beyond the time limit before it is taken to hang: seconds, and the share of that limit;
# and seconds where nothing was evaluated before.
LEAST_HANG, HANG_SHARE, FIRST_HANG = 20.0, 0.1, 60.0


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How long and how to search. `seconds` bounds the wall clock from `started` (a `time.perf_counter()`), of
    which `reserve_seconds` are left for export and verification; `samples` of the validation split are scored, by rung,
    where not all are."""

    trials: int = 32
    seconds: float | None = None
    reserve_seconds: float = 0.0
    # Longest that one evaluation may take.
    trial_seconds: float | None = None
    schedule: efforts.Schedule = efforts.Schedule()
    samples: dict[int, int] = {}


class Clock:
    """The clock of one run.

    Args:
        settings: see `Settings`.
        started: of the whole search, a `time.perf_counter()`; trials begin when this is made.
    """

    def __init__(self, settings: Settings, started: float) -> None:
        self._settings, self._started, self._began = settings, started, time.perf_counter()
        # When the last calibration ended.
        self._calibrated = self._began

    def calibration_ended(self) -> None:
        """Note that a calibration has ended."""
        self._calibrated = time.perf_counter()

    def left(self, share: float) -> float | None:
        """Seconds until `share` of the time for trials is over; None without a limit."""
        if self._settings.seconds is None:
            return None
        end = self._started + self._settings.seconds - self._settings.reserve_seconds
        return self._began + share * max(0.0, end - self._began) - time.perf_counter()

    def is_open(self, share: float, started: int, always: int) -> bool:
        """Whether the phase that ends at `share` of the time may start something when so many trials were `started`.
        One trial always may, and the first `always` as long as there is time at all."""
        left, whole = self.left(share), self.left(1.0)
        if left is None or whole is None or left > 0:
            return True
        return started == 0 or (whole > 0 and started < always)

    def calibration_share(self, started: int) -> float:
        """Of the time, until which candidates are calibrated when so many were begun."""
        schedule = self._settings.schedule
        return schedule.most_calibration_share if started < schedule.least else schedule.calibration_share

    @property
    def late_share(self) -> float:
        """Of the time, by which the calibrations that are done took longer than their share."""
        if self._settings.seconds is None:
            return 0.0
        whole = self._settings.seconds - self._settings.reserve_seconds - (self._began - self._started)
        return max(0.0, (self._calibrated - self._began) / max(whole, 1e-9) - self._settings.schedule.calibration_share)

    def training_seconds(self, share: float, waves: int, candidates: Sequence[Candidate]) -> float | None:
        """Seconds of training for each of `waves`, less what compressing and measuring took each of the `candidates`
        before."""
        left = self.left(share)
        if left is None:
            return None
        return max(1.0, left / waves - max(c.evaluations[0].seconds for c in candidates))

    def seconds_left(self, training: bool, started: int) -> float | None:
        """After how many seconds an evaluation is broken off. The very first may go on; a training, which ends by
        itself in time, has a grace for being measured."""
        left = self.left(1.0)
        if left is None or self._settings.seconds is None or (not training and started <= 1):
            return None
        return left + (GRACE_SHARE * self._settings.seconds if training else 0.0)

    def limit(self, is_first: bool) -> float | None:
        """Seconds after which the next evaluation is ended wherever it is: those of one trial, and what is left of the
        time for all with a grace that only code which hangs needs. The first result may take as long as the search."""
        left, whole = self.left(1.0), self._settings.seconds
        if left is None or whole is None:
            return self._settings.trial_seconds
        grace = max(FIRST_HANG, whole) if is_first else max(LEAST_HANG, HANG_SHARE * whole)
        limit = max(0.0, left) + grace
        return limit if self._settings.trial_seconds is None else min(limit, self._settings.trial_seconds)
