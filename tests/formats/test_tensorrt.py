"""Files for TensorRT under the contract of formats, and what they may hold. They run in ONNX Runtime here."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from autocompress.core.plan import Plan, Step
from autocompress.errors import AutocompressError, TrialError
from autocompress.formats.base import INPUT
from autocompress.formats.tensorrt.format import FORMAT
from autocompress.testing.exporters import integers, sparse
from autocompress.testing.format_contract import FormatContract
from autocompress.testing.techniques import outputs, workbench


class TestTensorrt(FormatContract):
    """Convolutions."""

    format, networks = FORMAT, ("residual",)


@pytest.mark.slow
class TestTensorrtOfTokens(FormatContract):
    """An encoder."""

    format, networks = FORMAT, ("encoder",)


def small(name: str = "residual", thin: bool = False) -> bytes:
    bench = workbench(name, FORMAT)
    steps = (*(sparse(bench, Plan(), ("2:4",)).steps if thin else ()), *integers(bench, (8,), 8).steps)
    return bench.network.write(bench.network.compressor.compress(Plan.of(steps))).data


@pytest.mark.parametrize(("args", "reason"), [
    ({"weight_bits": 4, "activation_bits": 8}, "8 bits"), ({"weight_bits": 8, "activation_bits": 32}, "of 8 bits"),
    ({"weight_bits": 8, "activation_bits": 16}, "of 8 bits"), ({"weight_bits": 16, "activation_bits": 32}, ""),
    ({"weight_bits": 8, "activation_bits": 8, "group": 32}, "one scale"),
    ({"weight_bits": 8, "activation_bits": 8, "grid": "codebook"}, "tables"),
    ({"weight_bits": 8, "activation_bits": 8}, "")])
def test_what_it_cannot_hold_is_refused(args: dict[str, int | str], reason: str) -> None:
    layer = workbench("residual", FORMAT).network.table.layers[0]
    told = FORMAT.legal(Step(layer.name, "quantize", args), layer)
    assert reason in told and bool(reason) == bool(told)


@pytest.mark.parametrize("name", ["residual", "encoder"])
def test_integers_are_symmetric_and_whole(name: str) -> None:
    data = small(name)
    onnx.checker.check_model(data, full_check=True)
    proved = FORMAT.checked(data)["tensorrt"]
    assert proved["symmetric"] and proved["integer_weights"] > 0
    model = onnx.load_model_from_string(data)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    pairs = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert pairs and all(stored[node.input[2]].dtype == np.int8 and stored[node.input[2]] == 0 for node in pairs)


def test_activations_keep_their_range() -> None:
    bench = workbench("residual", FORMAT)
    compressed = bench.network.compressor.compress(integers(bench, (8,), 8))
    answers = FORMAT.open(small()).run({INPUT: bench.network.calibration.numpy()})["output"]
    expected = outputs(compressed.model, bench.network.calibration).numpy()
    assert np.abs(answers - expected).mean() / np.abs(expected).max() < 0.02


def test_zeros_of_sparse_weights_are_stored() -> None:
    data = small(thin=True)
    assert FORMAT.checked(data) == FORMAT.checked(small()) and len(data) == len(small())
    stored = map(numpy_helper.to_array, onnx.load_model_from_string(data).graph.initializer)
    assert any(array.dtype == np.int8 and array.ndim == 4 and (array == 0).mean() >= 0.5 for array in stored)


def changed(data: bytes, change: Callable[[onnx.ModelProto], object]) -> bytes:
    model = onnx.load_model_from_string(data)
    change(model)
    spoiled: bytes = model.SerializeToString()
    return spoiled


def unsigned(model: onnx.ModelProto) -> None:
    """Make the zero point of the first pair unsigned."""
    name = next(node for node in model.graph.node if node.op_type == "QuantizeLinear").input[2]
    zero = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    zero.CopyFrom(numpy_helper.from_array(np.array(7, np.uint8), name))


def negative(model: onnx.ModelProto) -> None:
    """Make the scale of the first pair negative."""
    name = next(node for node in model.graph.node if node.op_type == "QuantizeLinear").input[1]
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    scale.CopyFrom(numpy_helper.from_array(np.array(-1, np.float32), name))


@pytest.mark.parametrize(("change", "reason"), [
    (unsigned, "zero points of 0"), (negative, "scales above zero"),
    (lambda model: model.graph.node.append(helper.make_node("BitShift", ["a", "b"], ["c"], direction="LEFT")),
     "BitShift"),
    (lambda model: model.graph.node.append(helper.make_node("Relu", ["a"], ["b"], domain="mine")), "mine Relu"),
    (lambda model: setattr(model.opset_import[0], "version", 99), "opset"),
    (lambda model: model.functions.append(helper.make_function(
        "mine", "F", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], [helper.make_opsetid("", 18)])),
     "functions")])
def test_a_file_that_it_would_refuse_does_not_ship(change: Callable[[onnx.ModelProto], object], reason: str) -> None:
    with pytest.raises(AutocompressError, match=reason):
        FORMAT.checked(changed(small(), change))


def test_a_truncated_file_is_refused() -> None:
    with pytest.raises(TrialError):
        FORMAT.open(small()[:500])
