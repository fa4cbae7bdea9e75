"""Being asked to stop, by Ctrl-C or SIGTERM, and stopping within seconds whatever is under way.

In the phases before candidates are evaluated a request ends the work at once. Later it is first only asked for, so that
what is under way comes to a good end; after `GRACE_SECONDS` that is cut off, and what there is is reported. Where not
even that helps, because a library or a user's code does not let go, the process ends, if it is ours to end.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

from autocompress.core.cancellation import idle_seconds
from autocompress.errors import AutocompressError, EnvironmentFault, Interrupted

log = logging.getLogger(__name__)

# After a request, how long what is under way may take to stop by itself, after how long the process is ended, and how
# much longer it may take where only the report is missing.
GRACE_SECONDS, LAST_SECONDS, CLOSING_SECONDS = 4.0, 9.0, 20.0
# How far beyond a search's time limit, its grace included, the process is ended where it has not come to a checkpoint
# for as long: a slow export on a busy machine is no hang.
HANG_SECONDS = 60.0

LastResort = Callable[[Path | None, AutocompressError], None]
_last_resort: ContextVar[LastResort | None] = ContextVar("last_resort", default=None)


class StoppedNow(KeyboardInterrupt):
    """Raised where the work is, to cut it off."""


class Stop:
    """Whether it was asked to stop; tells so when called. `folder` is that of the study that was begun."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self._asked, self._over = threading.Event(), threading.Event()
        self._mode: Literal["now", "patient", "closing"] = "now"
        self._overdue = False
        self._signal = int(signal.SIGINT)
        self._last_resort = _last_resort.get()

    def __call__(self) -> bool:
        return self._asked.is_set()

    @contextmanager
    def patiently(self) -> Iterator[None]:
        """In the body a request is asked for at first; behind it nothing is cut off any more."""
        self._mode = "patient"
        try:
            yield
        except StoppedNow:
            log.warning("what was under way is cut off")
        finally:
            self._mode = "closing"

    def end_after(self, seconds: float) -> None:
        """Where the process is ours to end, end it after `seconds`, unless the run is over by then, or still comes to
        checkpoints."""
        if self._last_resort is not None:
            error = EnvironmentFault("the search must end with its time limit, but something that it runs does not let "
                                     "go; what was finished is kept: go on with --resume")
            self._thread(self._end_if_hanging, seconds, error)

    def handle(self, number: int, frame: Any) -> None:
        """The handler of the signals."""
        overdue, self._overdue = self._overdue, False
        if overdue:
            if self._mode == "patient":
                raise StoppedNow
            return
        if self._asked.is_set():
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self._signal = number
        self._asked.set()
        if self._last_resort is not None:
            self._thread(self._end, LAST_SECONDS, self.interrupted(), CLOSING_SECONDS)
        if self._mode == "now":
            raise StoppedNow
        if self._mode == "patient":
            # The signal may have come in the middle of a write to the stream that this goes to: another thread waits.
            self._thread(log.warning, "stopping after the current step; Ctrl-C stops at once")
            self._thread(self._cut_off)

    def interrupted(self) -> Interrupted:
        """The error that ends a run which was stopped; it says by what."""
        by = f"stopped by {signal.Signals(self._signal).name}"
        if self.folder is None:
            return Interrupted(f"{by} before a study was begun: nothing was kept")
        error = Interrupted(f"{by}; everything is kept in {self.folder}, go on with --resume")
        error.study = self.folder
        return error

    def over(self) -> None:
        """The run has ended."""
        self._over.set()

    def _thread(self, work: Callable[..., Any], *args: Any) -> None:
        threading.Thread(target=work, args=args, daemon=True).start()

    def _cut_off(self) -> None:
        """Interrupt the main thread until it has let go."""
        while not self._over.wait(GRACE_SECONDS) and self._mode == "patient":
            self._overdue = True
            main = threading.main_thread().ident
            if hasattr(signal, "pthread_kill") and main is not None:
                signal.pthread_kill(main, signal.SIGTERM)
            else:
                signal.raise_signal(signal.SIGTERM)

    def _end_if_hanging(self, seconds: float, error: AutocompressError) -> None:
        while not self._over.wait(seconds):
            if idle_seconds() >= HANG_SECONDS:
                return self._end(0.0, error)
            seconds = HANG_SECONDS - idle_seconds()

    def _end(self, seconds: float, error: AutocompressError, closing: float = 0.0) -> None:
        if self._over.wait(seconds) or (self._mode == "closing" and self._over.wait(closing)):
            return
        if self._last_resort is not None:
            self._last_resort(self.folder, error)


@contextmanager
def stoppable() -> Iterator[Stop]:
    """SIGINT or SIGTERM asks to stop, a second SIGINT stops now. Elsewhere than in the main thread: never."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        stop.over()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ending_the_process(last_resort: LastResort) -> Iterator[None]:
    """In the body the process is ours to end: `last_resort` does it when a run that was stopped does not let go. It is
    given the folder of the study, if one was begun, and the error that the run ends with."""
    token = _last_resort.set(last_resort)
    try:
        yield
    finally:
        _last_resort.reset(token)
