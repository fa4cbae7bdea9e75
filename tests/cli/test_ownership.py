"""Whatever is in a folder that no study wrote is there afterwards."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as tests
from hypothesis import strategies as st

from autocompress.errors import InputError, StorageError
from autocompress.study import open_study
from autocompress.study.folder_claim import claimed
from autocompress.study.ownership import discard, is_own

NAMES = ["weights", "teacher", "files", "report", "artifact", "a.tmp", "mine.tmp", "study.notes.tmp",
         ".model.onnx.7.tmp", "study.db", "study.json", "study.lock", "model.onnx", "README.md", "manifest.json",
         "pareto.html", "trials.csv", "trials.json", "teacher-1.safetensors", f"{'a' * 64}-1.safetensors", "notes"]
CONTENTS = [b"", b"mine", b"{}", b'{"schema": "autocompress/lock"}', b'{"schema": "other", "files": {}}',
            b"trial,status,x"]
TREES = st.dictionaries(st.lists(st.sampled_from(NAMES), min_size=1, max_size=2).map("/".join),
                        st.sampled_from([*CONTENTS, None]), max_size=6)
"""Contents of files by path; None is a folder."""


def plant(folder: Path, tree: dict[str, bytes | None]) -> None:
    for name, content in tree.items():
        path = folder / name
        with suppress(OSError):  # a folder where a file is, or the other way round
            (path if content is None else path.parent).mkdir(parents=True, exist_ok=True)
            if content is not None and not path.exists():
                path.write_bytes(content)


def entries(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@contextmanager
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@given(TREES, st.booleans(), st.booleans())
def test_claiming_and_replacing_what_is_no_study_removes_nothing(tree: dict[str, bytes | None], resume: bool,
                                                                 replace: bool) -> None:
    with place() as folder:
        plant(folder, tree)
        before = entries(folder)
        with suppress(InputError), claimed(folder, resume=resume, replace=replace and not resume):
            discard(folder)
        assert entries(folder) == before


@pytest.fixture(scope="module")
def study(finished: Any) -> Path:
    folder: Path = finished.folder
    return folder


def written(study: Path) -> set[str]:
    return {name for name, content in entries(study).items() if content is not None}


@tests(max_examples=40)
@given(tree=TREES)
def test_replacing_a_study_removes_what_it_wrote_and_nothing_else(study: Path, tree: dict[str, bytes | None]) -> None:
    with place() as parent:
        folder = parent / "study"
        shutil.copytree(study, folder)
        wrote = written(study)
        plant(folder, {name: content for name, content in tree.items() if not name.startswith("study.lock")})
        mine = {name: content for name, content in entries(folder).items() if name not in wrote and content is not None}
        with claimed(folder, resume=False, replace=True):
            discard(folder)
        left = entries(folder)
        assert mine.items() <= left.items()
        assert {name for name, content in left.items() if content is not None} == set(mine)


@tests(max_examples=8)
@given(tree=TREES, where=st.sampled_from(["artifact", "report"]))
def test_a_report_and_an_artefact_replace_only_their_own(study: Path, tree: dict[str, bytes | None],
                                                         where: str) -> None:
    from autocompress.artifact.folder import read_manifest, write_artifact

    with place() as folder:
        plant(folder, tree)
        before = entries(folder)
        with suppress(InputError):
            if where == "report":
                open_study(study).report(folder)
            else:
                write_artifact(folder, {"model.onnx": b"onnx"}, read_manifest(study / "artifact"), "card")
        assert before.items() <= entries(folder).items()


def test_a_changed_artefact_is_set_aside(study: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    shutil.copytree(study, folder)
    (folder / "artifact" / "README.md").write_text("my own words")
    with claimed(folder, resume=False, replace=True):
        discard(folder)
    assert entries(folder) == {"artifact": None, "artifact/README.md.changed": b"my own words"}


def test_a_folder_that_was_there_stays_and_one_that_was_made_goes(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name in ("there", "made/below"):
        with pytest.raises(ZeroDivisionError), claimed(tmp_path / name, resume=False, replace=False):
            raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_lock_that_is_somebody_elses_is_not_taken(study: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    shutil.copytree(study, folder)
    (folder / "study.lock").write_text("mine")
    with pytest.raises(InputError, match=r"study\.lock must be the lock"), claimed(folder, resume=True, replace=False):
        pass
    assert (folder / "study.lock").read_text() == "mine"


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with claimed(tmp_path, resume=False, replace=False):
        assert is_own(tmp_path)
        for resume in (True, False):
            with pytest.raises(StorageError, match=f"process {os.getpid()} on .* since 20.* is at work") as caught, \
                    claimed(tmp_path, resume=resume, replace=not resume):
                pass
            assert caught.value.exit_code == 4
    assert list(tmp_path.iterdir()) == []
    with claimed(tmp_path, resume=False, replace=False):
        pass


def test_a_lock_that_was_left_is_taken_over_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import socket

    owner = {"schema": "autocompress/lock", "pid": 2**22 + 1, "host": socket.gethostname(), "since": "yesterday"}
    (tmp_path / "study.lock").write_text(json.dumps(owner))
    with claimed(tmp_path, resume=False, replace=False):
        assert f"process {2**22 + 1}" in caplog.text and "taking over" in caplog.text
    (tmp_path / "study.lock").write_text(json.dumps(owner | {"host": "elsewhere"}))
    with pytest.raises(StorageError, match=r"on elsewhere since yesterday.*delete"), \
            claimed(tmp_path, resume=False, replace=False):
        pass


def test_export_beside_a_live_run_is_refused(cli: Callable[..., Any], study: Path, tmp_path: Path) -> None:
    with claimed(study, resume=True, replace=False):
        out = cli("export", str(study), "--out", str(tmp_path / "a"), "--trust-code")
        assert out.code == 4 and "at work on it" in out.err and "building" not in out.err
        assert not (tmp_path / "a").exists()
        assert cli("show", str(study)).code == 0, "looking is always allowed"


@pytest.mark.parametrize(("change", "told"), [
    ({"version": 99}, "newer autocompress"), ({"shape": 1}, r"does not know \(\$\.shape\)"),
    ({"schema": "autocompress/plan"}, "must be a 'autocompress/study'")])
def test_a_description_of_a_newer_release_is_refused(study: Path, tmp_path: Path, change: dict[str, Any],
                                                     told: str) -> None:
    document = json.loads((study / "study.json").read_bytes())
    (tmp_path / "study.json").write_text(json.dumps(document | change))
    (tmp_path / "study.db").write_bytes(b"")
    with pytest.raises(InputError, match=told):
        open_study(tmp_path)


def test_a_bound_of_a_newer_release_is_not_dropped(study: Path, tmp_path: Path) -> None:
    document = json.loads((study / "study.json").read_bytes())
    document["budget"]["energy_mj"] = 3
    (tmp_path / "study.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"\$\.budget\.energy_mj"):
        open_study(tmp_path)


@pytest.fixture
def copied(study: Path, tmp_path: Path) -> Path:
    """A finished study that a test may damage, beside a database of its own."""
    return Path(shutil.copytree(study, tmp_path / "small"))


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
def test_a_changed_artefact_is_said_and_exported_anew(cli: Callable[..., Any], finished: Any, copied: Path,
                                                      name: str) -> None:
    file, before = copied / "artifact" / name, (copied / "artifact" / "model.onnx").read_bytes()
    file.write_bytes(file.read_bytes() + b" ")
    for command in (("show", str(copied)), ("report", str(copied))):
        said = cli(*command)
        assert said.code == 0 and f"{name} was changed since it was verified" in said.err
    again = cli("search", "--resume", "--out", str(copied), "--trust-code", "--quiet", "--json")
    assert again.code == 0 and f"{name} was changed" in again.err and "exported anew" in again.err
    assert (copied / "artifact" / "model.onnx").read_bytes() == before
    assert again.document["artifact"]["verified"] is True and open_study(copied).artifact_fault == ""
    assert (file.with_name("model.onnx.changed").exists()) == (name == "model.onnx")


def test_trained_weights_that_are_gone_or_changed_are_never_replaced_by_untrained_ones(
    cli: Callable[..., Any], copied: Path, tmp_path: Path
) -> None:
    trained = next(c for c in open_study(copied).candidates if c.rung and c.best and c.plan)
    assert trained.best is not None and trained.plan is not None
    path = copied / "weights" / f"{trained.plan.fingerprint}-{trained.rung}.safetensors"
    assert trained.best.weights
    shutil.rmtree(copied / "files")  # where the file that was scored is kept, that is what ships
    other = next(p for p in (copied / "weights").iterdir() if p != path)
    for damage, told in ((lambda: shutil.copyfile(other, path), "have changed"), (path.unlink, "are gone")):
        damage()
        out = cli("export", str(copied), "--trial", str(trained.trial), "--out", str(tmp_path / "a"), "--trust-code")
        assert out.code == 4 and told in out.err and "this is a bug" not in out.err
        assert not (tmp_path / "a").exists()
