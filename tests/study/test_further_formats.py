"""A search in one format whose best candidate ships in others too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import autocompress
from autocompress.artifact.verify import FAILS, verify
from autocompress.errors import InputError
from autocompress.formats.table import format_named
from autocompress.study import open_study
from autocompress.study.settings import SearchSettings


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)).eval()


def data() -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(120, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return inputs, torch.arange(120) % 3


@pytest.mark.usefixtures("short_searches")
@pytest.mark.parametrize(("formats", "budget"), [
    (["onnx", "tflite", "tflite-micro"], "4500B"),
    *(pytest.param(*each, marks=pytest.mark.slow) for each in (
        (["safetensors", "onnx.xz"], "6000B"), (["pt2", "onnx"], "14kB"), (["openvino", "tensorrt"], "4500B"),
        (["executorch", "onnx"], "14kB"), (["coreml", "onnx"], "9kB")))], ids=lambda value: str(value))
def test_the_best_candidate_ships_in_every_format(tmp_path: Path, formats: list[str], budget: str,
                                                  caplog: pytest.LogCaptureFixture) -> None:
    result = autocompress.search(network(), data(), budget=budget, format=formats, trials=1, epochs=1, effort="fast",
                                 out=tmp_path / "study")
    artifact, plans = tmp_path / "study/artifact", set()
    for name in formats:
        folder = artifact if name == formats[0] else artifact / name
        manifest = json.loads((folder / "manifest.json").read_text())
        plans.add(manifest["plan_fingerprint"])
        assert manifest["format"] == name and manifest["verified"]["verified"]
        file_format = format_named(name)
        assert file_format.open((folder / manifest["model"]).read_bytes()).run({"input": data()[0][:2].numpy()})
    assert len(plans) == 1
    assert set(result.artifact["further"]) == set(formats[1:])
    assert_changes_are_seen(tmp_path / "study", formats, caplog)


def assert_changes_are_seen(study: Path, formats: list[str], caplog: pytest.LogCaptureFixture) -> None:
    """Hold `show`, `verify` and a resumed search to saying that a byte was flipped in the file of each format."""
    artifact, changed = study / "artifact", {}
    for name in formats:
        folder = artifact if name == formats[0] else artifact / name
        path = folder / json.loads((folder / "manifest.json").read_bytes())["model"]
        whole = changed[path] = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert open_study(study).artifact_fault == f"{path} was changed since it was verified"
        path.write_bytes(whole)
    for path, whole in changed.items():
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    failed = {check.name: check.detail for check in verify(artifact).checks if check.state == FAILS}
    assert set(failed) == {"files", *(f"{name}: files" for name in formats[1:])}
    assert all("it was changed since it was exported" in detail for detail in failed.values())
    first, *_, last = changed
    first.write_bytes(changed[first])
    caplog.clear()
    autocompress.search(network(), data(), resume=True, out=study)
    assert "was changed since it was verified: it is exported anew" in caplog.text
    assert last.read_bytes() == changed[last] and open_study(study).artifact_fault == ""
    (last.parent / "manifest.json").unlink()
    assert open_study(study).artifact_fault == f"{last.parent / 'manifest.json'} is gone since it was verified"
    assert f"{last.parent.name}: manifest" in {check.name for check in verify(artifact).checks if check.state == FAILS}


@pytest.mark.parametrize(("formats", "reason"), [
    (["onnx", "tflight"], "among onnx.*but got 'tflight'; did you mean 'tflite'"), (["onnx", "onnx"], "named once"),
    (["onnx", object()], "formats after the first")])
def test_further_formats_are_shipped_ones_named_once(formats: list[object], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        SearchSettings.of(model=network(), data=data(), format=formats)


@pytest.mark.slow
def test_formats_that_share_no_integers_ship_floats_and_it_is_said(tmp_path: Path,
                                                                   caplog: pytest.LogCaptureFixture) -> None:
    result = autocompress.search(network(), data(), budget="8kB", format=["executorch", "coreml"], trials=2, epochs=1,
                                 effort="fast", out=tmp_path / "study")
    assert "executorch and coreml can hold no integer weights in common" in caplog.text
    assert set(result.artifact["further"]) == {"coreml"}
    assert [candidate.reason for candidate in result.candidates if candidate.status == "failed"] == []


def test_one_format_is_itself() -> None:
    settings = SearchSettings.of(model=network(), data=data(), format=["tflite"])
    assert settings.format == "tflite" == settings.first_format and settings.further_formats == ()


def test_a_network_that_a_further_format_cannot_hold_is_refused_before_the_search(tmp_path: Path) -> None:
    volume = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(),
                           nn.Linear(4, 2)).eval()
    inputs = torch.randn(60, 1, 4, 4, 4)
    with pytest.raises(InputError, match=r"exportable to tflite.*conv3d"):
        autocompress.search(volume, (inputs, (inputs.mean((1, 2, 3, 4)) > 0).long()), budget="3kB",
                            format=["onnx", "tflite"], trials=1, epochs=1, effort="fast", out=tmp_path / "study")
