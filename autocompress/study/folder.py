"""A study's folder: its place, its description in `study.json`, and refusing what cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from autocompress.core import wire
from autocompress.core.attribution import Attribution
from autocompress.core.budget import Budget
from autocompress.core.evaluation import Metrics
from autocompress.core.files import temporary_name, write_whole
from autocompress.core.layer import LayerTable
from autocompress.core.metric import Metric, Reference
from autocompress.core.warnings import Warned
from autocompress.errors import EnvironmentFault, InputError, StorageError
from autocompress.search.databases import DATABASE, sqlite_path, storage_url
from autocompress.search.study_store import StudyStore
from autocompress.study.former_layout import from_version_1
from autocompress.study.settings import SearchSettings
from autocompress.tasks.classification.metric import ACCURACY

DESCRIPTION = "study.json"
# Of the description. A field that changes what older ones mean makes the version rise.
SCHEMA, VERSION = "autocompress/study", 2
ARTIFACT, REPORT = "artifact", "report"


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """What is needed to show a study without its network, and to load that network again.

    `settings` are those of the search, as values; what concerns one run alone has its default there. `objects` names
    the settings that were Python objects, which no file can hold. `budget` are the bounds by device, `targets` the ids
    of the profiles where there are several, the primary first. `attribution` is of the plan that was the best when a
    search ended; `sensitivities` are predicted, in nats by trial, where there was a sensitivity table. `unpaying` are
    layers whose activations stay float because 8 bits do not make them faster on the machine of the search. `rounding`
    is what was measured of how activations are rounded, by the names of a quantize step's arguments. `warnings`
    are of the last run that came to its end, but for those of the exported file, which stand with it. `finished`, where
    that run left nothing to do, is what `study/finished.py` knows it by.
    """

    version: int = VERSION
    name: str
    settings: SearchSettings
    objects: tuple[str, ...] = ()
    budget: Budget
    metric: Metric = ACCURACY
    baseline: Metrics
    sources: dict[str, str]
    table: LayerTable
    refused: dict[str, str]
    fingerprints: dict[str, str]
    timings: dict[str, float] = {}
    artifact: dict[str, Any] | None = None
    targets: tuple[str, ...] = ()
    attribution: Attribution | None = None
    sensitivities: dict[int, float] = {}
    unpaying: tuple[str, ...] = ()
    rounding: dict[str, str] = {}
    warnings: tuple[Warned, ...] = ()
    finished: str = ""

    @property
    def reference(self) -> Reference:
        """The task's metric with the original's value on the validation split."""
        return Reference(self.metric, self.baseline[self.metric.name])


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


def prepare_folder(folder: Path) -> list[Path]:
    """Create the folder and prove that it can be written; return which folders were made, the outermost first.

    InputError where it cannot, before any work is done.
    """
    created = []
    try:
        created = [place for place in (*reversed(folder.parents), folder) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / temporary_name()
        probe.write_bytes(b"")
        probe.unlink()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        remove_empty(created)
        raise InputError(f"--out must be a folder that can be written, but {str(folder)!r}: {reason}") from None
    return created


def remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders that were made, the outermost first, and hold nothing."""
    for place in reversed(folders):
        with suppress(OSError, ValueError):  # a name that cannot be was never made
            place.rmdir()


def write_description(folder: Path, description: Description) -> None:
    """Atomically."""
    path = folder / DESCRIPTION
    try:
        write_whole(path, wire.encode_flat(description, SCHEMA))
    except OSError as error:
        raise EnvironmentFault(f"{path} must be writable, but: {error.strerror}; free space or choose another "
                               "folder") from error


def read_description(folder: Path) -> Description:
    """InputError when the folder holds no study, a damaged description or one of a newer release."""
    path = Path(folder) / DESCRIPTION
    try:
        text = path.read_bytes()
    except OSError:
        raise InputError(f"STUDY must be the folder of a study, with a {DESCRIPTION} in it, but {folder} has none; "
                         "see studies/ for yours") from None
    return wire.decode_flat(text, Description, SCHEMA, VERSION, str(path), from_version_1)


def read_store(folder: Path, description: Description) -> StudyStore:
    """The stored trials of a study. StorageError when its database cannot be used."""
    url = storage_url(folder, description.settings.storage)
    database = sqlite_path(url)
    if database is not None and not database.exists():
        raise StorageError(f"{folder} must hold the study's database, but {database} is gone")
    return StudyStore.read(url, description.name, folder)
