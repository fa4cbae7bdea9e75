"""The file answers the same on every CPU: no two products of an integer kernel overflow 16 bits."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from autocompress.core.plan import Plan, Step
from autocompress.errors import AutocompressError
from autocompress.formats.onnx.runtime import Runtime
from autocompress.formats.onnx.saturation import LARGEST_PAIR, check_saturation, largest_pair
from autocompress.hardware.profile import load_profile
from autocompress.study.workbench import Workbench
from autocompress.testing.exporters import integers, sites, sparse, structure
from autocompress.testing.networks import task_data
from autocompress.testing.techniques import workbench

WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8)


def _file(bench: Workbench, *plans: Plan) -> bytes:
    return bench.network.write(
        bench.network.compressor.compress(Plan.of([s for plan in plans for s in plan.steps]))
    ).data


@pytest.mark.parametrize(("network", "settings"), [
    ("residual", {}), ("residual", {"grid": "codebook"}), ("residual", {"grid": "pow2"}),
    ("residual", {"rounding": "adaround"}), ("separable", {"equalize": "weights"}), ("encoder", {}), ("signal", {}),
], ids=str)
def test_no_file_of_ours_can_saturate(network: str, settings: dict[str, Any]) -> None:
    bench = workbench(network)
    for turn in (0, 4):
        plan = integers(bench, WIDTHS[turn:] + WIDTHS[:turn], 8, **settings)
        bound = check_saturation(_file(bench, plan))
        assert bound.layers == sum(s.args["activation_bits"] == 8 for s in plan.steps)
        assert 0 < bound.largest <= LARGEST_PAIR


def test_nor_can_sparse_and_factored_weights() -> None:
    bench = workbench("residual")
    shape = structure(bench)
    bound = check_saturation(_file(bench, shape, sparse(bench, shape), integers(bench, (8, 7, 5), 8)))
    assert bound.layers > len(sites(bench))
    assert bound.largest <= LARGEST_PAIR


def test_levels_reach_what_the_bound_allows_and_float_activations_all_eight_bits() -> None:
    bench = workbench("residual")
    weights = {bits: bench.network.compressor.compress(integers(bench, (8,), bits)).weights for bits in (8, 16, 32)}
    largest = {bits: max(int(q.levels.abs().max()) for q in of_layers.values()) for bits, of_layers in weights.items()}
    assert largest == {8: 64, 16: 64, 32: 127}
    assert check_saturation(_file(bench, integers(bench, (8,), 32))).layers == 0


@pytest.mark.parametrize(("levels", "expected"), [
    ([[64, 64, -64]], 128), ([[65, -127, 64]], 129), ([[-128]], 128), ([[127, -127]], 127), ([[-100, -29, 3]], 129),
    ([[0, 0]], 0), ([[100], [100]], 100), ([[60, 1, 60], [5, 90, 38]], 128), (np.zeros((0, 3)), 0)], ids=str)
def test_the_two_largest_of_one_sign_in_one_channel_count(levels: Any, expected: int) -> None:
    assert largest_pair(np.array(levels, np.int8), 0) == expected
    assert largest_pair(np.array(levels, np.int8).T, 1) == expected


def _theirs(tmp_path: Path, file: bytes, inputs: np.ndarray, **options: Any) -> bytes:
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = [{"input": inputs}]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self._left.pop() if self._left else None

    (tmp_path / "float.onnx").write_bytes(file)
    quantization.quantize_static(tmp_path / "float.onnx", tmp_path / "int8.onnx", Reader(), **options)
    return (tmp_path / "int8.onnx").read_bytes()


@pytest.mark.parametrize(("form", "network", "per_channel"), [
    ("QDQ", "chain", False), ("QDQ", "mlp", True), ("QOperator", "chain", True), ("QOperator", "mlp", False)])
def test_a_file_of_the_runtimes_own_quantiser_is_caught(tmp_path: Path, form: str, network: str,
                                                        per_channel: bool) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType

    bench = workbench(network)
    inputs = bench.network.calibration.numpy()
    types = {"quant_format": QuantFormat[form], "activation_type": QuantType.QUInt8, "per_channel": per_channel}
    with pytest.raises(AutocompressError, match=r"must not sum to more than 128 in magnitude, but sum to (1[3-9]|2)"):
        check_saturation(_theirs(tmp_path, bench.network.writer.original_file, inputs, **types))
    reduced = check_saturation(
        _theirs(tmp_path, bench.network.writer.original_file, inputs, reduce_range=True, **types)
    )
    assert reduced.layers >= len(sites(bench))
    unsigned = types | {"weight_type": QuantType.QUInt8, "per_channel": False}
    assert check_saturation(_theirs(tmp_path, bench.network.writer.original_file, inputs, **unsigned)).largest == 0


def _both_ways(data: bytes, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores by fused integer kernels, and of the graph as it is written, in float."""
    return Runtime(data).run(inputs), Runtime(data, literal=True).run(inputs)


