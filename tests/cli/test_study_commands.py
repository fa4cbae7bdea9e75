"""show, export and report, on a finished study."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from autocompress.core.attribution import Attribution
from autocompress.study import open_study

Cli = Callable[..., Any]


def test_show_prints_metrics_and_plan(cli: Cli, finished: Any) -> None:
    out = cli("show", str(finished.folder))
    assert out.code == 0 and out.err == ""
    for word in ("the best", "Accuracy, validation", "measured", "estimated", "conv", "linear", "w/", "quantize "):
        assert word in out.out
    assert "\x1b" not in out.out


def test_show_json(cli: Cli, finished: Any) -> None:
    document = cli("show", str(finished.folder), "--trial", "1", "--json").document
    assert document["trial"] == 1 and document["study"] == "small"
    assert document["sources"]["latency_ms"] == "measured" and document["baseline"]["size_bytes"] > 0
    assert {row["layer"] for row in document["layers"]} >= {"0", "3", "8"}
    assert document["plan"]["steps"] and document["receipts"]


def test_show_tells_what_each_technique_of_the_best_plan_bought(cli: Cli, finished: Any) -> None:
    out, document = cli("show", str(finished.folder)), cli("show", str(finished.folder), "--json").document
    shares = {share["technique"]: share for share in document["attribution"]["techniques"]}
    for word in ("saved", *shares, "predicted sensitivity", "nats", "points"):
        assert word in out.out
    calibrated, size = document["attribution"]["calibrated"], document["attribution"]["estimated"]["size_bytes"]
    assert shares["quantize"]["without"]["size_bytes"] > size and shares["quantize"]["measured"]["accuracy"] <= 1
    assert calibrated["size_bytes"] == pytest.approx(size, rel=0.01)
    assert {step["sensitivity"] is not None for step in document["attribution"]["steps"]} == {True}
    stored = json.loads((finished.folder / "study.json").read_bytes())
    levels = document["agreement"]
    assert levels["candidates"]["predicted"] == levels["candidates"]["calibrated"] <= 3
    assert levels["correlations"][0]["lower"] == "predicted" and "distilled briefly" in out.out
    assert stored["attribution"] == document["attribution"] and len(stored["sensitivities"]) == 3
    other = next(n for n in range(3) if n != document["trial"])
    assert cli("show", str(finished.folder), "--trial", str(other), "--json").document["attribution"] is None
    artifact = finished.folder / "artifact"
    card, manifest = ((artifact / name).read_text("utf-8") for name in ("README.md", "manifest.json"))
    assert "## What each technique bought" in card and "| quantize |" in card
    assert json.loads(manifest)["attribution"] == document["attribution"]
    page = (finished.folder / "report" / "pareto.html").read_text("utf-8")
    assert "What each technique bought" in page and "alone saves" in page.lower()


def test_a_study_from_before_attribution_is_still_shown(cli: Cli, finished: Any, tmp_path: Path) -> None:
    shutil.copytree(finished.folder, tmp_path / "old")
    path = tmp_path / "old" / "study.json"
    document = json.loads(path.read_bytes())
    del document["attribution"], document["sensitivities"]
    path.write_text(json.dumps(document))
    assert cli("show", str(tmp_path / "old"), "--json").document["attribution"] is None
    assert "size saved" not in cli("show", str(tmp_path / "old")).out
    assert cli("report", str(tmp_path / "old")).code == 0


def test_what_is_known_of_the_best_plan_is_not_found_out_again(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    result = open_study(finished.folder)
    before, calls = result.attribution, []
    assert before is not None and before.finished and before.trial == result.to_dict()["best"]["trial"]

    def attribute(*args: Any) -> Attribution:
        calls.append(args)
        assert before is not None
        return before

    monkeypatch.setattr("autocompress.study.result.attribute", attribute)
    monkeypatch.setattr("autocompress.study.tell_attribution.tell_attribution",
                        lambda bench, folder, description: description)
    monkeypatch.setattr(result, "_bench", object())

    def explain(stored: Attribution) -> int:
        result._description = msgspec.structs.replace(result._description, attribution=stored)
        result.explain(cast("Any", None), None, 1.0, lambda: False)
        return len(calls)

    assert explain(before) == 0
    assert explain(msgspec.structs.replace(before, finished=False)) == 1, "what there was no time for is made up for"
    other = msgspec.structs.replace(before, plan_fingerprint="another")
    assert explain(other) == 2 and result.attribution == before, "the best changed"


def test_show_on_a_narrow_screen_loses_nothing(
    cli: Cli, finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    lines = cli("show", str(finished.folder)).out.splitlines()
    assert "layer 0" in lines and any(line.startswith("  bits ") for line in lines)


def test_show_an_unknown_trial(cli: Cli, finished: Any) -> None:
    out = cli("show", str(finished.folder), "--trial", "99")
    assert out.code == 2 and "0 to 2" in out.err


def test_show_what_is_no_study(cli: Cli, tmp_path: Path) -> None:
    out = cli("show", str(tmp_path))
    assert out.code == 2 and "study.json" in out.err


def test_study_without_its_database(cli: Cli, finished: Any, tmp_path: Path) -> None:
    (tmp_path / "study.json").write_bytes((finished.folder / "study.json").read_bytes())
    out = cli("show", str(tmp_path))
    assert out.code == 4 and "database" in out.err


def test_export_runs_a_users_file_only_when_trusted(
    cli: Cli, finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = cli("export", str(finished.folder), "--out", "artifact")
    assert refused.code == 2 and "--trust-code" in refused.err and "net.py:make" in refused.err
    assert list(tmp_path.iterdir()) == []

    out = cli("export", str(finished.folder), "--out", "artifact", "--trust-code")
    assert out.code == 0, out.err
    assert "running code from" in out.err and "model    artifact/model.onnx" in out.out and "Test accuracy" in out.out
    assert (tmp_path / "artifact/model.onnx").read_bytes() == (finished.folder / "artifact/model.onnx").read_bytes()
    assert json.loads((tmp_path / "artifact/manifest.json").read_bytes())["verified"]["verified"] is True


def test_export_into_what_is_a_file(cli: Cli, finished: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    out = cli("export", str(finished.folder), "--out", str(tmp_path / "file"), "--trust-code")
    assert out.code == 2 and "--out must be a folder" in out.err
    assert (tmp_path / "file").read_text() == "mine"


def test_export_an_unknown_trial_before_anything_is_loaded(cli: Cli, finished: Any, tmp_path: Path) -> None:
    out = cli("export", str(finished.folder), "--trial", "bset", "--out", str(tmp_path / "a"), "--trust-code")
    assert out.code == 2 and "'bset'" in out.err and not (tmp_path / "a").exists()


def test_report_elsewhere(cli: Cli, finished: Any, tmp_path: Path) -> None:
    out = cli("report", str(finished.folder), "--out", str(tmp_path / "r"))
    assert out.code == 0 and out.out.strip() == str(tmp_path / "r" / "pareto.html")
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["pareto.html", "trials.csv", "trials.json"]


@pytest.mark.parametrize("name", ["README.md", "manifest.json", "model.onnx"])
def test_export_among_somebodys_files_is_refused(cli: Cli, finished: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    out = cli("export", str(finished.folder), "--out", str(tmp_path), "--trust-code")
    assert out.code == 2 and name in out.err and "move it away" in out.err and "building" not in out.err
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "mine"}


@pytest.mark.parametrize("name", ["pareto.html", "trials.csv", "trials.json"])
def test_report_among_somebodys_files_is_refused(cli: Cli, finished: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    out = cli("report", str(finished.folder), "--out", str(tmp_path))
    assert out.code == 2 and name in out.err and "move it away" in out.err
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "mine"}
