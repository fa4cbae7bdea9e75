"""TFLite under the contract of formats, and what it alone must do."""

from __future__ import annotations

import random

import numpy as np
import pytest
import tflite
import torch
from torch import Tensor, nn

from autocompress.backend.network.compressed import Compressed
from autocompress.backend.network.fold import fold_norms
from autocompress.core.plan import Plan, Step
from autocompress.errors import TrialError
from autocompress.estimate import estimate
from autocompress.formats.base import INPUT, OUTPUT, WritableNetwork
from autocompress.formats.tflite.format import FORMAT
from autocompress.formats.tflite.rules import lower
from autocompress.formats.tflite.trace import trace
from autocompress.study.workbench import Workbench
from autocompress.testing.exporters import integers, sites, structure
from autocompress.testing.format_contract import FormatContract
from autocompress.testing.techniques import outputs, workbench


def stored_weights(data: bytes) -> list[np.ndarray]:
    """Constant integers with a scale for each channel, as the file holds them, in order of the tensors."""
    model = tflite.Model.GetRootAsModel(data, 0)
    graph, arrays = model.Subgraphs(0), []
    for tensor in (graph.Tensors(i) for i in range(graph.TensorsLength())):
        if tensor.Buffer() and tensor.Type() == tflite.TensorType.INT8 and tensor.Quantization().ScaleLength() > 1:
            arrays.append(model.Buffers(tensor.Buffer()).DataAsNumpy().view(np.int8).reshape(tensor.ShapeAsNumpy()))
    return arrays


class TestTflite(FormatContract):
    """Small networks that TFLite has operators for."""

    format = FORMAT
    networks = ("residual", "separable", "dense", "signal", "flattened")

    def levels(self, bench: Workbench, compressed: Compressed, data: bytes) -> dict[str, np.ndarray]:
        folded = fold_norms(compressed, bench.network.table)
        graph = lower(trace(folded.model, bench.network.writer.prepared))
        weights = [tensor for operation in graph.operations for tensor in operation.inputs
                   if tensor is not None and tensor.layer in folded.weights]
        stored = stored_weights(data)
        assert len(weights) == len(stored)
        restored = {}
        for weight, levels in zip(weights, stored, strict=True):
            assert weight.arrange is not None
            shape = folded.weights[weight.layer].levels.shape
            places = weight.arrange(np.arange(levels.size).reshape(shape)).reshape(-1)
            back = np.empty(levels.size, np.int8)
            back[places] = levels.reshape(-1)
            restored[weight.layer] = back.reshape(shape)
        return restored


def answers(network: nn.Module, inputs: Tensor) -> np.ndarray:
    """What the float file of a network answers."""
    prepared = FORMAT.prepare(network.eval(), inputs[:2])
    data = FORMAT.write(prepared, WritableNetwork(network.eval(), {})).data
    return FORMAT.open(data).run({INPUT: inputs.numpy()})[OUTPUT]


class Shapes(nn.Module):
    """Pads, poolings, slices and sums in odd orders."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.down = nn.Conv2d(3, 8, (5, 3), padding="same"), nn.Conv2d(8, 8, 3, 2, 1, groups=8)
        self.line, self.head = nn.Conv1d(8, 6, 3, padding=1), nn.Linear(6 * 7, 5)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, 14, 14)` → `(N, 5)`."""
        x = nn.functional.pad(nn.functional.hardswish(self.conv(x)), (0, 1, 2, 0))
        x = nn.functional.max_pool2d(x, 3, 2, 1)
        x = torch.cat([x[:, :4] * torch.sigmoid(x[:, 4:]), nn.functional.silu(x[:, 2:6])], 1)
        x = nn.functional.interpolate(self.down(x), scale_factor=2.0, mode="nearest")
        x = nn.functional.avg_pool2d(x.clamp(-1, 2), 3, 2, 1) / 2 - torch.arange(8.0).reshape(8, 1, 1) / 4
        x = self.line(x.mean(2)).permute(0, 2, 1)
        x = nn.functional.pad(x.transpose(1, 2).reshape(len(x), 1, -1), (8, 10))
        scores: Tensor = self.head(x[:, 0])
        return scores.softmax(-1)


def test_shapes_and_orders_agree_with_torch() -> None:
    torch.manual_seed(0)
    network, inputs = Shapes().eval(), torch.randn(4, 3, 14, 14)
    np.testing.assert_allclose(answers(network, inputs), network(inputs).detach().numpy(), atol=1e-5)


def test_a_pad_that_the_kernel_adds_costs_no_operation() -> None:
    network = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 4, 3, 2)).eval()
    same = lower(trace(network, torch.randn(2, 3, 8, 8)))
    assert [operation.kind for operation in same.operations[:1]] == ["CONV_2D"]
    assert same.operations[0].options["Padding"] == "SAME"
    both = lower(trace(nn.Conv2d(3, 4, 3, 2, 1).eval(), torch.randn(2, 3, 8, 8)))
    assert [operation.kind for operation in both.operations[:2]] == ["PAD", "CONV_2D"]


