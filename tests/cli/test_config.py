"""`--config FILE`, and the recipes that ship."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from autocompress.cli.config import read_config
from autocompress.errors import InputError
from autocompress.study.settings import SearchSettings
from autocompress.tasks.factory import call_factory

Cli = Callable[..., Any]
RECIPES = sorted((Path(__file__).parents[2] / "studies").glob("*.toml"))


def test_dashes_and_folders(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('model = "net.py:make"\nweights = "/w/net.pt"\ndata = "npz:sub/data.npz"\n'
                                     'out = "s"\ndata-root = "d"\nspace = "mine.toml"\nprofile = "host"\n'
                                     'max-drop = "1%"\nbudget = 2000000\ntrials = 3\n')
    assert read_config(tmp_path / "c.toml") == {
        "model": f"{tmp_path}/net.py:make", "weights": "/w/net.pt", "data": f"npz:{tmp_path}/sub/data.npz",
        "out": f"{tmp_path}/s", "data_root": f"{tmp_path}/d", "space": f"{tmp_path}/mine.toml", "profile": "host",
        "max_drop": "1%", "budget": 2_000_000, "trials": 3}


def test_several_profiles_with_bounds(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('profile = ["host", "mine.toml"]\n[latency]\nhost = "2ms"\nboard = "80ms"\n')
    assert read_config(tmp_path / "c.toml") == {
        "profile": ["host", f"{tmp_path}/mine.toml"], "latency": {"host": "2ms", "board": "80ms"}}
    (tmp_path / "c.toml").write_text('latency = ["5ms", "board=80ms"]\n')
    budget = SearchSettings.of(**read_config(tmp_path / "c.toml")).bounds(["host", "board", "other"])
    assert budget.bounds == {"latency_ms": 5.0, "latency_ms@board": 80.0, "latency_ms@other": 5.0}
    assert budget.describe() == "latency ≤ 5 ms, latency on board ≤ 80 ms, latency on other ≤ 5 ms"


@pytest.mark.parametrize(("text", "told"), [
    ('profile = ["host", 3]', "`profile` must be text, but got 3"),
    ("profile = []", "`profile` must be text, but got []"),
    ("latency = [true]", "`latency` must be a number, or text with a unit"),
    ("[latency]\nhost = []", "`latency` must be a number, or text with a unit"),
    ('budgt = "2MB"', "`budgt` is not a known setting; did you mean `budget`?"),
    ("zzz = 1", "known are"),
    ('trials = "8"', "`trials` must be a whole number, but got '8'"),
    ("trials = true", "`trials` must be a whole number"),
    ("model = 3", "`model` must be text"),
    ("budget = [1]", "`budget` must be a number, or text with a unit"),
    ('max_drop = "1%"\nmax-drop = "2%"', "once"),
    ("trust_code = true", "on the command line"),
    ("resume = true", "on the command line"),
    ("budget = ", "valid TOML"),
    ('budget = "1MB"\nbudget = "2MB"', "valid TOML"),
])
def test_bad_files_are_named(cli: Cli, tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text)
    out = cli("search", "--config", str(file))
    assert out.code == 2 and out.err.startswith(f"error: {file}") and told in out.err and out.err.count("\n") == 1


def test_file_that_is_not_text(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes(b"\xff\xfe")
    assert cli("search", "--config", str(tmp_path / "c.toml")).code == 2
    missing = cli("search", "--config", str(tmp_path / "none.toml"))
    assert missing.code == 2 and "none.toml" in missing.err


def test_flags_override_the_file(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('budget = "2MB"\nsampler = "tpe"\n')
    out = cli("search", "--config", str(tmp_path / "c.toml"), "--sampler", "tep")
    assert out.code == 2 and "'tep'" in out.err


def test_code_that_only_the_file_names_is_not_run(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n"
                                     "raise ValueError('ran')\n")
    (tmp_path / "c.toml").write_text(f'model = "net.py:make"\ndata = "digits"\nout = "{tmp_path}/s"\n')
    refused = cli("search", "--config", str(tmp_path / "c.toml"))
    assert refused.code == 2 and not (tmp_path / "ran").exists() and not (tmp_path / "s").exists()
    assert f"code from {tmp_path}/net.py:make" in refused.err and "--trust-code" in refused.err
    trusted = cli("search", "--config", str(tmp_path / "c.toml"), "--trust-code", "--quiet")
    assert trusted.code == 2 and (tmp_path / "ran").exists()
    assert f"running code from {tmp_path}/net.py:make" in trusted.err
    (tmp_path / "ran").unlink()
    typed = cli("search", "--config", str(tmp_path / "c.toml"), "--model", f"{tmp_path}/net.py:make")
    assert (tmp_path / "ran").exists() and "running code" not in typed.err


def test_path_that_cannot_be(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('out = "a\\u0000b"\n')
    out = cli("search", "--config", str(tmp_path / "c.toml"))
    assert out.code == 2 and "--out must be a folder" in out.err and "\0" not in out.err


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_legal(recipe: Path) -> None:
    settings = read_config(recipe)
    assert SearchSettings.of(**settings).bounds(["host"]).size_bytes == 2_000_000
    assert settings["name"] == recipe.stem


def test_there_are_recipes() -> None:
    assert {"digits-2mb", "fashion-resnet18-2mb"} <= {path.stem for path in RECIPES}


def test_model_of_the_fashion_recipe() -> None:
    recipe = next(path for path in RECIPES if path.stem == "fashion-resnet18-2mb")
    model = call_factory(read_config(recipe)["model"], what="model", trust_code=True)
    assert model.eval()(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    with pytest.raises(InputError, match="trust"):
        call_factory(read_config(recipe)["model"], what="model", trust_code=False)


@pytest.mark.parametrize("line", ['task = "own.py:Mine"', 'format = "own.py:Mine"', 'technique = ["own.py:Mine"]',
                                  'executor = "own.py:Mine"', 'sampler = "own.py:Mine"'])
def test_what_is_the_users_own_is_named_beside_the_file_and_needs_trust(cli: Cli, tmp_path: Path, line: str) -> None:
    (tmp_path / "c.toml").write_text(line + "\n")
    name, _, _ = line.partition(" ")
    (value,) = read_config(tmp_path / "c.toml").values()
    assert value in (f"{tmp_path}/own.py:Mine", [f"{tmp_path}/own.py:Mine"])
    out = cli("search", "--config", str(tmp_path / "c.toml"))
    assert out.code == 2 and f"`{name}` would run code from {tmp_path}/own.py:Mine" in out.err
