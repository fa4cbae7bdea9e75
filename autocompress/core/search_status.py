"""What a driver tells of its search while it runs, for whoever watches the study."""

from __future__ import annotations

import msgspec


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """An evaluation under way: its trial, the rung, and for how many seconds."""

    trial: int
    rung: int
    seconds: float


class SearchStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One driver at one moment.

    Attributes:
        host: the name of its machine.
        process: its number there.
        beat: rises with each status; one that stays has not been heard of.
        phase: what it is at, and `done` of `total` within that, where it is known.
        running: evaluations under way.
        workers: how many evaluations it can run at once; 0 before any began.
        seconds_left: of the time limit where there is one, else about what the phase still takes; None where neither is
            known.
        is_limited: whether there is a time limit.
    """

    host: str
    process: int
    beat: int
    phase: str
    done: int = 0
    total: int = 0
    running: tuple[Running, ...] = ()
    workers: int = 0
    seconds_left: float | None = None
    is_limited: bool = False
