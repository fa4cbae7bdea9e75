"""TFLite for microcontrollers under the contract of formats, and what it alone must do."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import tflite
import torch
from torch import nn

from autocompress.backend.network.compressed import Compressed
from autocompress.backend.network.fold import fold_norms
from autocompress.core.plan import Plan
from autocompress.errors import EnvironmentFault, TrialError
from autocompress.estimate import estimate
from autocompress.formats import table
from autocompress.formats.base import INPUT, WritableNetwork
from autocompress.formats.tflite import format as litert
from autocompress.formats.tflite.rules import lower
from autocompress.formats.tflite.trace import trace
from autocompress.formats.tflite_micro.arena import Buffer, planned_bytes
from autocompress.formats.tflite_micro.decoding import HEADER_BYTES, code_bits, pack
from autocompress.formats.tflite_micro.format import FORMAT
from autocompress.hardware.profile import load_profile
from autocompress.study.workbench import Workbench
from autocompress.testing.exporters import integers, structure
from autocompress.testing.format_contract import FormatContract
from autocompress.testing.networks import task_data
from autocompress.testing.techniques import workbench


def constant(model: tflite.Model, index: int) -> np.ndarray:
    """The bytes of a constant tensor."""
    data: np.ndarray = model.Buffers(model.Subgraphs(0).Tensors(index).Buffer()).DataAsNumpy()
    return data


def looked_up(codes: np.ndarray, ancillary: np.ndarray, size: int) -> np.ndarray:
    """What the operator makes of codes, by its description."""
    bits = int(ancillary[5]) & 7
    planes = np.unpackbits(codes)[:size * bits].reshape(-1, bits)
    return ancillary[HEADER_BYTES:].view(np.int8)[planes @ (1 << np.arange(bits - 1, -1, -1))]


class TestTfliteMicro(FormatContract):
    """Small networks that the interpreter for microcontrollers has operators for."""

    format = FORMAT
    networks = ("residual", "separable")

    def levels(self, bench: Workbench, compressed: Compressed, data: bytes) -> dict[str, np.ndarray]:
        folded = fold_norms(compressed, bench.network.table)
        graph = lower(trace(folded.model, bench.network.writer.prepared))
        weights = [tensor for operation in graph.operations for tensor in operation.inputs
                   if tensor is not None and tensor.layer in folded.weights]
        model = tflite.Model.GetRootAsModel(data, 0)
        stored = model.Subgraphs(0)
        decoded = {int(operator.Outputs(0)): [int(index) for index in operator.InputsAsNumpy()] for operator in (
            stored.Operators(i) for i in range(stored.OperatorsLength())) if model.OperatorCodes(
                operator.OpcodeIndex()).CustomCode()}
        read = [int(operator.Inputs(1)) for operator in (stored.Operators(i) for i in range(stored.OperatorsLength()))
                if operator.InputsLength() == 3]
        restored = {}
        for weight, index in zip(weights, read, strict=True):
            shape = folded.weights[weight.layer].levels.shape
            assert weight.arrange is not None
            levels = looked_up(*(constant(model, i) for i in decoded[index]), int(np.prod(shape))) \
                if index in decoded else constant(model, index).view(np.int8)
            back = np.empty(levels.size, np.int8)
            back[weight.arrange(np.arange(levels.size).reshape(shape)).reshape(-1)] = levels
            restored[weight.layer] = back.reshape(shape)
        return restored


@pytest.mark.parametrize("bits", range(1, 8))
def test_weights_of_every_width_are_looked_up_as_they_are(bits: int) -> None:
    """The interpreter's answers are those of the same levels in 8 bits."""
    bench = workbench("separable", FORMAT)
    compressed = bench.network.compressor.compress(integers(bench, (bits,), 8))
    narrow = bench.network.write(compressed).data
    whole = _in_eight_bits(bench, compressed)
    inputs = {INPUT: bench.network.calibration[:4].numpy()}
    answers, expected = (next(iter(FORMAT.open(data).run(inputs).values())) for data in (narrow, whole))
    np.testing.assert_array_equal(answers, expected)
    assert len(narrow) < len(whole) or bits > 5


