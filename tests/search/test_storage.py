"""The study's database: what is stored comes back, what cannot be used is left as it is."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest

from autocompress.core.evaluation import Candidate, Evaluation
from autocompress.core.front import objectives
from autocompress.core.plan import Plan, Step
from autocompress.errors import InputError, StorageError, StudyMismatchError
from autocompress.search.databases import open_storage, sqlite_path, storage_url
from autocompress.search.samplers.make import make_sampler
from autocompress.search.storage import (
    candidates,
    create_study,
    load_study,
    require_same,
    store_candidate,
    store_rung,
)
from autocompress.tasks.classification.metric import ACCURACY

DIRECTIONS = objectives(ACCURACY)
IDENTITY = {"model": "abc", "data": "def", "seed": 0}


def _study(url: str) -> optuna.Study:
    return create_study(open_storage(url), "mine", make_sampler("random", 0), IDENTITY, DIRECTIONS)


@pytest.mark.parametrize("url", ["sqlite", "journal.log"])
def test_candidates_come_back_from_a_new_connection(tmp_path: Path, url: str) -> None:
    url = storage_url(tmp_path, None) if url == "sqlite" else str(tmp_path / url)
    study = _study(url)
    trial = study.ask()
    plan = Plan.of([Step("conv1", "prune", {"keep": 8})])
    zero, one = (Evaluation(rung=r, metrics={"accuracy": 0.5 + r / 10, "size_bytes": 9.0, "latency_ms": 1.0},
                            sources={"accuracy": "measured"}) for r in (0, 1))
    store_candidate(trial, Candidate(trial=0, status="complete", plan=plan, evaluations=(zero,)))
    study.tell(trial, [0.5, 9.0, 1.0])
    store_rung(study, 0, one)
    study.ask()
    again = load_study(open_storage(url), "mine")
    assert again is not None
    require_same(again, IDENTITY, DIRECTIONS)
    first, second = candidates(again)
    assert first == Candidate(trial=0, status="complete", plan=plan, evaluations=(zero, one))
    assert (second.status, second.reason) == ("running", "not finished")
    assert load_study(open_storage(url), "other") is None


SEARCHER = """
import sys
from autocompress.search.databases import open_storage
from autocompress.search.storage import load_study
load_study(open_storage(sys.argv[1]), "mine").set_user_attr("late", sys.argv[2])
"""


def test_what_another_process_writes_stays_while_this_one_has_the_study_open(tmp_path: Path) -> None:
    """As `watch`, or a notebook, beside a search. A look at the file outside SQLite gives up the locks of this process:
    the other one then removes the log when it leaves, and what it wrote is overwritten from here."""
    url = storage_url(tmp_path, None)
    held: list[Any] = [_study(url)]
    for word in ("one", "two", "three"):
        held.append(load_study(open_storage(url), "mine"))
        subprocess.run([sys.executable, "-c", SEARCHER, url, word], check=True)
        assert (tmp_path / "study.db-wal").exists(), "this process has the database open"
        assert all(study.user_attrs["late"] == word for study in held)
    held.clear()
    gc.collect()
    again = load_study(open_storage(url), "mine")
    assert again is not None and again.user_attrs["late"] == "three"


@pytest.mark.parametrize("content", [b"this is not a database, but somebody's thesis", b"SQLite format 3\x00 torn",
                                     b"SQLite format 3\x00" + bytes(range(256)) * 40])
def test_what_is_no_database_is_refused_and_untouched(tmp_path: Path, content: bytes) -> None:
    """Fault 9."""
    path = tmp_path / "study.db"
    path.write_bytes(content)
    with pytest.raises(StorageError, match="Nothing was overwritten") as caught:
        open_storage(storage_url(tmp_path, None))
    assert caught.value.exit_code == 4
    assert path.read_bytes() == content


def test_a_damaged_page_is_a_storage_error(tmp_path: Path) -> None:
    url = storage_url(tmp_path, None)
    study = _study(url)
    for _ in range(3):
        study.ask()
    study._storage.remove_session()
    path = tmp_path / "study.db"
    content = bytearray(path.read_bytes())
    content[100:] = b"\xa5" * (len(content) - 100)
    path.write_bytes(bytes(content))
    for journal in (tmp_path / "study.db-wal", tmp_path / "study.db-shm"):
        journal.unlink(missing_ok=True)
    with pytest.raises(StorageError):
        load_study(open_storage(url), "mine")


def test_a_folder_in_place_of_the_database(tmp_path: Path) -> None:
    (tmp_path / "study.db").mkdir()
    with pytest.raises(StorageError):
        open_storage(storage_url(tmp_path, None))


@pytest.mark.parametrize("url", ["nonsense://x", "no url at all", "sqlite+x:///a.db"])
def test_urls_that_nobody_understands(url: str) -> None:
    with pytest.raises(InputError, match="--storage must be a URL"):
        open_storage(url)


def test_another_study_is_refused_with_all_differences(tmp_path: Path) -> None:
    """Fault 15."""
    study = _study(storage_url(tmp_path, None))
    with pytest.raises(StudyMismatchError) as caught:
        require_same(study, {"model": "abc", "data": "xyz", "seed": 1, "space": "new"}, DIRECTIONS)
    text = str(caught.value)
    assert "data: stored 'def', now 'xyz'" in text
    assert "seed: stored 0, now 1" in text
    assert "space: stored None, now 'new'" in text
    assert "model" not in text
    assert "--force-new-study" in text
    assert caught.value.exit_code == 2


def test_an_identity_in_the_words_of_an_earlier_release_is_the_same(tmp_path: Path) -> None:
    study = _study(storage_url(tmp_path, None))
    identity = {**IDENTITY, "seed": "exactly 0"}
    require_same(study, identity, DIRECTIONS, former={"seed": ["about 0", IDENTITY["seed"]]})
    with pytest.raises(StudyMismatchError, match="seed: stored 0, now 'exactly 0'"):
        require_same(study, identity, DIRECTIONS, former={"seed": ["about 0"]})


def test_other_directions_are_refused(tmp_path: Path) -> None:
    study = optuna.create_study(storage=open_storage(storage_url(tmp_path, None)), study_name="s",
                                directions=["minimize"])
    with pytest.raises(StudyMismatchError, match=r"directions: stored \['minimize'\]"):
        require_same(study, {}, DIRECTIONS)


@pytest.mark.parametrize("name", ["a b", "a?b", "a%20b", "100%", "a#b", "é", "a{b}", "a&b=c", "a@b:c", "~x"])
def test_a_folder_of_any_name_holds_its_own_database(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    url = storage_url(folder, None)
    assert sqlite_path(url) == (folder / "study.db").resolve()
    optuna.create_study(storage=open_storage(url), study_name="x")
    assert (folder / "study.db").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]
