"""Artefacts without names of layers."""

from __future__ import annotations

import io
import json
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from shipping import quantised, shipped, stored_inputs
from torch import Tensor, nn

import autocompress
from autocompress.artifact.anonymous import anonymous, require_no_names, symbol_names
from autocompress.artifact.options import ExportOptions
from autocompress.artifact.verify import verify
from autocompress.core.layer import Layer, LayerTable
from autocompress.errors import AutocompressError
from autocompress.formats.table import EXTRAS, FORMATS, format_named
from autocompress.hardware.profile import load_profile
from autocompress.study.workbench import Workbench
from autocompress.testing.networks import task_data

# Files of these hold tensors under their names in PyTorch, or names made of them.
NAMED = ("safetensors", "pt2", "coreml")
# Formats whose files differ by the compiled device alone are tried once.
TRIED = [pytest.param(name, marks=[] if name in ("onnx", "tflite-micro") else pytest.mark.slow) for name in FORMATS
         if not name.startswith("vela-") and name not in NAMED]
NAMES = ("secret_stem", "secret_head", "secret_norm", "SecretNetwork")


class SecretNetwork(nn.Module):
    """A network whose names tell what it is."""

    def __init__(self) -> None:
        super().__init__()
        self.secret_stem, self.secret_norm = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8)
        self.secret_head = nn.Linear(8, 5)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.secret_head(torch.relu(self.secret_norm(self.secret_stem(pictures))).mean((2, 3)))


def bench_of(name: str) -> Workbench:
    missing = [module for module in EXTRAS.get(name, ("", ()))[1] if find_spec(module) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not here")
    torch.manual_seed(0)
    profile = load_profile("ethos-u55-128" if name == "vela" else "host")
    return Workbench(SecretNetwork().eval(), task_data((3, 8, 8)), profile, seed=0, epochs=1,
                     file_format=format_named(name))


@pytest.mark.parametrize("name", TRIED)
def test_no_file_of_an_anonymous_artefact_names_a_layer(name: str, tmp_path: Path) -> None:
    bench = bench_of(name)
    folder = shipped(bench, quantised(bench, 8), tmp_path / "a", options=ExportOptions(anonymous=True))
    for path in folder.iterdir():
        held = [secret for secret in NAMES if secret.encode() in path.read_bytes()]
        assert not held, path.name
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert {step["site"] for step in manifest["plan"]["steps"]} == {"layer1", "layer3"}, "in the network's order"
    assert manifest["study"] == "anonymous" and (manifest["input"]["name"], manifest["output"]["name"]) == (
        "input", "output"), "callers need them"
    assert verify(folder).holds
    samples = stored_inputs(folder)["input"]
    assert np.isfinite(autocompress.load(folder)(samples)["output"]).all()


@pytest.mark.parametrize("name", [NAMED[0], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMED[1:])])
def test_a_format_of_named_tensors_is_refused(name: str, tmp_path: Path) -> None:
    bench = bench_of(name)
    with pytest.raises(AutocompressError, match="must hold no name of a layer"):
        shipped(bench, quantised(bench, 8, 32), tmp_path / "a", options=ExportOptions(anonymous=True))
    assert not (tmp_path / "a").exists()


def test_names_stay_without_the_option_and_answers_are_the_same_with_it(tmp_path: Path) -> None:
    bench = bench_of("onnx")
    plan = quantised(bench, 8)
    named = shipped(bench, plan, tmp_path / "named")
    hidden = shipped(bench, plan, tmp_path / "hidden", options=ExportOptions(anonymous=True))
    assert b"secret_stem" in (named / "manifest.json").read_bytes()
    samples = stored_inputs(named)["input"]
    assert np.array_equal(autocompress.load(named)(samples)["output"], autocompress.load(hidden)(samples)["output"])


def test_sites_are_renamed_and_words_that_are_also_names_are_not() -> None:
    table = LayerTable(layers=tuple(Layer(name=name, kind="linear") for name in ("linear", "fc", "fc.0")),
                       input_shape=(3,), outputs=2)
    manifest = {
        "study": "mine", "grid": "linear",
        "plan": {"steps": [{"site": "linear", "technique": "quantize", "args": {"grid": "linear"}},
                           {"site": "fc/2", "technique": "prune", "args": {}}]},
        "receipts": [{"site": "fc.0:input", "technique": "range", "facts": {"scales": {"fc.1": [1.0]}}},
                     {"site": "", "technique": "inherit", "facts": {"layers": ["fc"]}}],
        "attribution": None}
    hidden = anonymous(manifest, table)
    assert [step["site"] for step in hidden["plan"]["steps"]] == ["layer1", "layer2/2"]
    assert hidden["plan"]["steps"][0]["args"] == {"grid": "linear"} and hidden["grid"] == "linear"
    assert [receipt["site"] for receipt in hidden["receipts"]] == ["layer3:input", ""]
    assert hidden["receipts"][0]["facts"] == {"scales": {"layer2.1": [1.0]}}
    assert hidden["receipts"][1]["facts"] == {"layers": ["layer2"]}
    assert symbol_names(table) == ["linear", "fc", "fc.0"]


def test_a_file_that_names_a_layer_is_refused() -> None:
    table = LayerTable(layers=(Layer(name="stem.conv", kind="conv"), Layer(name="batch", kind="linear")),
                       input_shape=(3,), outputs=2)
    require_no_names({"model": b"batch, the word"}, table)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("inside", "stem.conv " * 9)
    assert b"stem.conv" not in archive.getvalue()
    with pytest.raises(AutocompressError, match="must hold no name of a layer"):
        require_no_names({"model": archive.getvalue()}, table)
    with pytest.raises(AutocompressError, match=r"must hold no name of a layer .* 'stem\.conv'"):
        require_no_names({"model": b"...stem.conv..."}, table)
