"""What a search takes over from a stored study: from the one that it goes on with, or the one where it starts.

A study is read and never written to when another starts from it: of its database a copy is opened.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from autocompress.core.evaluation import Candidate
from autocompress.core.store import TEACHER, FolderStore, Store
from autocompress.errors import EnvironmentFault, InputError, StorageError
from autocompress.search.databases import sqlite_path, sqlite_url, storage_url
from autocompress.search.study_store import StudyStore
from autocompress.search.trial_status import judged
from autocompress.space.encode import encode
from autocompress.space.projection import Projection
from autocompress.space.space import KnobKey, Value
from autocompress.study.folder import Description, is_described, is_study, read_description
from autocompress.study.settings import SETTINGS, Owner
from autocompress.tasks.kinds.names import is_kind

log = logging.getLogger(__name__)

# Plans of the earlier study that are tried first: half of them the best inside the bounds, half the best of those
# outside.
SEEDS = 6


@dataclass(frozen=True)
class PriorStudy:
    """A study that another one starts from."""

    folder: Path
    description: Description
    candidates: tuple[Candidate, ...]


def with_stored(said: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a search's settings, those not said taken from the study to be resumed in `out`, bounds and all,
    or from `from_study`: its network, data, seed, space, profile, effort and epochs. An effort that is said brings its
    own epochs and trials.

    InputError when there is no such study, or its network and data were Python objects and are not given.
    """
    source, out = said.get("from_study"), said.get("out")
    if source is not None and said.get("resume"):
        raise InputError("--from (from_study) must be left out with --resume (resume): a study knows where it started; "
                         "to start another one from that study, leave out resume and choose another --out")
    if source is not None:
        if out is not None and out.resolve() == source.resolve():
            raise InputError(f"--out must be another folder than that of the study to start from, but both are {out}; "
                             "to go on with that study, use --resume --out instead")
        return _taken(_description(source), said, ("start", "network", "data"), source) | dict(said)
    if not said.get("resume") or out is None:
        return dict(said)
    if is_described(out):
        return _taken(read_description(out), said, ("study", "start", "network", "data"), out) | dict(said)
    alone = not said.keys() & {"model", "budget", "latency", "macs", "peak_memory", "max_drop", "at_least"}
    if not is_study(out) and alone:
        raise InputError(f"--resume must find a study in --out, but {out} holds none; see studies/ for yours. To begin "
                         "one there, say what to compress or how small")
    return dict(said)


def _description(folder: Path) -> Description:
    try:
        return read_description(folder)
    except InputError as error:
        raise unreadable(error) from None


def unreadable(error: Exception) -> InputError:
    """What to do about a study that cannot be started from."""
    return InputError(f"--from (from_study) must be a study that can be read, but: {error}. Start from another one, or "
                      "without --from")


def _taken(description: Description, said: Mapping[str, Any], owners: Sequence[Owner],
           folder: Path) -> dict[str, Any]:
    """Values of a stored study's settings that `owners` have. Of the network and data only what belongs together: the
    weights of the stored model are not those of another."""
    others = {owner for owner, name in (("network", "model"), ("data", "data")) if name in said}
    names = [name for name, setting in SETTINGS.items() if setting.owner in owners and setting.owner not in others]
    if "effort" in said:
        names = [name for name in names if name not in ("epochs", "trials")]
    if "weights" in said:
        names = [name for name in names if name != "weights_key"]
    for name in description.objects:
        if name in names and name not in said:
            raise InputError(f"{name} must be given, because {folder} was made from a Python object: "
                             f"search({name}=…, resume=True, out=…) with the same one")
    values = {name: getattr(description.settings, name) for name in names}
    task = said.get("task", values.get("task"))
    if task is not None and not is_kind(task):  # it has data of its own
        values.pop("data", None)
    return {name: value for name, value in values.items() if value is not None}


def read_prior_study(folder: Path | None, resumed: bool) -> PriorStudy | None:
    """The study to start from, if any. InputError when it cannot be read; None, with a warning, for one that a
    `resumed` study started from and that is gone since."""
    if folder is None:
        return None
    try:
        description = read_description(folder)
        return PriorStudy(folder, description, tuple(_candidates(folder, description)))
    except (InputError, StorageError, EnvironmentFault) as error:
        if not resumed:
            raise unreadable(error) from error
        log.warning("going on without the study that this one started from: %s", error)
        return None


def _candidates(folder: Path, description: Description) -> list[Candidate]:
    url = storage_url(folder, description.settings.storage)
    database = sqlite_path(url)
    if database is None:
        return _of(url, description, folder)
    if not database.is_file():
        raise StorageError(f"{folder} must have the study's database, but {database} is gone")
    with TemporaryDirectory() as place:
        for path in database.parent.glob(f"{database.name}*"):  # with its log of what is not in the file itself yet
            if path.name.removeprefix(database.name) in ("", "-wal"):
                shutil.copyfile(path, Path(place) / path.name)
        return _of(sqlite_url(Path(place) / database.name), description, folder)


def _of(url: str, description: Description, folder: Path) -> list[Candidate]:
    stored = StudyStore.read(url, description.name, folder).candidates()
    return judged(stored, description.budget, description.reference)


def seeds(earlier: PriorStudy | None, projection: Projection) -> list[dict[KnobKey, Value]]:
    """Settings of the plans of the earlier study that are best in the task's metric, the best inside the bounds and
    outside them in turn; what does not fit is for the projection to move."""
    if earlier is None:
        return []
    metric = earlier.description.metric
    ranked = sorted((c for c in earlier.candidates if c.plan is not None and c.metrics and c.duplicate_of is None),
                    key=lambda c: (metric.cost(c.metrics), c.trial))
    tried = {c.plan.fingerprint: encode(projection.space, c.plan) for c in ranked if c.plan is not None}
    inside = [values for values in tried.values() if projection.fits(projection.space.decode(values))]
    outside = [values for values in tried.values() if values not in inside]
    mixed = [values for pair in zip_longest(inside, outside) for values in pair if values is not None]
    return mixed[:SEEDS]


def take_answers(earlier: PriorStudy | None, store: Store, seed: int) -> None:
    """Copy into `store` what the original answered to the views of the training data, which are the same for the same
    seed. What cannot be copied is asked for again."""
    if earlier is None or earlier.description.settings.seed != seed or store.keys(TEACHER):
        return
    source = FolderStore(earlier.folder)
    for key in source.keys(TEACHER):
        data = source.get(key)
        try:
            if data is not None:
                store.put(key, data)
        except StorageError as error:
            log.warning("%s of %s cannot be copied: %s", key, earlier.folder, error)
