"""A limit for work in this process: it is interrupted from outside, for code that hangs cannot be asked to stop."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from autocompress.errors import TrialError

# After so long, what has caught the interruption is interrupted once more.
AGAIN_SECONDS = 5.0


class _OutOfTime(BaseException):
    """Not an Exception: `except Exception` in the code that hangs must not stop it."""


def out_of_time(seconds: float) -> TrialError:
    """The failure of an evaluation that took longer than it may."""
    return TrialError(f"timeout: the evaluation took longer than {seconds:.3g} s")


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Interrupt the body after `seconds`, wherever it is in Python code or waits: TrialError. Only a call into a
    library that does not come back is not reached. None: no limit."""
    if seconds is None:
        yield
        return
    stop = None
    try:
        try:
            main = threading.current_thread() is threading.main_thread()
            stop = (_by_signal if main and hasattr(signal, "setitimer") else _by_thread)(max(seconds, 1e-3))
            yield
        finally:
            if stop is not None:
                stop()
    except _OutOfTime:
        if stop is not None:
            stop()
        raise out_of_time(seconds) from None


def _by_signal(seconds: float) -> Callable[[], None]:
    armed = True

    def handle(number: int, frame: Any) -> None:
        if armed:
            raise _OutOfTime

    def stop() -> None:
        nonlocal armed
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_SECONDS)
    return stop


def _by_thread(seconds: float) -> Callable[[], None]:
    thread = ctypes.c_ulong(threading.get_ident())

    def interrupt(error: type[BaseException] | None) -> None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, None if error is None else ctypes.py_object(error))

    timer = threading.Timer(seconds, interrupt, (_OutOfTime,))
    timer.daemon = True
    timer.start()

    def stop() -> None:
        timer.cancel()
        interrupt(None)

    return stop