def _in_eight_bits(bench: Workbench, compressed: Compressed) -> bytes:
    return litert.written(bench.network.writer.prepared, bench.network.writer.writable(compressed), lambda graph: None,
                   bias_scales=False).data


@pytest.mark.parametrize("bits", range(1, 8))
def test_codes_are_packed_from_the_highest_bit_on(bits: int) -> None:
    codes = np.random.default_rng(0).integers(0, 2**bits, 37)
    text = "".join(f"{code:0{bits}b}" for code in codes)
    text += "0" * (-len(text) % 8)
    assert pack(codes, bits).tobytes() == int(text, 2).to_bytes(len(text) // 8, "big")
    assert code_bits(2**bits) == bits


@pytest.mark.parametrize("network", ["residual", "separable"])
def test_the_arena_and_the_bytes_are_predicted(network: str) -> None:
    bench = workbench(network, FORMAT)
    for plan in (integers(bench, (8,), 8), integers(bench, (4,), 8),
                 Plan.of((*structure(bench).steps, *integers(bench, (8, 3), 8).steps))):
        compressed = bench.network.compressor.compress(plan)
        data = bench.network.write(compressed).data
        predicted = estimate(bench.network.table, plan, bench.evaluator.profile, FORMAT)
        assert predicted["size_bytes"] == pytest.approx(len(data), rel=0.015)
        assert predicted["peak_memory_bytes"] == pytest.approx(FORMAT.open(data).peak_memory_bytes, rel=0.1)


def test_buffers_are_placed_as_the_interpreter_places_them() -> None:
    """Of equal buffers the last is placed first, which here leaves a gap that no other fits in."""
    lives = [(6256, 9, 11), (6256, 11, 12), (5504, 12, 14), (5504, 14, 15), (7264, 15, 16)]
    chain = [Buffer(*life) for life in lives]
    assert planned_bytes(chain) == 18272
    assert planned_bytes([]) == 0


def test_gaps_in_the_arena_are_predicted() -> None:
    widths = [3, 50, 50, 44, 44, 58]
    layers = [module for before, after in pairwise(widths) for module in (nn.Conv2d(before, after, 1), nn.ReLU())]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(58, 5)).eval()
    bench = Workbench(network, task_data((3, 25, 5), 5), load_profile("host"), seed=0, epochs=1, file_format=FORMAT)
    plan = integers(bench, (8,), 8)
    predicted = estimate(bench.network.table, plan, bench.evaluator.profile, FORMAT)["peak_memory_bytes"]
    data = bench.network.write(bench.network.compressor.compress(plan)).data
    assert predicted == pytest.approx(FORMAT.open(data).peak_memory_bytes, rel=0.03)
    assert predicted > 18272


def test_c_files_hold_the_model_and_its_operators() -> None:
    bench = workbench("separable", FORMAT)
    data = bench.network.write(bench.network.compressor.compress(integers(bench, (4,), 8))).data
    files = FORMAT.files(data)
    assert list(files) == ["model.tflite", "model.h", "model.c", "main.cc"]
    body = files["model.c"].decode().partition("{")[2].partition("}")[0]
    assert bytes(int(byte, 16) for byte in body.replace(",", " ").split()) == data
    program = files["main.cc"].decode()
    assert all(f"resolver.Add{name}();" in program for name in ("Conv2D", "DepthwiseConv2D", "Mean", "Decode"))


def test_an_operator_that_the_interpreter_lacks_is_refused_by_name() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.GELU()).eval()
    with pytest.raises(TrialError, match="TensorFlow Lite Micro has no operator GELU"):
        FORMAT.prepare(network, torch.zeros(2, 4))
    prepared = litert.FORMAT.prepare(network, torch.zeros(2, 4))
    data = litert.FORMAT.write(prepared, WritableNetwork(network, {})).data
    with pytest.raises(TrialError, match="TensorFlow Lite Micro refuses the file"):
        FORMAT.open(data)


def test_a_missing_package_names_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table.EXTRAS, "tflite-micro", ("mcu", ("tflite", "no_such_package")))
    with pytest.raises(EnvironmentFault, match=r"no_such_package.*pip install --pre 'autocompress\[mcu\]'"):
        table.format_named("tflite-micro")
