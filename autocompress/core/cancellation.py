"""Cooperative cancellation and progress: long work checks at each batch whether it must stop, and reports progress.

Loops over data stand ten calls below whoever knows the clock and the user. They ask here at each batch, so that no
function between hands those two down.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from autocompress.errors import OutOfTime, TrialError

Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class _Control:
    should_stop: tuple[Callable[[], bool], ...] = ()
    deadline: float = math.inf
    tell: Tell | None = None


_control: ContextVar[_Control] = ContextVar("control", default=_Control())  # noqa: B039 (frozen)
_last_checkpoint = time.monotonic()


@contextmanager
def controlled(should_stop: Callable[[], bool] | None = None, deadline: float | None = None,
               tell: Tell | None = None) -> Iterator[None]:
    """Within, `checkpoint` raises when `should_stop` says so or the clock (`time.perf_counter()`) is past `deadline`,
    and passes on to `tell` what is done. Where one is inside another, either may stop the work."""
    outer = _control.get()
    inner = _Control((*outer.should_stop, *([should_stop] if should_stop else [])),
                     min(outer.deadline, math.inf if deadline is None else deadline), tell or outer.tell)
    token = _control.set(inner)
    try:
        yield
    finally:
        _control.reset(token)


def checkpoint(what: str = "", done: int = 0, total: int = 0) -> None:
    """Called between the steps of long work: `done` of `total` steps of `what` are behind it; of a `total`
    of 0 it is not known how many there are.

    TrialError when the user has stopped the work, OutOfTime when its time is up.
    """
    global _last_checkpoint
    _last_checkpoint = time.monotonic()
    control = _control.get()
    if any(must_stop() for must_stop in control.should_stop):
        raise TrialError("stopped when the search was")
    if time.perf_counter() > control.deadline:
        raise OutOfTime("the time was up before it was done")
    if control.tell is not None and what:
        control.tell(what, done, total)


def idle_seconds() -> float:
    """Return the seconds since the last checkpoint of this process: what works calls one at each batch."""
    return time.monotonic() - _last_checkpoint


def seconds_left() -> float:
    """Return the seconds until the deadline, infinite where there is none."""
    return _control.get().deadline - time.perf_counter()
