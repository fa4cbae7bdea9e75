"""The artefact's manifest: the keys that readers may rely on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autocompress.artifact.folder import read_manifest
from autocompress.core.budget import Budget
from autocompress.core.evaluation import Candidate
from autocompress.core.plan import Plan, Step
from autocompress.errors import InputError
from autocompress.formats.onnx.runtime import Runtime
from autocompress.hardware.profile import load_profile
from autocompress.study.export_candidate import ship
from autocompress.study.folder import Description
from autocompress.study.settings import SearchSettings
from autocompress.study.workbench import Workbench
from autocompress.testing.exporters import sites
from autocompress.testing.networks import NETWORKS
from autocompress.testing.techniques import workbench

GOLDEN = Path(__file__).parents[1] / "golden" / "manifest.json"
VOLATILE = ("metrics", "verified", "versions", "fingerprints", "files", "receipts", "latencies", "machine", "samples",
            "quality", "peak_memory")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shipped candidate of a small network."""
    bench = workbench("mlp")
    plan = Plan.of([Step("0", "prune", {"keep": 16})]
                   + [Step(s, "quantize", {"weight_bits": 4, "activation_bits": 8}) for s in sites(bench)])
    candidate = Candidate(trial=3, status="complete", plan=plan, evaluations=(bench.evaluator.evaluate(plan, 0),))
    description = Description(
        name="golden",
        settings=SearchSettings(),
        budget=Budget(size_bytes=9000),
        baseline=bench.evaluator.baseline(),
        sources=dict(bench.evaluator.sources),
        table=bench.network.table,
        refused=bench.network.refused,
        fingerprints={"model": "m", "data": "d", "space": "s", "profile": "p"},
    )
    folder = tmp_path_factory.mktemp("artifact")
    ship(bench, candidate, folder, description)
    return folder


def _blank(value: Any) -> Any:
    """Types in place of values; keys stay."""
    if isinstance(value, dict):
        return {key: _blank(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_blank(entry) for entry in value]
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def test_the_manifest_has_the_agreed_keys(artifact: Path) -> None:
    manifest = read_manifest(artifact)
    blanked = {key: _blank(value) if key in VOLATILE else value for key, value in manifest.items()}
    assert blanked == json.loads(GOLDEN.read_text("utf-8"))


def test_one_estimated_device_stands_in_manifest_and_card_by_name_and_class(tmp_path: Path) -> None:
    """A plan for one board: the exporting machine's time alone would be no answer."""
    bench = Workbench(NETWORKS["mlp"].make(), NETWORKS["mlp"].data(), load_profile("stm32h743"), seed=0,
                      folder=tmp_path, epochs=1)
    plan = Plan.of([Step(s, "quantize", {"weight_bits": 8, "activation_bits": 8}) for s in sites(bench)])
    candidate = Candidate(trial=0, status="complete", plan=plan, evaluations=(bench.evaluator.evaluate(plan, 0),))
    ship(
        bench,
        candidate,
        tmp_path,
        Description(
            name="board",
            settings=SearchSettings(profile="stm32h743"),
            budget=Budget(),
            baseline=bench.evaluator.baseline(),
            sources=dict(bench.evaluator.sources),
            table=bench.network.table,
            refused=bench.network.refused,
            fingerprints={"model": "m", "data": "d", "space": "s", "profile": "p"},
        ),
    )
    told = read_manifest(tmp_path)["latencies"]
    assert list(told) == ["stm32h743"] and told["stm32h743"]["source"] == "estimated"
    assert told["stm32h743"]["ms"] == candidate.metrics["latency_ms"]
    card = (tmp_path / "README.md").read_text("utf-8")
    assert "| latency on stm32h743, estimated |" in card and "All figures but estimates" in card


def test_the_manifest_tells_the_truth_about_the_file(artifact: Path) -> None:
    manifest = read_manifest(artifact)
    data = (artifact / "model.onnx").read_bytes()
    assert manifest["verified"]["size_bytes"] == manifest["metrics"]["size_bytes"] == len(data)
    assert manifest["files"]["model.onnx"]["bytes"] == len(data)
    bench = workbench("mlp")
    assert manifest["verified"]["accuracy"] == bench.evaluator.score(Runtime(data), "test").metrics["accuracy"]
    assert sorted(p.name for p in artifact.iterdir()) == [
        "README.md", "manifest.json", "model.onnx", "samples.safetensors"]


@pytest.mark.parametrize("name", ["model.onnx", "README.md"])
def test_a_changed_or_missing_file_is_noticed(artifact: Path, tmp_path: Path, name: str) -> None:
    for path in artifact.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + b"x")
    with pytest.raises(InputError, match="sha256"):
        read_manifest(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match="must hold"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": 3}', '{"files": {"../../x": {}}}', "\x00"])
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError):
        read_manifest(tmp_path)
