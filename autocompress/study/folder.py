"""A study's folder: its place, its description in `study.json`, and refusing what cannot be used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from autocompress.core.attribution import Attribution
from autocompress.core.budget import Budget
from autocompress.core.evaluation import Metrics
from autocompress.core.layer import LayerTable
from autocompress.errors import EnvironmentFault, InputError
from autocompress.search.fidelity import DEFAULT_EFFORT
from autocompress.search.storage import DATABASE

DESCRIPTION = "study.json"
ARTIFACT, REPORT, TEACHER = "artifact", "report", "teacher"


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """What is needed to show a study without its network, and to load that network again.

    `given` holds the specs as given: model, weights, data, data_root, image_size. A spec is None when a Python
    object was given. `targets` are the ids of the profiles where there are several, the primary first. `attribution` is
    of the plan that was the best when a search ended; `harms` are predicted, in nats by trial, where there was a
    sensitivity table.
    """

    version: int = 1
    name: str
    storage: str
    seed: int
    space: str
    profile: str | tuple[str, ...]
    epochs: int
    budget: Budget
    baseline: Metrics
    sources: dict[str, str]
    table: LayerTable
    refused: dict[str, str]
    given: dict[str, Any]
    fingerprints: dict[str, str]
    timings: dict[str, float] = {}
    artifact: dict[str, Any] | None = None
    targets: tuple[str, ...] = ()
    attribution: Attribution | None = None
    harms: dict[int, float] = {}
    sampler: str = "auto"
    effort: str = DEFAULT_EFFORT
    trials: int = 0
    """Asked for; 0 in files that do not say."""
    from_study: str = ""
    """The folder of the study where this one started, if it did."""


def absolute(spec: str) -> str:
    """A spec of a model, data, space or profile; where it names a file, by its absolute path, so that the study can
    be exported from any working folder."""
    kind, _, place = spec.partition(":")
    if kind in ("npz", "imagefolder") and place:
        return f"{kind}:{Path(place).absolute()}"
    path, _, factory = spec.rpartition(":")
    if path.endswith(".py"):
        return f"{Path(path).absolute()}:{factory}"
    return str(Path(spec).absolute()) if spec.endswith(".toml") else spec


def choose_folder(out: Path | None, name: str, resume: bool) -> Path:
    """`out` if given; else studies/NAME, or the first numbered sibling that is free when that is taken (the last one
    taken to resume)."""
    if out is not None:
        return Path(out)
    places = [Path("studies") / numbered for numbered in (name, *(f"{name}-{i}" for i in range(2, 10_000)))]
    if resume:
        return next((place for place in reversed(places) if is_study(place)), places[0])
    return next(place for place in places if not is_study(place))


def is_study(folder: Path) -> bool:
    """Whether a study was begun here."""
    try:
        return (folder / DATABASE).exists() or (folder / DESCRIPTION).exists()
    except (OSError, ValueError):  # no such name can be: too long, or with a NUL
        return False


def is_described(folder: Path) -> bool:
    """Whether there is a study here that can say what it was made from."""
    return is_study(folder) and (folder / DESCRIPTION).is_file()


def prepare_folder(folder: Path) -> None:
    """Create the folder and prove that it can be written. InputError otherwise, before any work is done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"--out must be a folder that can be written, but {str(folder)!r}: {reason}") from None
    # What a killed run left half written. The user's own files may live here too.
    for pattern in ("study.*.tmp", "weights/*.tmp", "teacher/*.tmp", "artifact/.*.tmp", "report/.*.tmp"):
        for left in folder.glob(pattern):
            left.unlink(missing_ok=True)


@contextmanager
def nothing_left_behind(folder: Path | None) -> Iterator[None]:
    """Remove the folder, if it is empty, when what follows fails: nothing was begun."""
    try:
        yield
    except BaseException:
        if folder is not None and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        raise


def write_description(folder: Path, description: Description) -> None:
    """Atomically."""
    path = folder / DESCRIPTION
    part = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        part.write_bytes(msgspec.json.format(msgspec.json.encode(description), indent=1))
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise EnvironmentFault(f"{path} must be writable, but: {error.strerror}") from error


def read_description(folder: Path) -> Description:
    """InputError when the folder holds no study or a damaged description."""
    path = Path(folder) / DESCRIPTION
    try:
        return msgspec.json.decode(path.read_bytes(), type=Description)
    except OSError:
        raise InputError(f"STUDY must be the folder of a study, with a {DESCRIPTION} in it, but {folder} has none; "
                         "see studies/ for yours") from None
    except msgspec.MsgspecError as error:
        raise InputError(f"{path} is damaged: {error}") from None
