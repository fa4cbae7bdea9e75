"""Repairing the database of a study: tables of an older version, lines of a journal that cannot be read."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from autocompress.errors import InputError, StorageError
from autocompress.search.databases import sqlite_path, sqlite_url, storage_errors, storage_url, upgrade_schema
from autocompress.search.journal import free_name, is_journal, mend_journal
from autocompress.search.storage_urls import check_storage, shown_url
from autocompress.study.folder import is_study, read_description
from autocompress.study.lock import locked


def repair(place: str) -> list[str]:
    """Make the database of a study readable again, where that is possible; returned are sentences about what was done.

    Args:
        place: the folder of a study, a database file, a journal file or the URL of a database.

    Raises:
        InputError: where there is none.
        StorageError: where a run is at work on the study, or the database is damaged beyond that.
    """
    path = Path(place)
    if "://" not in place and path.is_dir():
        if not is_study(path):
            raise InputError(f"{path} must be the folder of a study, a database file, a journal file or a URL, but is "
                             "another folder")
        with locked(path):
            return _repaired(storage_url(path, read_description(path).settings.storage))
    if "://" not in place and not path.is_file():
        raise InputError(f"there is no {place}: give the folder of a study, a database file, a journal file or a URL")
    return _repaired(place if "://" in place or is_journal(place) else sqlite_url(path))


def _repaired(url: str) -> list[str]:
    if is_journal(url):
        if not Path(url).is_file():
            raise StorageError(f"{url} must be there to be repaired, but is gone")
        with storage_errors(url):
            return mend_journal(Path(url))
    database, shown = sqlite_path(url), shown_url(url)
    if database is None:
        check_storage(url)
        copy = None
    else:
        copy = _copied(database)
    before = after = ""
    try:
        before, after = upgrade_schema(url)
    finally:
        if copy is not None and before == after:
            copy.unlink()
    if before == after:
        return [f"{database or shown}: its tables are those of the installed Optuna ({after}); nothing was changed"]
    return [f"{database or shown}: its tables were brought from {before} to {after}",
            *([f"the database as it was: {copy}"] if copy is not None else [])]


def _copied(database: Path) -> Path:
    """A copy of a database file that is whole. StorageError where it is not."""
    if not database.is_file():
        raise StorageError(f"{database} must be there to be repaired, but is gone")
    copy = free_name(database, "before-repair")
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as source:
            (verdict,), *_ = source.execute("PRAGMA integrity_check").fetchall()
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
            with closing(sqlite3.connect(copy)) as target:
                source.backup(target)
    except sqlite3.Error as error:
        copy.unlink(missing_ok=True)
        raise StorageError(f"{database} must be a whole SQLite database to be repaired, but: {error}. Go back to a "
                           "copy of it; nothing was changed") from None
    return copy
