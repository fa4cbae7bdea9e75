"""Artefacts in formats beside ONNX: verified, loaded, predicted with, and refused where they are spoiled."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from shipping import quantised, shipped, with_file

import autocompress
from autocompress.artifact.verify import verify
from autocompress.cli.main import main
from autocompress.errors import EnvironmentFault, InputError
from autocompress.formats.table import EXTRAS, format_named
from autocompress.testing.techniques import outputs, workbench

FORMATS = ["safetensors", "openvino",
           *(pytest.param(name, marks=pytest.mark.slow) for name in ("pt2", "onnx.xz", "tensorrt", "executorch"))]


@pytest.fixture(scope="module", params=FORMATS)
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of 20 numbers in a format."""
    bench = workbench("mlp", format_named(request.param))
    return shipped(bench, quantised(bench, 8), tmp_path_factory.mktemp("other") / request.param)


def test_it_is_verified_and_answers_as_torch(other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(other).holds
    assert main(["verify", str(other)]) == 0
    file_format = format_named(other.name)
    bench = workbench("mlp", file_format)
    samples = bench.network.calibration[:5]
    answers = autocompress.load(other)(samples.numpy())["output"]
    expected = outputs(bench.network.compressor.compress(quantised(bench, 8)).model, samples).numpy()
    assert np.abs(answers - expected).max() / np.abs(expected).max() < 0.1
    capsys.readouterr()


def test_predict_reads_it(other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "one.npy", np.zeros((1, 20), np.float32))
    assert main(["predict", str(other), str(tmp_path / "one.npy")]) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"\\0" * 64, b"half"], ids=["empty", "zeros", "half"])
def test_a_file_that_cannot_be_read_ends_with_2(other: Path, tmp_path: Path, content: bytes) -> None:
    name = json.loads((other / "manifest.json").read_bytes())["model"]
    data = (other / name).read_bytes()
    spoiled = with_file(other, tmp_path / "copy", name, data[:len(data) // 2] if content == b"half" else content)
    assert main(["verify", str(spoiled)]) == 2
    with pytest.raises(InputError, match="cannot be run"):
        autocompress.load(spoiled)


def test_a_missing_extra_is_named_before_a_search(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if other.name not in EXTRAS:
        pytest.skip("it needs none")
    extra, modules = EXTRAS[other.name]
    monkeypatch.setattr("autocompress.formats.table.find_spec", lambda name: None if name in modules else sys)
    with pytest.raises(EnvironmentFault, match=rf"pip install .*autocompress\[{extra}\]"):
        format_named(other.name)


@pytest.mark.parametrize("name", ["safetensors", pytest.param("pt2", marks=pytest.mark.slow)])
def test_a_network_of_torch_is_made_again(name: str, tmp_path: Path) -> None:
    bench = workbench("mlp", format_named(name))
    folder = shipped(bench, quantised(bench, 3), tmp_path)
    samples = bench.network.calibration[:3]
    answers = autocompress.load(folder)(samples.numpy())["output"]
    network = autocompress.load_module(folder)
    again = network(samples) if name == "safetensors" else network({"input": samples})["output"]
    torch.testing.assert_close(again, torch.from_numpy(answers))


def test_no_network_of_torch_is_made_of_other_files(artifact: Path) -> None:
    with pytest.raises(InputError, match="safetensors and pt2"):
        autocompress.load_module(artifact)


@pytest.mark.slow
def test_what_was_not_run_is_said(tmp_path: Path) -> None:
    bench = workbench("mlp", format_named("coreml"))
    folder = shipped(bench, quantised(bench, 8, 32), tmp_path / "coreml")
    verification = verify(folder)
    assert verification.holds
    assert "predictions were not run" in next(check.detail for check in verification.checks if check.name == "load")