def test_all_integers_means_integer_inputs_and_outputs() -> None:
    bench = workbench("separable", FORMAT)
    data = bench.network.write(bench.network.compressor.compress(integers(bench, (8,), 8))).data
    model = tflite.Model.GetRootAsModel(data, 0)
    graph = model.Subgraphs(0)
    assert {graph.Tensors(i).Type() for i in range(graph.TensorsLength()) if not graph.Tensors(i).Buffer()} == {
        tflite.TensorType.INT8}
    kinds = {model.OperatorCodes(i).BuiltinCode() for i in range(model.OperatorCodesLength())}
    assert not kinds & {tflite.BuiltinOperator.QUANTIZE, tflite.BuiltinOperator.DEQUANTIZE}


def test_four_bits_are_stored_in_four_bits_and_run() -> None:
    bench = workbench("flattened", FORMAT)
    plan = integers(bench, (4,), 8, grid="whole")
    compressed = bench.network.compressor.compress(plan)
    data = bench.network.write(compressed).data
    whole = bench.network.write(bench.network.compressor.compress(integers(bench, (8,), 8))).data
    weights = sum(layer.params for layer in bench.network.table.layers)
    assert len(whole) - len(data) == pytest.approx(weights / 2, rel=0.1)
    answers = FORMAT.open(data).run({INPUT: bench.network.calibration.numpy()})[OUTPUT]
    expected = outputs(compressed.model, bench.network.calibration).numpy()
    assert np.corrcoef(answers.ravel(), expected.ravel())[0, 1] > 0.999
    predicted = estimate(bench.network.table, plan, bench.evaluator.profile, FORMAT)
    assert predicted["size_bytes"] == pytest.approx(len(data), rel=0.01)


def test_sums_that_norms_read_stay_in_float() -> None:
    """A transformer's sums would lose what its norms amplify."""
    bench = workbench("encoder", FORMAT)
    plan = integers(bench, (8,), 8)
    compressed = bench.network.compressor.compress(plan)
    answers = FORMAT.open(bench.network.write(compressed).data).run({INPUT: bench.network.calibration.numpy()})[OUTPUT]
    expected = outputs(compressed.model, bench.network.calibration).numpy()
    assert np.abs(answers - expected).mean() / np.abs(expected).max() < 0.02


@pytest.mark.parametrize(("network", "example", "operation"), [
    (nn.Conv3d(2, 4, 3), torch.randn(2, 2, 4, 4, 4), "conv3d"), (nn.LSTM(4, 4), torch.randn(2, 3, 4), "lstm"),
    (nn.Softmax(1), torch.randn(2, 3, 4), "softmax is over the last axis")])
def test_an_operation_that_has_no_operator_is_refused_by_name(network: nn.Module, example: Tensor,
                                                              operation: str) -> None:
    with pytest.raises(TrialError, match=operation):
        FORMAT.prepare(network.eval(), example)


def test_a_truncated_file_is_refused() -> None:
    data = workbench("mlp", FORMAT).network.writer.original_file
    for length in (8, 40, len(data) // 2):
        with pytest.raises(TrialError):
            FORMAT.open(data[:length])


def test_equal_constants_are_stored_once() -> None:
    bench = workbench("chain", FORMAT)
    empty = bench.network.write(bench.network.compressor.compress(Plan())).data
    model = tflite.Model.GetRootAsModel(empty, 0)
    contents = [model.Buffers(i).DataAsNumpy().tobytes() for i in range(1, model.BuffersLength())]
    assert len(set(contents)) == len(contents)


@pytest.mark.parametrize("turn", range(6))
def test_sizes_of_mixed_plans_are_predicted(turn: int) -> None:
    """Integers, half floats and floats beside one another, some layers pruned and factored: what stands between them,
    and what equal tensors share, is counted."""
    bench, draw = workbench("separable", FORMAT), random.Random(turn)
    activations = draw.choice((8, 16, 32))
    widths = {site: draw.choice((8, 16, 32)) for site in sites(bench)}
    plan = Plan.of([*(step for step in structure(bench).steps if draw.random() < 0.4),
                    *(Step(site, "quantize", {"weight_bits": bits, "activation_bits": activations if bits == 8 else 32})
                      for site, bits in widths.items() if bits < 32)])
    size = len(bench.network.write(bench.network.compressor.compress(plan)).data)
    predicted = estimate(bench.network.table, plan, bench.evaluator.profile, FORMAT)["size_bytes"]
    assert predicted == pytest.approx(size, rel=0.01, abs=90), "constants of 5 to 9 kB are aligned"
