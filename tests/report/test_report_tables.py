"""Frames, files and the rows of a plan."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import msgspec
import pandas as pd
import pytest

from autocompress.core.layer import Part
from autocompress.core.plan import Plan, Step
from autocompress.errors import EnvironmentFault
from autocompress.report.files import GENERATOR, write_files
from autocompress.report.html import write_report
from autocompress.report.tables import as_csv, as_json, front_frame, plan_rows, trials_frame
from autocompress.report.text import describe_plan
from autocompress.report.view import StudyView


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_each_trial_is_one_row(view: StudyView) -> None:
    frame = trials_frame(view)
    assert frame["trial"].tolist() == [c.trial for c in view.candidates]
    assert frame["status"].tolist() == [c.status for c in view.candidates]
    assert str(frame["size_bytes"].dtype) == "Int64"
    assert list(frame.columns[:6]) == ["trial", "status", "rung", "origin", "accuracy", "size_bytes"]


def test_a_study_without_trials_has_the_same_columns(view: StudyView) -> None:
    empty = msgspec.structs.replace(view, candidates=(), front=(), best=None)
    assert list(trials_frame(empty).columns) == list(trials_frame(view).columns)
    assert len(front_frame(empty)) == 0


def test_front_rows_keep_the_order_and_count_against_the_original(view: StudyView) -> None:
    frame = front_frame(view)
    assert tuple(frame["trial"]) == view.front
    row = frame[frame["is_best"]].iloc[0]
    assert row["trial"] == view.best
    assert row["size_factor"] == pytest.approx(view.baseline["size_bytes"] / row["size_bytes"])
    assert row["accuracy_change"] == pytest.approx(row["accuracy"] - view.baseline["accuracy"])


@pytest.mark.parametrize("start", list("=+-@\t\r\n"))
def test_a_text_cell_cannot_be_a_formula(start: str) -> None:
    frame = pd.DataFrame({"text": [f"{start}cmd|' /C calc'!A0", "plain"], "number": [-1.5, 2.0]})
    rows = list(csv.reader(io.StringIO(as_csv(frame), newline="")))
    assert rows[1] == [f"'{start}cmd|' /C calc'!A0", "-1.5"]
    assert rows[2] == ["plain", "2.0"]


def test_a_column_name_cannot_be_a_formula() -> None:
    assert as_csv(pd.DataFrame({"=HYPERLINK(1)": [1]})).splitlines()[0] == "'=HYPERLINK(1)"


def test_the_trials_of_a_study_are_safe_as_csv(view: StudyView, tmp_path: Path) -> None:
    rows = _rows(write_report(view, tmp_path).with_name("trials.csv"))
    assert len(rows) == len(view.candidates)
    assert rows[9]["origin"] == "'@SUM(A1:A9)"
    assert rows[30]["reason"] == "'=1+1"
    assert rows[8]["size_bytes"] == ""
    assert rows[0]["size_bytes"] == str(int(view.candidates[0].metrics["size_bytes"]))


def test_json_is_strict_and_complete(view: StudyView, tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = as_json(trials_frame(view))
    rows = json.loads(text, parse_constant=refuse)
    assert [row["trial"] for row in rows] == [c.trial for c in view.candidates]
    assert rows[30]["accuracy"] is None
    assert rows[0]["rung"] == 2
    assert rows[0]["accuracy"] == view.candidates[0].metrics["accuracy"]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = f"<!doctype html>{GENERATOR}"
    old = (f"{begin}old", "trial,status,old", "[]")
    path = write_files(tmp_path, *old)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(EnvironmentFault, match=r"pareto\.html must be writable, but: No space left"):
        write_files(tmp_path, f"{begin}new", "trial,status,new", "[]")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pareto.html", "trials.csv", "trials.json"]
    assert (path.read_text(), path.with_name("trials.csv").read_text()) == old[:2]


def test_a_path_that_is_no_folder_is_an_environment_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="must be writable"):
        write_files(tmp_path / "file", "x", "x", "x")


def test_a_plan_has_one_row_for_each_layer(view: StudyView) -> None:
    best = view.trial(view.best)
    assert best is not None and best.plan is not None
    rows = plan_rows(view.layers, best.plan, view.parts)
    assert [row["layer"] for row in rows] == [layer.name for layer in view.layers.layers]
    by_name = {row["layer"]: row for row in rows}
    quantized = best.plan.find("quantize")
    assert all(row["weight_bits"] == quantized[n].args["weight_bits"] for n, row in by_name.items() if n in quantized)
    assert by_name["stage0.block0.conv"]["note"] == "its input is the image"
    assert by_name["stage0.block0.conv"]["weight_bits"] == 32
    assert by_name["stage0.block0.conv.bn"]["note"] == "folds into stage0.block0.conv"
    part = next(p for p in view.parts if p.layer == "classifier")
    assert by_name["classifier"]["bytes"] == part.weights * part.weight_bits / 8 + 40


def test_a_sparse_layer_says_what_it_keeps(view: StudyView) -> None:
    first, second = "stage0.block1.conv", "stage0.block2.conv"
    plan = Plan.of([Step(first, "sparsify", {"pattern": "2:4"}),
                    Step(first, "quantize", {"weight_bits": 4, "activation_bits": 8}),
                    Step(second, "sparsify", {"pattern": "unstructured", "density": 0.2})])
    parts = (Part(name=first, layer=first, kind="conv", in_channels=32, out_channels=32, kernel=(3, 3), bias=False,
                  weight_bits=4, pattern="2:4", kept=4608),
             Part(name=second, layer=second, kind="conv", in_channels=32, out_channels=32, kernel=(3, 3), bias=False,
                  pattern="unstructured", kept=1843))
    rows = {r["layer"]: r for r in plan_rows(view.layers, plan, parts)}
    assert (rows[first]["sparsity"], rows[second]["sparsity"], rows["classifier"]["sparsity"]) == ("2:4", "20%", "")
    assert rows[first]["bytes"] == 9216 * (0.75 + 0.5 * 4) / 8
    assert rows[second]["bytes"] == round((9216 + 1843 * 32) / 8)
    assert rows[first]["note"] == rows[second]["note"] == ""
    assert describe_plan(view.layers, plan) == "quantize 1 layer (4 bit × 1) · sparsify 2 layers (2:4 × 1, 20% × 1)"


def test_a_cut_reaches_the_layers_that_read_the_channels(view: StudyView) -> None:
    layers = view.layers
    second, third = "stage0.block1.conv", "stage0.block2.conv"
    rows = {r["layer"]: r for r in plan_rows(layers, Plan.of([Step(second, "prune", {"keep": 8})]))}
    assert (rows[second]["out_before"], rows[second]["out_after"], rows[second]["removed"]) == (32, 8, 0.75)
    assert (rows[third]["in_before"], rows[third]["in_after"], rows[third]["removed"]) == (32, 8, 0.0)
    assert rows[second]["note"] == rows[third]["note"] == ""
    assert rows["classifier"]["note"] == "untouched, float 32"
    assert rows[second]["bytes"] is None


@pytest.mark.parametrize(("args", "rank", "share"), [
    ({"method": "svd", "rank": 16}, "16", 16 / 256),
    ({"method": "spatial-svd", "rank": 96}, "96", 96 / (3 * 256)),
    ({"method": "cp", "rank": 576}, "576", 576 / (9 * 256)),
    ({"method": "tucker2", "rank_in": 64, "rank_out": 128}, "64 × 128", (64 / 256 + 128 / 256) / 2),
])
def test_rank_share(view: StudyView, args: dict[str, int | str], rank: str, share: float) -> None:
    name = "stage3.block1.conv"  # 256 → 256, 3 × 3
    rows = {r["layer"]: r for r in plan_rows(view.layers, Plan.of([Step(name, "decompose", dict(args))]))}
    assert rows[name]["method"] == args["method"]
    assert rows[name]["rank"] == rank
    assert rows[name]["rank_share"] == pytest.approx(share)
    assert rows["classifier"]["rank_share"] is None


def test_metrics_are_called_by_their_titles_and_errors_say_their_direction() -> None:
    from autocompress.core.metric import Metric
    from autocompress.report.attribution_tables import technique_heads
    from autocompress.report.markup import capitalised
    from autocompress.report.text import axis_title

    error, precision = Metric("mae", "m", False, "Mean absolute error"), Metric("map50", "%", title="mAP at IoU 0.5")
    assert technique_heads(error)[-3] == "mean absolute error" and technique_heads(precision)[-3] == precision.title
    assert [*map(capitalised, ("size saved", precision.title, ""))] == ["Size saved", precision.title, ""]
    assert axis_title(error) == "Mean absolute error, less is better" and axis_title(precision) == precision.title
