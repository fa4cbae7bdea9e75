"""What the original is in every comparison: a plain export of the untouched network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from autocompress.errors import InputError, TrialError
from autocompress.formats.onnx.format import FORMAT, OnnxFormat
from autocompress.formats.onnx.runtime import Runtime
from autocompress.formats.onnx.torch_onnx import plain_export
from autocompress.formats.timing import Timing
from autocompress.hardware.profile import load_profile
from autocompress.study import original as originals
from autocompress.study.original import OWN, OriginalFile, original_of
from autocompress.study.workbench import Workbench
from autocompress.testing.networks import NETWORKS, task_data

PLAIN = "plain torch.onnx.export"


def _bench(model: nn.Module, shape: tuple[int, ...], folder: Path) -> Workbench:
    return Workbench(model, task_data(shape), load_profile("host"), seed=0, folder=folder, epochs=1)


def test_the_original_is_a_plain_export_of_what_was_given(tmp_path: Path) -> None:
    chain = NETWORKS["chain"]
    model = chain.make()
    bench = _bench(model, chain.input_shape, tmp_path)
    proto = onnx.load_model_from_string(bench.evaluator.original.file)
    assert bench.evaluator.original.note == "" and set(bench.evaluator.original.runtimes) == {PLAIN, OWN}
    assert proto.producer_name != "autocompress" and proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    with torch.no_grad():
        expected = model(bench.network.calibration[:3]).numpy()
    np.testing.assert_allclose(
        Runtime(bench.evaluator.original.file).run(bench.network.calibration[:3].numpy()), expected, atol=1e-4
    )
    baseline = bench.evaluator.baseline()
    assert baseline["size_bytes"] == min(len(bench.evaluator.original.file), len(bench.network.writer.original_file))
    assert baseline["latency_ms"] > 0 and baseline["latency_wall_ms"] > 0 and baseline["latency_spread"] >= 0


def test_no_speedup_is_the_exporters(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {PLAIN: 4.0, OWN: 3.0, "file": 1.0}
    monkeypatch.setattr(originals, "time_files", lambda files, *_: {
        name: Timing(np.full(5, times[name]), np.full(5, 9.0)) for name in files})
    both = OriginalFile(b"", dict.fromkeys((PLAIN, OWN), None), 0)  # type: ignore[arg-type]
    graph, before, after = both.time_beside({"file": None}, {"input": np.zeros(1)})  # type: ignore[dict-item]
    assert graph == OWN and before.metrics()["latency_ms"] == 3.0 and after["file"].metrics()["latency_ms"] == 1.0


def test_where_there_is_no_plain_export_our_own_graph_stands_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> bytes:
        raise TrialError("no such operator")

    model = nn.Sequential(nn.Linear(4, 3)).eval()
    example = torch.zeros(2, 4)
    data = plain_export(model, example)
    inputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(OnnxFormat, "plain", fails)
    original = original_of(FORMAT, model, data, inputs, example, FORMAT.open)
    assert original.file == data and set(original.runtimes) == {OWN} and "no such operator" in original.note
    monkeypatch.setattr(OnnxFormat, "plain", lambda *_: plain_export(nn.Sequential(nn.Linear(4, 3)), example))
    assert "otherwise" in original_of(FORMAT, model, data, inputs, example, FORMAT.open).note


class _Sorted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(20, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.special.bessel_j0(self.linear(inputs))


def test_a_network_that_onnx_cannot_hold_is_refused_by_its_operation(tmp_path: Path,
                                                                     capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"exportable to onnx.*bessel_j0") as caught:
        _bench(_Sorted().eval(), (20,), tmp_path)
    assert "\x1b" not in str(caught.value) and "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, TrialError)
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "")


def test_a_runtime_that_fails_refuses_the_plan_and_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    nodes = [onnx.helper.make_node("Reshape", ["x", "shape"], ["y"])]
    shape = onnx.numpy_helper.from_array(np.array([7, -1], np.int64), "shape")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(nodes, "g", [value("x", 1, ["n", 4])], [value("y", 1, None)], [shape])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    runtime = Runtime(model.SerializeToString())
    with pytest.raises(TrialError, match="fails on 3 inputs") as caught:
        runtime.run(np.zeros((3, 4), np.float32))
    assert caught.value.__cause__ is not None and "\n" not in str(caught.value)
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "")
