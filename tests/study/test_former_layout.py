"""A study of the previous layout, as a search of that release left it: it is opened, shown and gone on with.

`tests/golden/study-1` was made by `autocompress search --model net.py:make --weights net.safetensors --data
npz:data.npz --profile board.toml --space space.toml --budget 2.8kB --max-drop 50% --macs 1M --latency 900ms --mean 0.0
--std 1.0 --trials 2 --effort fast --epochs 1 --sampler random --out study`; its database is kept as SQL.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sqlite3
from pathlib import Path

import pytest

import autocompress
from autocompress.cli.main import main
from autocompress.core.wire import encode_flat
from autocompress.errors import InputError, StudyMismatchError
from autocompress.study.folder import SCHEMA, read_description
from autocompress.study.resume import with_stored
from autocompress.study.settings import SearchSettings

FIXTURE = Path(__file__).parents[1] / "golden" / "study-1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy whose files name its own place."""
    shutil.copytree(FIXTURE, tmp_path, dirs_exist_ok=True)
    study = tmp_path / "study"
    for file in (study / "study.json", study / "study.sql", study / "artifact" / "manifest.json"):
        file.write_text(file.read_text("utf-8").replace("{folder}", str(tmp_path)), "utf-8")
    with contextlib.closing(sqlite3.connect(study / "study.db")) as database:
        database.executescript((study / "study.sql").read_text("utf-8"))
    (study / "study.sql").unlink()
    return study


def test_it_is_read_as_values(folder: Path) -> None:
    place, description = folder.parent, read_description(folder)
    assert description.settings == SearchSettings(
        model=f"{place}/net.py:make", weights=place / "net.safetensors", data=f"npz:{place}/data.npz", mean=(0.0,),
        std=(1.0,), profile=f"{place}/board.toml", space=f"{place}/space.toml", budget=2800, macs=1_000_000,
        latency={"": 900.0}, max_drop=0.5, sampler="random", effort="fast", trials=2, epochs=1)
    assert description.sensitivities and description.attribution is not None
    assert all(step.sensitivity is not None for step in description.attribution.steps)
    assert description.objects == () and description.settings.bounds(["board"]) == description.budget
    (folder / "study.json").write_bytes(encode_flat(description, SCHEMA))
    assert read_description(folder) == description and json.loads((folder / "study.json").read_bytes())["version"] == 2


def test_a_damaged_one_is_named(folder: Path) -> None:
    document = json.loads((folder / "study.json").read_bytes())
    for change in ({"given": {"mean": "a"}}, {"budget": 3}, {"seed": "x"}, {"unheard": 1}):
        (folder / "study.json").write_text(json.dumps(document | change))
        with pytest.raises(InputError, match=r"study\.json"):
            read_description(folder)
    (folder / "study.json").write_text(json.dumps(document | {"given": {**document["given"], "model": None}}))
    assert read_description(folder).objects == ("model",)
    with pytest.raises(InputError, match=r"model must be given, because .* was made from a Python object"):
        with_stored({"resume": True, "out": folder})


def test_it_is_shown(folder: Path) -> None:
    assert autocompress.open_study(folder).best.trial == 0
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["show", str(folder)]) == 0
    assert "random" in out.getvalue() or "trial" in out.getvalue()


def test_it_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its identity had the budget as text and the space with the former name of a rounding method."""
    monkeypatch.chdir(folder.parent)
    result = autocompress.search(resume=True, out="study")
    assert len(result.trials) == 2 and result.best.trial == 0 and result.artifact["verified"]
    assert json.loads((folder / "study.json").read_bytes())["settings"]["budget"] == 2800
    with pytest.raises(StudyMismatchError, match="budget: stored"):
        autocompress.search(resume=True, out="study", budget=2804)