@pytest.mark.parametrize("network", ["residual", "signal", "separable", "mlp"])
def test_fused_kernels_answer_as_the_written_graph_does(network: str) -> None:
    """Inputs as loud as they can be: without the bound, CPUs without dot-product instructions are far off here."""
    bench = workbench(network)
    inputs = bench.network.calibration.numpy()
    inputs = np.where(inputs > 0, inputs.max(), inputs.min()).astype(np.float32)
    for widths in ((8,), (7, 8)):
        fused, literal = _both_ways(_file(bench, integers(bench, widths, 8)), inputs)
        assert np.abs(fused - literal).mean() < 0.02 * np.abs(literal).max()
        assert (fused.argmax(1) == literal.argmax(1)).mean() > 0.95


class _Pooled(nn.Module):
    """A convolution that a plan may leave in float, between quantised ones, behind operators that move values."""

    def __init__(self, bare: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.kernel = nn.Parameter(torch.randn(8, 8, 3, 3)) if bare else None
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        seen = torch.max_pool2d(torch.relu(self.first(images)), 2).transpose(2, 3)
        seen = self.middle(seen) if self.kernel is None else torch.conv2d(seen, self.kernel, padding=1)
        return self.head(torch.relu(self.last(seen)).mean((2, 3)))


@pytest.mark.parametrize("bare", [False, True], ids=["a layer left in float", "a kernel without a layer"])
def test_the_runtime_rounds_no_float_weight_by_itself(tmp_path: Path, bare: bool) -> None:
    """It would where one stands between dequantised and quantised activations, with weights that saturate."""
    torch.manual_seed(0)
    bench = Workbench(_Pooled(bare).eval(), task_data((3, 12, 12), 5, samples=16), load_profile("host"), seed=0,
                      folder=tmp_path, epochs=1)
    plan = Plan.of([Step(name, "quantize", {"weight_bits": 8, "activation_bits": 8})
                    for name in ("first", "last", "head")])
    data = _file(bench, plan)
    assert check_saturation(data).layers == 3
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("QLinearConv") < 3
    fused, literal = _both_ways(data, bench.network.calibration.numpy())
    np.testing.assert_allclose(fused, literal, atol=0.02 * np.abs(literal).max())


def _graph(nodes: list[onnx.NodeProto], **constants: np.ndarray) -> bytes:
    graph = helper.make_graph(nodes, "graph", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 6, 6])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
                              [numpy_helper.from_array(value, name) for name, value in constants.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def test_float_weights_behind_dequantised_activations_are_refused() -> None:
    quantised = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
                 helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
                 helper.make_node("MaxPool", ["d"], ["p"], kernel_shape=[2, 2])]
    conv = helper.make_node("Conv", ["p", "w"], ["y"])
    constants = {"s": np.array(0.1, np.float32), "z": np.array(3, np.uint8), "w": np.ones((4, 4, 1, 1), np.float32)}
    with pytest.raises(AutocompressError, match="w is stored in float between quantised activations"):
        check_saturation(_graph([*quantised, conv], **constants))
    assert check_saturation(_graph([helper.make_node("Conv", ["x", "w"], ["y"])], w=constants["w"])).layers == 0


def test_products_of_signed_activations_are_refused() -> None:
    def product(kind: type) -> bytes:
        nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
                 helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
                 helper.make_node("MatMul", ["d", "d"], ["y"])]
        return _graph(nodes, s=np.array(0.1, np.float32), z=np.array(0, kind))

    assert check_saturation(product(np.uint8)).largest == 0
    with pytest.raises(AutocompressError, match="the second operand of a MatMul, d, must be unsigned"):
        check_saturation(product(np.int8))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="needs qemu-user")
def test_a_cpu_without_dot_products_answers_as_this_one_does(tmp_path: Path) -> None:
    """One network, emulated: AVX2 alone."""
    bench = workbench("residual")
    inputs = bench.network.calibration.numpy()
    (tmp_path / "model.onnx").write_bytes(_file(bench, integers(bench, (8, 7, 6), 8)))
    np.save(tmp_path / "inputs.npy", inputs)
    program = ("import numpy, onnxruntime as o; s = o.SessionOptions(); s.intra_op_num_threads = 1; "
               "s.inter_op_num_threads = 1; "
               "r = o.InferenceSession('model.onnx', s, providers=['CPUExecutionProvider']); "
               "numpy.save('scores.npy', r.run(None, {r.get_inputs()[0].name: numpy.load('inputs.npy')})[0])")
    subprocess.run(["qemu-x86_64", "-cpu", "Haswell", sys.executable, "-c", program], cwd=tmp_path, check=True,
                   timeout=1200)
    got, here = np.load(tmp_path / "scores.npy"), Runtime(tmp_path / "model.onnx").run(inputs)
    literal = Runtime(tmp_path / "model.onnx", literal=True).run(inputs)
    for expected in (here, literal):
        np.testing.assert_allclose(got, expected, atol=0.02 * np.abs(literal).max())
