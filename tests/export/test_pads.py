"""Padding in front of convolutions: where it stands in the file, and that factors of a padded layer need no export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autocompress.core.plan import Plan, Step
from autocompress.hardware.profile import load_profile
from autocompress.study.workbench import Workbench
from autocompress.testing.networks import CLASSES, task_data


class _Pitch(nn.Module):
    """Long kernels along one axis of a map that is one column wide, padded unevenly."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 16, (16, 1), (2, 1)), nn.Conv2d(16, 24, (9, 1))
        self.head = nn.Linear(24, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        out = F.relu(self.first(F.pad(inputs[:, None, :, None], (0, 0, 7, 8))))
        out = F.relu(self.second(F.pad(F.max_pool2d(out, (2, 1)), (0, 0, 4, 4))))
        return torch.as_tensor(self.head(out.mean((2, 3))))


class _Causal(nn.Module):
    """Convolutions over time that see the past alone; one pads by itself too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(4, 16, 5), nn.Conv1d(16, 16, 3, padding=1, dilation=2)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        out = F.relu(self.first(F.pad(inputs, (4, 0))))
        return torch.as_tensor(self.head(F.relu(self.second(F.pad(out, (2, 0)))).mean(2)))


SHAPES: dict[type[nn.Module], tuple[int, ...]] = {_Pitch: (64,), _Causal: (4, 32)}


def _bench(network: type[nn.Module], folder: Path) -> Workbench:
    torch.manual_seed(0)
    return Workbench(network().eval(), task_data(SHAPES[network]), load_profile("host"), seed=0, folder=folder,
                     epochs=1)


def _convolutions(data: bytes, folder: Path) -> list[onnx.NodeProto]:
    """As the runtime executes them."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return [node for node in onnx.load_model(options.optimized_model_filepath).graph.node if "Conv" in node.op_type]


def _pads(node: Any) -> list[int]:
    return next((list(attribute.ints) for attribute in node.attribute if attribute.name == "pads"), [])


def test_a_map_of_one_column_is_padded_before_its_convolution(tmp_path: Path) -> None:
    bench = _bench(_Pitch, tmp_path)
    assert not any(any(_pads(node)) for node in _convolutions(bench.network.writer.original_file, tmp_path)), (
        "the slow path"
    )


def test_elsewhere_the_runtime_has_as_many_nodes_as_of_a_plain_export(tmp_path: Path) -> None:
    bench = _bench(_Causal, tmp_path)
    assert [_pads(node) for node in _convolutions(bench.network.writer.original_file, tmp_path)] == [[4, 0], [3, 1]]
    assert [_pads(node) for node in _convolutions(bench.evaluator.original.file, tmp_path)] == [[4, 0], [3, 1]]


@pytest.mark.parametrize("network", SHAPES)
def test_every_kind_of_candidate_fills_the_template(network: type[nn.Module], tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    bench = _bench(network, tmp_path)
    monkeypatch.setattr("autocompress.formats.onnx.format.export_template", lambda *_: pytest.fail("exported afresh"))
    names = ("first", "second")
    factored = [Step(name, "decompose", {"method": "channel-svd", "rank": 4}) for name in names]
    integer = [Step(name, "quantize", {"weight_bits": 8, "activation_bits": 8}) for name in names]
    for steps in (factored, integer, [*factored[1:], *integer]):
        compressed = bench.network.compressor.compress(Plan.of(steps))
        data = bench.network.write(compressed).data
        inputs = bench.network.calibration[:5]
        with torch.no_grad():
            expected = compressed.model(inputs).numpy()
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        got = session.run(None, {"input": inputs.numpy()})[0]
        assert np.abs(got - expected).max() <= 0.05 * np.abs(expected).max()
        nodes = onnx.load_model_from_string(data).graph.node
        assert (steps != integer) or not any(node.op_type == "Pad" for node in nodes), "it would end an integer chain"
