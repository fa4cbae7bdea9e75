"""OpenVINO under the contract of formats, and what it alone must do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autocompress.core.plan import Step
from autocompress.errors import TrialError
from autocompress.formats.openvino.format import FORMAT
from autocompress.hardware.profile import load_profile
from autocompress.study.workbench import Workbench
from autocompress.testing.exporters import integers
from autocompress.testing.format_contract import FormatContract
from autocompress.testing.networks import task_data
from autocompress.testing.techniques import workbench


class TestOpenvino(FormatContract):
    """Convolutions."""

    format, networks = FORMAT, ("residual",)


@pytest.mark.slow
class TestOpenvinoOfSequences(FormatContract):
    """Sequences and tokens."""

    format, networks = FORMAT, ("gru", "encoder")


class Patches(nn.Module):
    """Patches of a picture, a token before them, and a layer on their mean, as vision transformers begin."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.token, self.head = nn.Conv2d(1, 16, 7, 7), nn.Parameter(torch.ones(1, 1, 16)), nn.Linear(16, 5)

    def forward(self, pictures: Tensor) -> Tensor:
        patches = self.patch(pictures).flatten(2).transpose(1, 2)
        scores: Tensor = self.head(torch.cat([self.token.expand(len(patches), -1, -1), patches], 1).mean(1))
        return scores


def test_every_channel_of_patches_has_its_own_bias() -> None:
    torch.manual_seed(0)
    network, data = Patches().eval(), task_data((1, 14, 14))
    nn.init.normal_(network.patch.bias)
    bench = Workbench(network, data, load_profile("host"), seed=0, epochs=1, file_format=FORMAT)
    written = bench.network.write(bench.network.compressor.compress(integers(bench, (8,), 8))).data
    inputs = {"input": data.test.inputs[:3].numpy()}
    runtime = FORMAT.open(written)
    with torch.inference_mode():
        expected = network(data.test.inputs[:3])
    torch.testing.assert_close(torch.from_numpy(runtime.run(inputs)["output"]), expected, rtol=0.0, atol=0.1)
    assert {len(runtime.run({"input": data.test.inputs[:n].numpy()})["output"]) for n in (1, 2, 4, 3)} == {1, 2, 3, 4}


def test_activations_of_16_bits_are_refused() -> None:
    layer = workbench("mlp", FORMAT).network.table.layers[0]
    step = Step(layer.name, "quantize", {"weight_bits": 8, "activation_bits": 16})
    assert "16 bits" in FORMAT.legal(step, layer)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_refused(share: float) -> None:
    bench = workbench("flattened", FORMAT)
    data = bench.network.write(bench.network.compressor.compress(integers(bench, (3,), 8))).data
    with pytest.raises(TrialError, match="OpenVINO refuses the file"):
        FORMAT.open(data[:int(len(data) * share)])


SIGNALLED = """
import os, signal, sys
from autocompress.formats.openvino.runtime import OpenvinoRuntime

data = open(sys.argv[1], "rb").read()
first = OpenvinoRuntime(data)
second = OpenvinoRuntime(data)
del first
del second
signal.signal(signal.SIGINT, lambda number, frame: print("handled"))
os.kill(os.getpid(), signal.SIGINT)
"""


def test_a_signal_after_two_models_came_and_went_is_handled(tmp_path: Path) -> None:
    """With a core for each model it is a segmentation fault."""
    bench = workbench("flattened", FORMAT)
    model = bench.network.compressor.compress(integers(bench, (3,), 8))
    (tmp_path / "model.onnx").write_bytes(bench.network.write(model).data)
    command = [sys.executable, "-c", SIGNALLED, str(tmp_path / "model.onnx")]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (process.returncode, process.stdout) == (0, "handled\n"), process.stderr
