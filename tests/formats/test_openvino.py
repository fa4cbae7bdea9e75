"""OpenVINO under the contract of formats, and what it alone must do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from autocompress.core.plan import Step
from autocompress.errors import TrialError
from autocompress.formats.openvino.format import FORMAT
from autocompress.testing.exporters import integers
from autocompress.testing.format_contract import FormatContract
from autocompress.testing.techniques import workbench


class TestOpenvino(FormatContract):
    """Convolutions."""

    format, networks = FORMAT, ("residual",)


@pytest.mark.slow
class TestOpenvinoOfSequences(FormatContract):
    """Sequences and tokens."""

    format, networks = FORMAT, ("gru", "encoder")


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
