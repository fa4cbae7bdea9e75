"""What a study writes into its folder, and telling it from what was there: only what is proved to be a study's is ever
replaced or removed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from autocompress.artifact import folder as artifact
from autocompress.backend.network.checkpoint import read_structure
from autocompress.backend.training.teacher import holds_answers
from autocompress.core.files import remove_leftovers, set_aside
from autocompress.core.store import FILES, TEACHER, WEIGHTS, FolderStore, header_in
from autocompress.errors import InputError
from autocompress.report import files as report
from autocompress.search.databases import DATABASE
from autocompress.study.built_files import is_intact, own_files
from autocompress.study.folder import ARTIFACT, DESCRIPTION, REPORT, SCHEMA
from autocompress.study.lock import LOCK, read_owner

DATABASE_FILES = (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", f"{DATABASE}-journal")
FOLDERS = (WEIGHTS, TEACHER, FILES, ARTIFACT, REPORT)
_WEIGHTS_NAME = re.compile(r"[0-9a-f]{8,64}-\d\.safetensors")
_ANSWERS_NAME = re.compile(r"teacher-\d+\.safetensors")


def is_own(folder: Path) -> bool:
    """Tell whether a study was begun in `folder`: its description says so, or a lock that a run left behind."""
    try:
        document = json.loads((folder / DESCRIPTION).read_bytes())
        if document.get("schema", SCHEMA) == SCHEMA and {"name", "fingerprints", "budget"} <= set(document):
            return True
    except (OSError, ValueError, AttributeError):
        pass
    return read_owner(folder / LOCK) is not None


def require_no_foreign(folder: Path) -> None:
    """InputError where something that is not a study's stands in a place that a study writes to."""
    is_study = is_own(folder)
    places = [] if is_study else [folder / name for name in (DESCRIPTION, *DATABASE_FILES, LOCK)]
    places += [] if is_study else list(_named(folder / TEACHER, _ANSWERS_NAME))
    in_the_way = [path for path in places if path.exists() or path.is_symlink()]
    in_the_way += [folder / name for name in FOLDERS if (folder / name).exists() and not (folder / name).is_dir()]
    if in_the_way:
        names = ", ".join(str(path.relative_to(folder)) for path in in_the_way)
        raise InputError(f"--out must be a folder where a study can be kept, but {names} in {folder} was not written "
                         "by a study: choose another --out, or move it away")
    artifact.require_no_foreign(folder / ARTIFACT)
    report.require_no_foreign(folder / REPORT)


def clean(folder: Path) -> None:
    """Remove the temporary files that killed runs left."""
    for place in (folder, *(folder / name for name in FOLDERS)):
        remove_leftovers(place)


def discard(folder: Path) -> None:
    """Remove a study's own files and nothing else; what was changed in its artefact is set aside."""
    if not is_own(folder):
        return
    clean(folder)
    for name in artifact.changed_files(folder / ARTIFACT):
        set_aside(folder / ARTIFACT / name)
    paths = [folder / name for name in (*DATABASE_FILES, DESCRIPTION)]
    paths += [path for path in _named(folder / WEIGHTS, _WEIGHTS_NAME)
              if read_structure(header_in(path) or {}) is not None]
    paths += [path for path in _named(folder / TEACHER, _ANSWERS_NAME) if holds_answers(path)]
    store = FolderStore(folder)
    paths += [store.path(key) for digest, key in own_files(store).items() if is_intact(digest, store.get(key) or b"")]
    artifact.require_no_foreign(folder / ARTIFACT)
    report.require_no_foreign(folder / REPORT)
    paths += [folder / ARTIFACT / name for name in artifact.file_names(folder / ARTIFACT)]
    paths += [folder / REPORT / name for name in (report.PAGE, report.CSV, report.JSON)]
    present = [path for path in paths if path.is_file()]
    for path in present:
        path.unlink()
    for place in {path.parent for path in present} - {folder}:
        with suppress(OSError):  # it holds something of the user's
            place.rmdir()


def _named(folder: Path, pattern: re.Pattern[str]) -> Iterator[Path]:
    return (path for path in sorted(folder.glob("*")) if pattern.fullmatch(path.name) and path.is_file())
