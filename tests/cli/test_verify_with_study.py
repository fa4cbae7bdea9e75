"""`verify --study`: the artefact of a finished search beside its network and test data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]


@pytest.fixture
def artifact(finished: Any, tmp_path: Path) -> Path:
    """What the search exported, from another machine: how fast this one is must not matter."""
    folder = Path(shutil.copytree(finished.folder / "artifact", tmp_path / "artifact"))
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"machine": {"processor": "another", "system": ""}}))
    return folder


def test_the_network_is_rebuilt_and_the_test_split_scored(cli: Cli, finished: Any, artifact: Path) -> None:
    out = cli("verify", str(artifact), "--study", str(finished.folder), "--trust-code", "--json")
    assert out.code == 0, out.err
    checks = {check["name"]: check for check in out.document["checks"]}
    assert {name: check["state"] for name, check in checks.items()} == {
        "manifest": "holds", "signature": "skipped", "files": "holds", "size": "holds", "load": "holds",
        "agreement": "holds", "latency": "skipped", "study": "holds", "network": "holds", "metric": "holds"}
    assert "rebuilt network" in checks["network"]["found"] and "test split" in checks["metric"]["found"]


def test_a_users_file_runs_only_when_trusted(cli: Cli, finished: Any, artifact: Path) -> None:
    out = cli("verify", str(artifact), "--study", str(finished.folder))
    assert out.code == 2 and "--trust-code" in out.err


@pytest.mark.parametrize(("key", "value", "check"), [
    ("fingerprints", {"model": "another", "data": "d"}, "study"), ("plan_fingerprint", "another", "network"),
    ("trial", 99, "network"), ("verified", {"accuracy": 0.01}, "metric")])
def test_an_artefact_of_something_else_fails(cli: Cli, finished: Any, artifact: Path, key: str, value: Any,
                                             check: str) -> None:
    path = artifact / "manifest.json"
    manifest = json.loads(path.read_bytes())
    path.write_text(json.dumps(manifest | {key: manifest[key] | value if isinstance(value, dict) else value}))
    out = cli("verify", str(artifact), "--study", str(finished.folder), "--trust-code", "--json")
    assert out.code == 2
    assert [one["name"] for one in out.document["checks"] if one["state"] == "fails"] == [check]
