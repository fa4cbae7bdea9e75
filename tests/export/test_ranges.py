"""Ranges of activations: what each method keeps, in 8 and in 16 bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor, nn

from autocompress.core.plan import Plan, Step
from autocompress.errors import InputError
from autocompress.formats.onnx import activations
from autocompress.formats.onnx.activations import calibrate, quantised_tensors
from autocompress.formats.onnx.graph import fill
from autocompress.formats.onnx.runtime import Runtime
from autocompress.formats.onnx.writer import build
from autocompress.formats.ranges import Range, choose_range
from autocompress.hardware.profile import load_profile
from autocompress.study.workbench import Workbench
from autocompress.techniques.quantize import SETTINGS, range_method
from autocompress.testing.exporters import integers, sites
from autocompress.testing.networks import task_data
from autocompress.testing.techniques import outputs, workbench

METHODS = tuple(str(method) for method in SETTINGS["range"])


def _ends(sample: np.ndarray, method: str, bits: int = 8) -> tuple[float, float]:
    low, high = min(0.0, float(sample.min())), max(0.0, float(sample.max()))
    span = choose_range(sample, low, high, bits, method)
    return -span.zero_point * span.scale, (2**bits - 1 - span.zero_point) * span.scale


@settings(deadline=None)
@given(arrays.arrays(np.float32, st.integers(1, 64), elements=st.floats(-1000, 1000, width=32)),
       st.sampled_from(METHODS), st.sampled_from([8, 16]))
def test_every_range_is_legal_and_inside_the_observed_one(sample: np.ndarray, method: str, bits: int) -> None:
    low, high = min(0.0, float(sample.min())), max(0.0, float(sample.max()))
    span = choose_range(sample, low, high, bits, method)
    top = 2**bits - 1
    assert span.bits == bits
    assert 0 <= span.zero_point <= top
    assert span.scale == np.float32(span.scale) > 0
    slack = span.scale * 1.01
    assert -span.zero_point * span.scale >= low - slack
    assert (top - span.zero_point) * span.scale <= max(high, 1e-8 * top) + slack


@pytest.mark.parametrize("method", METHODS)
def test_one_outlier_among_many_values(method: str) -> None:
    sample = np.concatenate([np.random.default_rng(0).random(100_000, np.float32), [3.0]]).astype(np.float32)
    low, high = _ends(sample, method)
    assert low == 0
    assert high == pytest.approx({"minmax": 3.0, "entropy": 1.0, "mse": 2.7}.get(method, 1.0), rel=0.06)


def test_entropy_keeps_what_is_evenly_used() -> None:
    sample = np.linspace(-1, 3, 100_000, dtype=np.float32)
    low, high = _ends(sample, "entropy")
    assert (low, high) == (pytest.approx(-1, abs=0.05), pytest.approx(3, abs=0.05))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 2.5, -2.5])
def test_a_constant_layer_has_a_range(method: str, value: float) -> None:
    sample = np.full(100, value, np.float32)
    span = choose_range(sample, min(value, 0.0), max(value, 0.0), 8, method)
    code = np.clip(np.rint(sample / span.scale) + span.zero_point, 0, 255)
    np.testing.assert_allclose((code - span.zero_point) * span.scale, value, rtol=0.5)


@pytest.mark.parametrize("method", METHODS)
def test_the_file_has_the_ranges_of_its_method(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(_sample: np.ndarray, low: float, high: float, _bits: int, by: str) -> Range:
        return Range((1.0 + METHODS.index(by)) * max(high - low, 1e-3) / 255, 0)

    bench = workbench("chain")
    monkeypatch.setattr(activations, "choose_range", choose)
    ranges, others = (_ranges(bench, integers(bench, (8,), 8, **settings)) for settings in ({"range": method}, {}))
    assert ranges
    for name, other in others.items():
        assert ranges[name].scale == pytest.approx((1 + METHODS.index(method)) * other.scale)


def _ranges(bench: Workbench, plan: Plan) -> dict[str, Range]:
    network = bench.network.writer.writable(bench.network.compressor.compress(plan))
    return build(bench.network.writer.prepared, network.model, network.integers, set(), network.activation_bits,
                 network.calibration, method=network.range_method).ranges


def test_layers_that_share_tensors_share_the_method() -> None:
    steps = [Step(str(i), "quantize", {"weight_bits": 8, "activation_bits": 8, "range": method})
             for i, method in enumerate(("minmax", "entropy"))]
    with pytest.raises(InputError, match=r"`range` must be the same at every layer.*entropy, minmax"):
        range_method(Plan.of(steps))
    assert range_method(Plan.of(steps[:1])) == "minmax"
    assert range_method(Plan()) == "minmax"


def test_wide_activations_run_in_float_between_exact_weights(tmp_path: Path) -> None:
    """No integer kernel takes them, and no float weight may be rounded between an activation's DQ and Q."""
    import onnxruntime

    bench = workbench("residual")
    data = bench.network.write(bench.network.compressor.compress(integers(bench, (8, 3), 16, grid="codebook"))).data
    model = onnx.load_model_from_string(data)
    assert {opset.version for opset in model.opset_import if not opset.domain} == {21}
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert "QLinearConv" not in kinds
    inputs = bench.network.calibration.numpy()
    plain = onnxruntime.SessionOptions()
    plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    literal = onnxruntime.InferenceSession(data, plain, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(Runtime(data).run(inputs), literal.run(None, {model.graph.input[0].name: inputs})[0],
                               rtol=1e-3, atol=1e-4)


def test_a_tensor_between_layers_of_two_widths_takes_the_narrower() -> None:
    bench = workbench("chain")
    bits = dict(zip(sites(bench), (16, 8, 16, 16), strict=True))
    plan = Plan.of([Step(site, "quantize", {"weight_bits": 8, "activation_bits": b}) for site, b in bits.items()])
    compressed = bench.network.compressor.compress(plan)
    built = bench.network.write(compressed)
    assert [_ranges(bench, plan)[f"{site}:input"].bits for site in bits] == [16, 8, 8, 16]
    expected = outputs(compressed.model, bench.network.calibration).numpy()
    got = Runtime(built.data).run(bench.network.calibration.numpy())
    assert np.corrcoef(got.ravel(), expected.ravel())[0, 1] > 0.99


class _Pictures(nn.Module):
    """A convolution over pictures of a power-of-two size, whose columns a stride over flattened values would single
    out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(4, 64, 3, padding=1), nn.Linear(64, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(images)).mean((2, 3)))


def _framed(bench: Workbench, method: str, move: Callable[[np.ndarray], np.ndarray]) -> dict[str, Range]:
    """Ranges of tensors from moved calibration pictures that are dark but for their middles."""
    graph = fill(bench.network.writer.prepared, bench.network.model)
    pictures = np.random.default_rng(0).beta(2.0, 4.0, (128, 4, 32, 32)).astype(np.float32)
    dark = np.zeros_like(pictures)
    dark[:, :, 8:24, 8:24] = pictures[:, :, 8:24, 8:24]
    return calibrate(graph, quantised_tensors(graph, {"conv": 8, "head": 8}), {"input": move(dark)}, 1, method)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    torch.manual_seed(0)
    return Workbench(_Pictures().eval(), task_data((4, 32, 32), 5, samples=16), load_profile("host"), seed=0,
                     folder=tmp_path_factory.mktemp("bench"), epochs=1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("move", [lambda x: x[:, :, ::-1], lambda x: x.transpose(0, 1, 3, 2),
                                  lambda x: np.roll(x, (16, 16), (2, 3)), lambda x: x[::-1]],
                         ids=["flipped", "transposed", "rolled", "reversed"])
def test_ranges_do_not_hang_on_where_values_stand(pictures: Workbench, method: str,
                                                  move: Callable[[np.ndarray], np.ndarray]) -> None:
    """The same values of the input in other places give the same range of the input."""
    plain, moved = _framed(pictures, method, lambda x: x), _framed(pictures, method, move)
    first = next(iter(plain))
    assert moved[first].scale == pytest.approx(plain[first].scale, rel=0.15)


@pytest.mark.parametrize("method", METHODS)
def test_a_range_is_that_of_all_values(pictures: Workbench, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sampled = _framed(pictures, method, lambda x: x)
    monkeypatch.setattr(activations, "VALUES", 10**9)
    near = 0.35 if method == "mse" else 0.1  # of eight clippings some are equally good
    for name, whole in _framed(pictures, method, lambda x: x).items():
        assert sampled[name].scale == pytest.approx(whole.scale, rel=near)
        assert sampled[name].zero_point == pytest.approx(whole.zero_point, abs=255 * near)
