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
    threads: int = 1
    """Where several processes evaluate, how many of their cores it takes."""
    trial: optuna.Trial | None = None
    losses: int = 0
    """Workers that were lost in it."""


@dataclass
class Rung:
    """What this run has begun and done at one level of the ladder, and for how long each is trained there."""

    phase: str
    total: int = 0
    done: int = 0
    begun: set[int] = field(default_factory=set)
    seconds: float | None = None
