"""Every error a user can meet, and the exit code it becomes.

    AutocompressError            1    a fault of ours when raised bare
    ├── InputError               2    model, data, configuration or flag is wrong
    │   └── StudyMismatchError   2    a stored study differs from what was asked
    ├── InfeasibleError          3    nothing fits the budget
    ├── EnvironmentFault         4    storage, network, missing package
    │   └── StorageError         4    the study's database cannot be used
    └── Interrupted            130    stopped by the user; the study can be resumed

A message says what must hold, what came, and what to do.
"""

from __future__ import annotations

from pathlib import Path


class AutocompressError(Exception):
    """Root of the tree; carries the exit code of the command line."""

    exit_code = 1


class InputError(AutocompressError):
    """Something the user gave is wrong."""

    exit_code = 2


class StudyMismatchError(InputError):
    """The stored study was made from another model, data set, space, profile or seed."""


class InfeasibleError(AutocompressError):
    """No plan meets the constraints."""

    exit_code = 3
    study: Path | None = None
    """Folder of the study that was searched, if it came to a search."""


class EnvironmentFault(AutocompressError):
    """The surroundings failed: storage, network, an optional package."""

    exit_code = 4


class StorageError(EnvironmentFault):
    """The study's database is missing, locked, corrupt or of another kind."""


class Interrupted(AutocompressError):
    """The user stopped the run; what was done is stored."""

    exit_code = 130
    study: Path | None = None
    """Folder of the study that was stopped."""


class TrialError(Exception):
    """One candidate failed; the search records the reason and goes on. Never reaches a user."""
