"""Databases of studies: where they are, opening them, and what is said of one that cannot be used."""

from __future__ import annotations

import logging
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import optuna

from autocompress.core.quiet import quiet
from autocompress.errors import EnvironmentFault, InputError, StorageError
from autocompress.search.journal import is_journal, open_journal
from autocompress.search.reconnecting import Patient
from autocompress.search.storage_urls import check_storage, shown_url, usable_url, without_password
from autocompress.search.trial_storage import Database, TrialStorage

DATABASE = "study.db"
# Seconds in which a server must take a connection, and those of silence after which a connection counts as cut.
CONNECT_SECONDS, SILENT_SECONDS = 10, 30
# By dialect, what makes a driver notice a cut connection.
KEEPALIVE: dict[str, dict[str, Any]] = {
    "postgresql": {"connect_timeout": CONNECT_SECONDS, "keepalives": 1, "keepalives_idle": 10,
                   "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 1000 * SILENT_SECONDS},
    "mysql": {"connect_timeout": CONNECT_SECONDS, "read_timeout": SILENT_SECONDS, "write_timeout": SILENT_SECONDS},
}


def storage_url(folder: Path, url: str | None) -> str:
    """The URL given, or SQLite inside the study's folder."""
    return url or sqlite_url(folder / DATABASE)


def sqlite_url(database: Path) -> str:
    """The URL of a database file: what SQLAlchemy and Optuna would take for an escape, a query or a template in its
    path is escaped."""
    path = str(database.resolve())
    return "sqlite:///" + "".join(f"%{ord(c):02X}" if c in "%?{}" else c for c in path)


def sqlite_path(url: str) -> Path | None:
    """The database file of a SQLite URL; None for other storages."""
    if not url.startswith("sqlite:///"):
        return None
    return Path(unquote(url.removeprefix("sqlite:///").partition("?")[0]))


@contextmanager
def storage_errors(what: str, url: str = "") -> Iterator[None]:
    """Database faults become StorageError with their first line."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, OSError) as error:
        cause = without_password(str(error.__cause__ or error).strip().splitlines()[0], url)
        raise StorageError(f"{what} must be a usable study database, but: {cause}. Nothing was overwritten") from error


def open_storage(url: str, *, extend: bool = True, alone: bool = False) -> optuna.storages.BaseStorage:
    """Any Optuna storage by URL: SQLite in write-ahead mode, waiting up to a minute for a lock; a server's with the
    patience of `Patient`; a journal file. `extend`: trials will be added, so that a torn end may be mended. `alone`: no
    other process will add any.

    StorageError for what is no database of this version, EnvironmentFault where a driver is missing.
    """
    if is_journal(url):
        with storage_errors(url):
            return open_journal(Path(url), mend=extend)
    path = sqlite_path(url)
    if path is None:
        return _of_server(url)
    _require_database(path)
    with storage_errors(str(path)), _versions(str(path)):
        from sqlalchemy import event

        storage = Database(url, engine_kwargs={"connect_args": {"timeout": 60}})
        storage.engine.dispose()
        event.listen(storage.engine, "connect", _in_write_ahead_mode)
        with storage.engine.connect():
            return TrialStorage(storage, alone=alone)


def _in_write_ahead_mode(connection: Any, _: Any) -> None:
    """Every thread has a connection. In this mode NORMAL loses nothing when the process is killed, only when the power
    goes."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def upgrade_schema(url: str) -> tuple[str, str]:
    """Bring the tables of a database to what the installed Optuna reads; returned are the revisions before and after.
    StorageError for one that a newer Optuna made."""
    shown = shown_url(url)
    with storage_errors(shown, url):
        storage = optuna.storages.RDBStorage(usable_url(url), skip_compatibility_check=True)
        before = storage.get_current_version()
        if before not in storage.get_all_versions():
            raise _of_newer(shown, f"its tables are {before}")
        with _logging_kept(), quiet("alembic", logging.WARNING), warnings.catch_warnings(action="ignore"):
            storage.upgrade()
        return before, storage.get_current_version()


@contextmanager
def _logging_kept() -> Iterator[None]:
    """Alembic reads a file of settings for all of `logging`: let it have no effect outside."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    enabled = [logger for logger in root.manager.loggerDict.values()
               if isinstance(logger, logging.Logger) and not logger.disabled]
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        for logger in enabled:
            logger.disabled = False


def _of_server(url: str) -> optuna.storages.BaseStorage:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    check_storage(url)
    url, shown = usable_url(url), shown_url(url)
    with storage_errors(shown, url), _versions(shown):
        try:
            dialect = make_url(url).get_backend_name()
            storage = Database(url, engine_kwargs={
                "pool_pre_ping": True, "connect_args": KEEPALIVE.get(dialect, {})})
            if dialect in ("mysql", "mariadb"):
                _widen(storage.engine)
        except ImportError as error:
            raise EnvironmentFault(f"--storage {shown} needs its database driver: {error}") from None
        except (ValueError, TypeError, ArgumentError) as error:
            raise InputError(f"--storage must be a URL that Optuna understands, but got {shown!r}: "
                             f"{without_password(str(error), url)}") from None
    return TrialStorage(Patient(storage, shown, lambda text: without_password(text, url)))


def _widen(engine: Any) -> None:
    """Let attributes hold candidates of large networks on MySQL, where Optuna's columns end at 64 KB."""
    from sqlalchemy import text

    tables = ("trial_user_attributes", "study_user_attributes")
    with engine.begin() as connection:
        narrow = connection.execute(text("SELECT table_name FROM information_schema.columns WHERE table_schema = "
                                         "DATABASE() AND column_name = 'value_json' AND data_type = 'text'")).scalars()
        for table in sorted({*narrow} & {*tables}):
            connection.execute(text(f"ALTER TABLE {table} MODIFY value_json LONGTEXT"))


@contextmanager
def _versions(shown: str) -> Iterator[None]:
    """What Optuna says of tables of another version becomes StorageError with the command that helps."""
    try:
        yield
    except RuntimeError as error:
        if "table schema" not in str(error):
            raise
        if "storage upgrade" not in str(error):
            raise _of_newer(shown, str(error).partition(". ")[0]) from error
        raise StorageError(f"{shown} was made with an older Optuna, whose tables must be brought up to date: "
                           f"`autocompress repair` with the study's folder or {shown} does that, and keeps a copy of a "
                           "file. Nothing was overwritten") from error


def _of_newer(shown: str, cause: str) -> StorageError:
    return StorageError(f"{shown} was made with a newer Optuna than {optuna.__version__}, which is installed: {cause}. "
                        "Install that one: pip install -U optuna. Nothing was overwritten")


def _require_database(path: Path) -> None:
    """StorageError for a file that is no database. SQLite looks itself: a process that opens and closes the file beside
    it gives up SQLite's locks, and the next process to leave removes a log that is still written to."""
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA schema_version")
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise StorageError(f"{path} must be a SQLite database, but it is something else or corrupt. "
                               "Nothing was overwritten; move it away or choose another --out") from error
