"""Databases of other versions: older tables are brought up to date by `repair`, newer ones are refused."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
import pytest

from autocompress.errors import InputError, StorageError
from autocompress.search.databases import DATABASE, open_storage, sqlite_url
from autocompress.study.repair import repair

# As Optuna 2.10 wrote it.
OLD = Path(__file__).parents[1] / "golden" / "optuna-2.10.sql"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A database of Optuna 2.10: a study of two objectives and four trials, one of them open."""
    path = tmp_path / DATABASE
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(OLD.read_text())
    return path


def test_older_tables_are_refused_with_the_command_and_brought_up_to_date_by_it(old: Path) -> None:
    """Fault 16."""
    before = old.read_bytes()
    with pytest.raises(StorageError, match=r"made with an older Optuna.*`autocompress repair`") as caught:
        open_storage(sqlite_url(old))
    assert caught.value.exit_code == 4
    log = logging.getLogger("autocompress.search.engine")
    said = repair(str(old))
    assert "tables were brought from v2.6.0.a to" in said[0] and not log.disabled
    assert _content(Path(f"{old}.before-repair")) == _content_of(before, old.parent / "again.db")
    study = optuna.load_study(storage=open_storage(sqlite_url(old)), study_name="old")
    assert [len(trial.values or ()) for trial in study.trials] == [2, 2, 2, 0]
    assert study.user_attrs == {"identity": {"model": "abc"}}
    assert "nothing was changed" in repair(str(old))[0]


def _content(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def _content_of(data: bytes, path: Path) -> list[str]:
    path.write_bytes(data)
    return _content(path)


def test_newer_tables_are_refused(old: Path) -> None:
    with closing(sqlite3.connect(old)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v99.0.0.a'")
    for call in (lambda: open_storage(sqlite_url(old)), lambda: repair(str(old))):
        with pytest.raises(StorageError, match=r"made with a newer Optuna than .*pip install -U optuna"):
            call()
    assert not Path(f"{old}.before-repair").exists()


def test_what_is_damaged_beyond_repair_is_said_to_be(old: Path, tmp_path: Path) -> None:
    content = bytearray(old.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    old.write_bytes(bytes(content))
    with pytest.raises(StorageError, match=r"must be a whole SQLite database to be repaired.*nothing was changed"):
        repair(str(old))
    assert old.read_bytes() == bytes(content)
    with pytest.raises(InputError, match="there is no"):
        repair(str(tmp_path / "none.db"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="must be the folder of a study"):
        repair(str(tmp_path / "empty"))
