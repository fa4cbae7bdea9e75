"""What a search has under way, and how far each rung of the ladder has come."""

from __future__ import annotations

from dataclasses import dataclass, field

import optuna

from autocompress.core.evaluation import Candidate
from autocompress.core.plan import Plan


@dataclass(frozen=True)
class Assignment:
    """An evaluation under way: of a new `trial`, or of one that is promoted."""

    candidate: Candidate
    plan: Plan
    rung: int
    seconds: float | None = None
    # Where several processes evaluate, how many of their cores it takes.
    threads: int = 1
    trial: optuna.Trial | None = None
    # Workers that were lost in it.
    losses: int = 0


@dataclass
class Rung:
    """What this run has begun and done at one level of the ladder, and for how long each is trained there."""

    phase: str
    total: int = 0
    done: int = 0
    started: set[int] = field(default_factory=set)
    seconds: float | None = None
