"""What is known of a running search from its events, for the terminal and for whoever watches the study."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from autocompress.core.search_status import Running
from autocompress.quantities import format_seconds

if TYPE_CHECKING:
    from autocompress.core.evaluation import Candidate
    from autocompress.search.engine import Event


class SearchState:
    """Phase, evaluations under way, best and time left, as far as events have told."""

    def __init__(self) -> None:
        self.phase, self.done, self.total, self.feasible, self.workers = "starting", 0, 0, 0, 0
        self.best: Candidate | None = None
        # What is under way within the phase, and how far it is.
        self.step = ""
        self._running: dict[int, tuple[int, float]] = {}  # rung and begin by trial
        self._deadline: float | None = None
        self._began = time.monotonic()
        self._before: int | None = None

    def update(self, event: Event) -> None:
        """Take one event in."""
        self.step, self.workers = "", event.workers or self.workers
        trial = event.candidate.trial if event.candidate is not None else None
        if event.kind == "phase":
            self.phase, self.done, self.total = event.text, 0, event.total
            self._began, self._before = time.monotonic(), None
        elif event.kind == "progress":
            self.step = f"{event.text} {event.done}" + (f"/{event.total}" if event.total else "")
        elif event.kind == "start":
            if trial is not None:
                self._running[trial] = event.rung, time.monotonic()
        else:
            self._running.pop(-1 if trial is None else trial, None)
            self.feasible, self.best = event.feasible, event.best
            if event.text == self.phase:  # not a late one of the rung below
                self.done, self.total = event.done, event.total
                if self._before is None:  # a resumed phase does not begin at zero
                    self._before = event.done - 1
            if event.seconds_left is not None:
                self._deadline = time.monotonic() + event.seconds_left

    @property
    def running(self) -> tuple[Running, ...]:
        """Evaluations under way, in the order in which they began."""
        now = time.monotonic()
        return tuple(Running(trial=trial, rung=rung, seconds=now - began)
                     for trial, (rung, began) in self._running.items())

    @property
    def elapsed(self) -> str:
        """Time since the phase began."""
        return format_seconds(time.monotonic() - self._began)

    @property
    def is_limited(self) -> bool:
        """Whether there is a time limit."""
        return self._deadline is not None

    @property
    def seconds_left(self) -> float | None:
        """Of the limit when there is one, else about what the rest of the phase should take; None before that is
        known."""
        if self._deadline is not None:
            return max(0.0, self._deadline - time.monotonic())
        if self._before is None or not self.total:
            return None
        each = (time.monotonic() - self._began) / max(1, self.done - self._before)
        return each * max(0, self.total - self.done)
