"""A file format of a user's own: float weights in an .npz file, run by numpy."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import autocompress
from autocompress.formats.base import INPUT, OUTPUT, Arrays, Format, Runtime, TrialError, WritableNetwork, Written
from autocompress.testing.format_contract import FormatContract

HEADER = 240  # bytes of one array beside its values


class NumpyRuntime(Runtime):
    def __init__(self, data: bytes) -> None:
        try:
            self._arrays = [*np.load(io.BytesIO(data)).values()]
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise TrialError(f"numpy refuses the file: {error}") from error

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        values = inputs[INPUT]
        for array in self._arrays:  # a matrix, a bias, or nothing: a ReLU
            values = values @ array.T if array.ndim == 2 else values + array if array.size else np.maximum(values, 0)
        return {OUTPUT: values}


class NpzFormat(Format):
    name, suffix, runtime = "npz", ".npz", "numpy"

    def legal(self, step: autocompress.Step, layer: object) -> str:
        return "it holds float32 alone" if int(step.args.get("weight_bits", 32)) < 32 else ""

    def size(self, parts, skeleton_bytes=0, absent=()):  # type: ignore[no-untyped-def]
        return skeleton_bytes + sum(4 * part.weights + HEADER + part.bias * (4 * part.out_channels + HEADER)
                                    for part in parts if part.kind == "linear")

    def prepare(self, network: nn.Module, example: object) -> None:
        kinds = {type(module) for module in network.modules()} - {nn.Sequential, nn.Linear, nn.ReLU, nn.Identity}
        if kinds:
            raise TrialError(f"linear layers and ReLU are all it holds, not {kinds.pop().__name__}")

    def write(self, prepared: None, network: WritableNetwork, threads: int = 1) -> Written:
        arrays: list[np.ndarray] = []
        for module in network.model.modules():
            if isinstance(module, nn.Linear):
                arrays += [value.detach().numpy() for value in (module.weight, module.bias) if value is not None]
            elif isinstance(module, nn.ReLU):
                arrays.append(np.zeros(0, np.float32))
        np.savez(file := io.BytesIO(), *arrays)
        return Written(file.getvalue())

    def open(self, data: bytes, threads: int = 1) -> NumpyRuntime:
        return NumpyRuntime(data)


class TestNpz(FormatContract):
    format, networks = NpzFormat(), ("mlp",)


@pytest.mark.usefixtures("short_searches")
def test_a_search_ends_with_a_verified_file_of_that_format(tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(300, 12)
    labels = (inputs[:, :3].argmax(1)).long()
    network = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3)).eval()
    result = autocompress.search(network, (inputs, labels), budget="6kB", format=f"{__file__}:NpzFormat", trials=2,
                                 epochs=1, effort="fast", out=tmp_path / "study")
    manifest = json.loads((tmp_path / "study/artifact/manifest.json").read_text())
    file = tmp_path / "study/artifact/model.npz"
    assert manifest["format"] == "npz" and manifest["verified"]["verified"] and result.artifact["path"] == str(file)
    assert file.stat().st_size <= 6000 and np.isfinite(NumpyRuntime(file.read_bytes()).run({INPUT: inputs.numpy()})[
        OUTPUT]).all()
