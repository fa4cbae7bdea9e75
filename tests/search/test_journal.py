"""Journal files: a torn end is cut off and kept, a line that is no record is named, `repair` leaves it out."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import optuna
import pytest

from autocompress.errors import StorageError
from autocompress.search.databases import open_storage
from autocompress.study.repair import repair


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A journal of one study of three trials."""
    path = tmp_path / "study.log"
    study = optuna.create_study(storage=open_storage(str(path)), study_name="s")
    for value in range(3):
        study.tell(study.ask(), value)
    return path


def _trials(path: Path) -> list[float | None]:
    study = optuna.load_study(storage=open_storage(str(path), extend=False), study_name="s")
    return [trial.value for trial in study.trials]


def test_a_torn_end_is_cut_off_and_kept(journal: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Fault 5."""
    whole = journal.read_bytes()
    *_, last = whole.splitlines(keepends=True)
    journal.write_bytes(whole[:-20])
    assert len(_trials(journal)) == 3 and journal.read_bytes() == whole[:-20], "reading changes nothing"
    with caplog.at_level(logging.WARNING):
        study = optuna.load_study(storage=open_storage(str(journal)), study_name="s")
    assert journal.read_bytes() == whole[:-len(last)] and "torn line" in caplog.text
    assert (journal.parent / "study.log.torn").read_bytes() == last[:-20]
    study.ask()
    assert len(_trials(journal)) == 4


def test_a_line_that_is_no_record_is_named_and_can_be_left_out(journal: Path) -> None:
    """Fault 6."""
    lines = journal.read_bytes().splitlines(keepends=True)
    damaged = b"".join([*lines[:-1], b'{"op_code": 6, "wor\x00\n', b"[]\n", lines[-1]])
    journal.write_bytes(damaged)
    for extend in (False, True):
        with pytest.raises(StorageError, match=rf"line {len(lines)} is none, nor are 1 others: `autocompress repair"):
            open_storage(str(journal), extend=extend)
    assert journal.read_bytes() == damaged
    said = repair(str(journal))
    assert said == [f"{journal}: left out lines {len(lines)}, {len(lines) + 1}",
                    f"the file as it was: {journal}.before-repair"]
    assert _trials(journal) == [0, 1, 2] and Path(f"{journal}.before-repair").read_bytes() == damaged
    assert repair(str(journal)) == [f"{journal}: every line is a record; nothing was changed"]


def test_what_is_said_of_a_lost_trial_is_passed_over(journal: Path) -> None:
    lines = journal.read_bytes().splitlines(keepends=True)
    creations = [n for n, line in enumerate(lines) if json.loads(line)["op_code"] == 4]
    lines[creations[-1]] = b"lost\n"
    journal.write_bytes(b"".join(lines) + b'{"torn')
    said = repair(str(journal))
    assert said[:2] == [f"{journal}: left out line {creations[-1] + 1}", f"{journal}: cut off a torn last line"]
    assert _trials(journal) == [0, 1]
