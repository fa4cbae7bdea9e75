"""Whole searches for several devices: one front of the latency on each, one report, resumed and exported later."""

from __future__ import annotations

import csv
import json
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import optuna
import pytest
import torch

import autocompress
from autocompress.artifact.folder import read_manifest
from autocompress.core.plan import Plan
from autocompress.core.store import MemoryStore
from autocompress.errors import InfeasibleError, InputError, StudyMismatchError
from autocompress.search.executors.base import Job, Place
from autocompress.study.folder import read_description
from autocompress.study.loading import _rebuilt, portable
from autocompress.study.request import Request
from autocompress.study.result import SearchResult
from autocompress.study.settings import SearchSettings
from autocompress.tasks.models import LoadedModel
from autocompress.tasks.splits import TaskData
from autocompress.testing.networks import NETWORKS, task_data

CHAIN = NETWORKS["chain"]
BOTH = ("host", "stm32h743")


@pytest.fixture(scope="module")
def data() -> TaskData:
    return task_data(CHAIN.input_shape)


def _search(data: TaskData, out: Path, **options: Any) -> SearchResult:
    return autocompress.search(model=CHAIN.make(), data=data, out=out, **({"trials": 4, "epochs": 1} | options))


@pytest.fixture(scope="module")
def result(data: TaskData, tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    """Measured here, estimated for a board, and bounded there to half of the original's."""
    folder = tmp_path_factory.mktemp("several")
    bound = _search(data, folder / "first", profile="stm32h743", trials=1).baseline["latency_ms"] / 2
    return _search(data, folder / "study", profile=list(BOTH), latency={"stm32h743": f"{bound}ms"})


def test_every_trial_is_legal_on_both_and_has_both_latencies(result: SearchResult) -> None:
    bound = result._description.budget.bounds["latency_ms@stm32h743"]
    for candidate in result.candidates:
        assert candidate.status in ("complete", "duplicate")
        assert {s.args["weight_bits"] for s in candidate.plan.find("quantize").values()} == {8}
        assert candidate.best.sources["latency_ms"] == "measured"
        assert candidate.best.sources["latency_ms@stm32h743"] == "estimated"
        assert 0 < candidate.metrics["latency_ms@stm32h743"] <= bound
    assert len(result._store.study.directions) == 4
    for trial in result._store.study.trials:
        told = result.candidate(trial.number).evaluations[0].metrics
        assert trial.values == [told[n] for n in ("accuracy", "size_bytes", "latency_ms", "latency_ms@stm32h743")]


def test_the_front_is_of_both(result: SearchResult) -> None:
    front = result.front
    assert result.best is not None and result.best.trial in set(front["trial"])
    objectives = {row["trial"]: (-row["accuracy"], row["size_bytes"], row["latency_ms"], row["latency_ms@stm32h743"])
                  for row in front.to_dict("records")}
    beaten = {a for a, one in objectives.items() for b, other in objectives.items()
              if other != one and all(y <= x for x, y in zip(one, other, strict=True))}
    assert beaten <= {result.best.trial}, "the best is the best as far as can be told, and always on the front"
    assert (front["latency_factor@stm32h743"] >= 2).all()


def test_report_and_documents_show_both(result: SearchResult) -> None:
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert document["study"]["profile"] == list(BOTH)
    assert document["study"]["budget"]["further_latency_ms"].keys() == {"stm32h743"}
    assert {"latency_ms", "latency_ms@stm32h743"} <= document["best"]["metrics"].keys() & document["baseline"].keys()
    page = result.report().read_text("utf-8")
    assert 'id="pareto-latency_ms@stm32h743"' in page and "Accuracy against latency on host" in page
    for text in ("<b>profiles</b>host, stm32h743", "<span>Latency on stm32h743</span>", ">Latency on host</th>",
                 "as fast on every device"):
        assert text in page
    rows = list(csv.DictReader((result.folder / "report" / "trials.csv").read_text("utf-8").splitlines()))
    assert all(float(row["latency_ms@stm32h743"]) > 0 for row in rows)
    figure = result.plot("latency_ms@stm32h743")
    assert sum(len(trace.x) for trace in figure.data if trace.meta == "trials") == len(rows)
    assert figure.layout.xaxis.title.text == "Latency on stm32h743, ms (log scale)"
    with pytest.raises(InputError, match="latency_ms, macs, latency_ms@stm32h743, but got 'latency_ms@host'"):
        result.plot("latency_ms@host")


def test_the_artefact_lists_both(result: SearchResult) -> None:
    manifest = read_manifest(result.folder / "artifact")
    assert manifest["profile"] == list(BOTH)
    assert {device: of["source"] for device, of in manifest["latencies"].items()} == {
        "host": "measured", "stm32h743": "estimated"}
    assert manifest["latencies"]["stm32h743"]["ms"] == result.best.metrics["latency_ms@stm32h743"]
    assert manifest["latencies"]["stm32h743"]["baseline_ms"] == result.baseline["latency_ms@stm32h743"]
    card = (result.folder / "artifact" / "README.md").read_text("utf-8")
    assert "for `host`, `stm32h743`:" in card and "| latency on stm32h743, estimated |" in card
    assert "All figures but estimates are" in card


def test_exported_later_with_its_network_alone(result: SearchResult, data: TaskData, tmp_path: Path) -> None:
    reopened = autocompress.open_study(result.folder, model=CHAIN.make(), data=data)
    again = reopened.export(tmp_path / "again")
    assert again.read_bytes() == (result.folder / "artifact" / "model.onnx").read_bytes()


def test_resumed_with_the_same_profiles_alone(result: SearchResult, data: TaskData) -> None:
    bound = {"stm32h743": f"{result._description.budget.bounds['latency_ms@stm32h743']}ms"}
    further = _search(data, result.folder, profile=BOTH, latency=bound, resume=True, trials=5)
    assert len(further.candidates) == 5
    with pytest.raises(StudyMismatchError, match=r"profile: stored .*directions: stored .*'minimize', 'minimize'"):
        _search(data, result.folder, profile="host", latency="1ms", resume=True)
    with pytest.raises(StudyMismatchError, match="profile: stored"):
        _search(data, result.folder, profile=BOTH[::-1], latency=bound, resume=True)


def test_two_estimated(data: TaskData, tmp_path: Path) -> None:
    study = _search(data, tmp_path / "s", profile=["raspberry-pi-4", "stm32h743"], trials=2, latency="1s", budget="1MB")
    assert study.to_dict()["trials"]["failed"] == 0 and study.best is not None
    assert study.best.best.sources["latency_ms"] == study.best.best.sources["latency_ms@stm32h743"] == "estimated"
    assert study._description.budget.bounds | {"size_bytes": 0} == {
        "size_bytes": 0, "latency_ms": 1000.0, "latency_ms@stm32h743": 1000.0}
    # What this machine measures is the latency on neither.
    assert study.to_dict()["baseline"]["latency_ms"] == study.baseline["latency_ms"]
    page = study.report().read_text("utf-8")
    card = page.split("<span>Latency on raspberry-pi-4</span>")[1].split("</div></div>")[0]
    assert "estimated" in card and "measured" not in card


def test_a_worker_process_evaluates_for_both(data: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    sampler = optuna.samplers.RandomSampler()
    settings = SearchSettings.of(model=CHAIN.make(), data=data, profile=list(BOTH), jobs=2, sampler=sampler)
    request = portable(Request.of(settings), model="an object", data="an object")
    model = LoadedModel(CHAIN.make(), "chain", "fingerprint")
    sent = pickle.dumps(partial(_rebuilt, model, data, request, tmp_path))
    evaluate = pickle.loads(sent)(Place(MemoryStore()))
    outcome = evaluate(Job(plan=Plan(), rung=0), lambda: False)
    evaluation = evaluate.__self__.completed(outcome)
    assert evaluation.sources["latency_ms"] == "measured" and evaluation.sources["latency_ms@stm32h743"] == "estimated"
    assert evaluation.metrics["latency_ms@stm32h743"] > 0 < evaluation.metrics["latency_ms"]


def test_a_bound_that_cannot_be_met_on_one_is_named(data: TaskData, tmp_path: Path) -> None:
    with pytest.raises(InfeasibleError, match="estimated latency on stm32h743 must be at most"):
        _search(data, tmp_path / "s", profile=BOTH, latency={"stm32h743": "1us"})
    assert not (tmp_path / "s").exists()


def test_one_profile_in_a_list_is_that_profile(result: SearchResult, tmp_path: Path) -> None:
    assert SearchSettings.of(profile=["host"]).profile == "host"
    raw = json.loads((result.folder.parent / "first" / "study.json").read_bytes())
    assert raw["settings"]["profile"] == "stm32h743" and "further_latency_ms" not in raw["budget"]
    old = {key: value for key, value in raw.items() if key != "targets"}
    (tmp_path / "study.json").write_bytes(msgspec.json.encode(old))
    assert read_description(tmp_path).targets == ()
