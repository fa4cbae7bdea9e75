"""Every error a user can meet, and the exit code it becomes.

    AutocompressError            1    a fault of ours when raised bare
    ├── InputError               2    model, data, configuration or flag is wrong
    │   └── StudyMismatchError   2    a stored study differs from what was asked
    ├── InfeasibleError          3    nothing fits the budget
    ├── EnvironmentFault         4    storage, network, missing package
    │   └── StorageError         4    the study's database cannot be used
    └── Interrupted            130    stopped by a signal; the study can be resumed

A message says what must hold, what came, and what to do.
"""

from __future__ import annotations

import os
import re
import traceback
from pathlib import Path

_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


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
    # Folder of the study that was searched, if it came to a search.
    study: Path | None = None


class EnvironmentFault(AutocompressError):
    """The surroundings failed: storage, network, an optional package."""

    exit_code = 4


class StorageError(EnvironmentFault):
    """The study's database is missing, locked, corrupt or of another kind."""


class Interrupted(AutocompressError):
    """A signal stopped the run (Ctrl-C is one); what was done is stored."""

    exit_code = 130
    # Folder of the study that was stopped.
    study: Path | None = None


class TrialError(Exception):
    """One candidate failed; the search records the reason and goes on. Never reaches a user."""


class OutOfTime(TrialError):
    """The time was up before a candidate was done: nothing is said about the candidate."""


def reason_of(error: BaseException) -> str:
    """The first line of a library's error that says something, without colours of the terminal; the name of its class
    where there is none. Libraries put pages into a message, and rules of dashes above it."""
    lines = (line.strip() for line in _TERMINAL_CODES.sub("", str(error)).splitlines())
    return next((line for line in lines if re.search(r"\w", line)), type(error).__name__)


def cause_of(error: BaseException) -> str:
    """The innermost cause of an error of torch's exporters, which wrap the one that names the operation, and the last
    line of the network's own code on the way to it."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    frames = [frame for one in chain for frame in traceback.extract_tb(one.__traceback__) if _is_users(frame.filename)]
    place = f", at {frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}: {frames[-1].line}" if frames else ""
    return reason_of(chain[-1]).rstrip(".") + place


def _is_users(file: str) -> bool:
    """Whether a file is neither of the standard library, nor of this package, nor of the exporters'."""
    path = Path(file)
    libraries = {"torch", "onnx", "onnxscript", "onnx_ir"} & set(path.parts) and "-packages" in file
    return not (file.startswith("<") or libraries or path.is_relative_to(Path(__file__).parent)
                or (path.is_relative_to(Path(os.__file__).parent) and "-packages" not in file))
