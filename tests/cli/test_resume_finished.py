"""Resuming a study that has nothing left to do: nothing is traced, and what has changed is still seen."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import autocompress
from autocompress.core.budget import Budget
from autocompress.errors import InfeasibleError
from autocompress.study import open_study, stages
from autocompress.study.finished import mark_of
from autocompress.study.folder import read_description, write_description
from autocompress.study.settings import SearchSettings

Cli = Callable[..., Any]


@pytest.fixture
def study(finished: Any, tmp_path: Path) -> Path:
    """A copy of the finished study."""
    return Path(shutil.copytree(finished.folder, tmp_path / "small"))


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where a search gets beyond loading."""
    monkeypatch.setattr(stages, "trace", lambda *_: pytest.fail("nothing is left to do"))


def _resumed(cli: Cli, study: Path, *more: str) -> Any:
    return cli("search", "--resume", "--out", str(study), "--trust-code", *more)


@pytest.mark.usefixtures("untraced")
def test_nothing_is_traced_and_the_document_is_the_same(cli: Cli, finished: Any, study: Path) -> None:
    before = (study / "study.json").read_bytes()
    shutil.rmtree(study / "report")
    again = _resumed(cli, study, "--json")
    assert again.code == 0 and "nothing is left to do" in again.err
    for key in ("baseline", "best", "front", "trials", "warnings"):
        assert again.document[key] == finished.outcome.document[key]
    assert Path(again.document["report"]).is_file(), "a report that is gone is written anew"
    assert (study / "study.json").read_bytes() == before


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("what", ["weights", "data"])
def test_weights_and_data_that_have_changed_are_refused(cli: Cli, study: Path, task: Any, tmp_path: Path,
                                                        what: str) -> None:
    weights, stored = load_file(task.folder / "net.safetensors"), np.load(task.folder / "data.npz")
    save_file({name: values * 1.01 for name, values in weights.items()}, tmp_path / "net.safetensors")
    np.savez(tmp_path / "data.npz", x=stored["x"] + 1, y=stored["y"])
    changed = {"weights": tmp_path / "net.safetensors", "data": f"npz:{tmp_path}/data.npz"}
    described = read_description(study)
    write_description(study, msgspec.structs.replace(
        described, settings=msgspec.structs.replace(described.settings, **{what: changed[what]})))
    out = _resumed(cli, study)
    assert out.code == 2 and {"weights": "model", "data": "data"}[what] in out.err, out.err


def test_what_is_left_to_do_is_done(cli: Cli, study: Path) -> None:
    more = _resumed(cli, study, "--trials", "4", "--json")
    assert more.code == 0 and sum(more.document["trials"].values()) == 4
    again = _resumed(cli, study, "--json")
    assert again.code == 0 and "nothing is left to do" in again.err


def test_what_was_resumed_can_be_exported(study: Path, task: Any, tmp_path: Path,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(stages, "trace", lambda *_: pytest.fail("nothing is left to do"))
        result = autocompress.search(resume=True, out=study)
    assert result.export(tmp_path / "exported").stat().st_size == result.artifact["size_bytes"]  # type: ignore[index]


def test_what_a_clock_has_not_cut_short_is_finished(cli: Cli, study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished = read_description(study).finished
    write_description(study, msgspec.structs.replace(read_description(study), finished=""))
    assert _resumed(cli, study, "--timeout", "10m").code == 0
    assert read_description(study).finished == finished
    monkeypatch.setattr(stages, "trace", lambda *_: pytest.fail("nothing is left to do"))
    assert "nothing is left to do" in _resumed(cli, study, "--timeout", "10m").err


@pytest.mark.parametrize(("change", "is_finished"), [
    ({}, True), ({"is_stopped": True}, False), ({"timeout": 60.0}, True), ({"storage": "postgresql://host/db"}, False),
    ({"is_cut_short": True}, False), ({"trials": 4}, False), ({"infeasible": InfeasibleError("nothing fits")}, False),
    ({"is_explained": False}, False),
    ({"failure": "timeout: it took too long"}, False), ({"failure": "it diverged"}, True)])
def test_a_run_that_another_would_go_on_with_is_not_finished(study: Path, change: dict[str, Any],
                                                             is_finished: bool) -> None:
    result = open_study(study)
    store = SimpleNamespace(watched=lambda: ("3", {}),
                            failures=lambda: {(0, 1): change["failure"]} if "failure" in change else {})
    settings = SearchSettings(timeout=change.get("timeout"), storage=change.get("storage"),
                              trials=change.get("trials", 3))
    run = SimpleNamespace(request=SimpleNamespace(settings=settings, budget=Budget()),
                          is_cut_short=change.get("is_cut_short", False), stop=lambda: change.get("is_stopped", False))
    explained = SimpleNamespace(finished=change.get("is_explained", True))
    measured = SimpleNamespace(store=store, reference=result.reference,
                               result=SimpleNamespace(attribution=explained, candidates=result.candidates))
    assert bool(mark_of(run, measured, change.get("infeasible"))) == is_finished  # type: ignore[arg-type]
