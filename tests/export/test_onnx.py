"""What ONNX Runtime makes of the file: which layers become integer kernels, which must stay float."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from autocompress.backend.network.fold import fold_norms
from autocompress.core.plan import Plan, Step
from autocompress.errors import TrialError
from autocompress.formats.onnx.runtime import Runtime
from autocompress.formats.onnx.writer import build
from autocompress.formats.running import in_batches, require_finite
from autocompress.study.workbench import Workbench
from autocompress.testing.techniques import outputs, workbench


def _quantise(**bits: tuple[int, int]) -> Plan:
    return Plan.of([Step(site.replace("_", "."), "quantize", {"weight_bits": weight, "activation_bits": activation})
                    for site, (weight, activation) in bits.items()])


def _optimised(data: bytes, path: Path) -> onnx.ModelProto:
    """The graph that ONNX Runtime really executes."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return onnx.load(path)


def _file(bench: Workbench, plan: Plan) -> tuple[bytes, np.ndarray]:
    compressed = bench.network.compressor.compress(plan)
    return bench.network.write(compressed).data, outputs(compressed.model, bench.network.calibration).numpy()


def _kernels(model: onnx.ModelProto) -> list[str]:
    """The convolutions, sorted; a fused float one counts as Conv."""
    names = {"FusedConv": "Conv", "QGemm": "QLinearGemm", "FusedGemm": "Gemm"}
    kinds = [names.get(node.op_type, node.op_type) for node in model.graph.node]
    return sorted(kind for kind in kinds if kind.endswith("Conv"))


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 8])
def test_integer_layers_become_integer_kernels(tmp_path: Path, bits: int) -> None:
    """Whatever the stored width: the runtime folds the unpacking when it loads."""
    data, expected = _file(workbench("chain"), _quantise(**dict.fromkeys(("0_0", "1_0", "2_0", "5"), (bits, 8))))
    model = _optimised(data, tmp_path / "optimised.onnx")
    assert _kernels(model) == ["QLinearConv"] * 3
    assert not {"Gather", "Split", "Add"} & {node.op_type for node in model.graph.node}
    got = Runtime(data).run(workbench("chain").network.calibration.numpy())
    assert np.corrcoef(got.ravel(), expected.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("plan", [
    _quantise(**{"0_0": (8, 8), "2_0": (8, 8), "5": (8, 8)}),
    _quantise(**{"0_0": (4, 8), "1_0": (16, 32), "2_0": (4, 8), "5": (8, 8)}),
    _quantise(**{"0_0": (8, 8), "1_0": (8, 32), "2_0": (3, 8), "5": (8, 8)}),
], ids=["float", "half", "float activations"])
def test_a_float_layer_between_integer_ones_stays_float(tmp_path: Path, plan: Plan) -> None:
    """Between an activation's DQ and Q the runtime quantises float weights to 8 bits, and tells nobody."""
    bench = workbench("chain")
    data, expected = _file(bench, plan)
    model = _optimised(data, tmp_path / "optimised.onnx")
    kernels = _kernels(model)
    assert "Conv" in kernels
    assert 1 <= kernels.count("QLinearConv") <= 2, "only the two planned layers may run in integers"
    got = Runtime(data).run(bench.network.calibration.numpy())
    assert np.corrcoef(got.ravel(), expected.ravel())[0, 1] > 0.99


def test_float_activations_leave_no_quantiser_in_the_graph(tmp_path: Path) -> None:
    bench = workbench("residual")
    sites = [layer.name for layer in bench.network.table.layers if layer.kind in ("conv", "linear")]
    plan = Plan.of([Step(s, "quantize", {"weight_bits": 4, "activation_bits": 32}) for s in sites])
    data, expected = _file(bench, plan)
    assert {"QuantizeLinear", "DequantizeLinear"}.isdisjoint(
        {node.op_type for node in onnx.load_model_from_string(data).graph.node})
    model = _optimised(data, tmp_path / "optimised.onnx")
    # Everything about weights is folded at load: what runs is the float network.
    assert _kernels(model) == ["Conv"] * 4
    assert {"Cast", "Mul", "Gather", "Split"}.isdisjoint({node.op_type for node in model.graph.node})
    np.testing.assert_allclose(Runtime(data).run(bench.network.calibration.numpy()), expected, rtol=1e-3, atol=1e-4)


def test_layers_that_share_a_tensor_share_its_quantiser() -> None:
    bench = workbench("residual")
    sites = [layer.name for layer in bench.network.table.layers if layer.kind in ("conv", "linear")]
    plan = Plan.of([Step(s, "quantize", {"weight_bits": 8, "activation_bits": 8}) for s in sites])
    data, _ = _file(bench, plan)
    quantisers = [n.input[0] for n in onnx.load_model_from_string(data).graph.node if n.op_type == "QuantizeLinear"]
    assert len(set(quantisers)) == len(quantisers)
    ends = {
        end for layer in bench.network.table.layers if layer.name in sites for end in (layer.reads, layer.writes) if end
    }
    assert len(quantisers) == len(ends)


def test_half_precision_halves_the_file() -> None:
    bench = workbench("flattened")
    data, _ = _file(bench, _quantise(**dict.fromkeys(("0_0", "1_0", "3", "5"), (16, 32))))
    weights = sum(layer.params for layer in bench.network.table.layers if layer.kind in ("conv", "linear"))
    stored = [numpy_helper.to_array(tensor).nbytes for tensor in onnx.load_model_from_string(data).graph.initializer]
    assert sum(stored) == pytest.approx(2 * weights, rel=0.05)
    assert len(data) < 0.55 * len(bench.network.writer.original_file)


def test_a_planned_layer_that_the_graph_lacks_is_told() -> None:
    bench = workbench("mlp")
    compressed = bench.network.compressor.compress(_quantise(**{"0": (8, 8)}))
    folded = fold_norms(compressed, bench.network.table)
    with pytest.raises(TrialError, match="no node for ghost"):
        build(
            bench.network.writer.prepared,
            folded.model,
            {"ghost": folded.weights["0"]},
            set(),
            {},
            bench.network.calibration.numpy(),
        )


def test_the_runtime_refuses_what_is_no_model_and_scores_that_are_not_finite() -> None:
    with pytest.raises(TrialError, match="ONNX Runtime refuses"):
        Runtime(b"not a model")
    bench = workbench("mlp")
    runtime = Runtime(bench.network.writer.original_file)
    inputs = bench.network.calibration.numpy().copy()
    parts = [runtime.run(part) for part in (inputs[:100], inputs[100:])]
    (whole,) = in_batches(runtime, {"input": inputs}).values()
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-5, atol=1e-6)
    require_finite({"output": whole})
    inputs[3, 0] = np.nan
    with pytest.raises(TrialError, match="nan"):
        require_finite(runtime.run({"input": inputs}))


