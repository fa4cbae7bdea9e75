"""Sparse weights in the file: restored exactly, folded at load, only where it saves, and as large as predicted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.backend.network.fold import fold_norms
from autocompress.core.plan import Plan, Step
from autocompress.core.sparsity import UNSTRUCTURED, code_bits, kept_weights, mask_bits
from autocompress.errors import InputError, TrialError
from autocompress.estimate import estimate
from autocompress.formats.onnx.runtime import Runtime
from autocompress.formats.onnx.sparse import arrangements, pack_sparse
from autocompress.formats.onnx.sparse_choice import stored_sparse
from autocompress.formats.onnx.writer import build
from autocompress.formats.packing import integers as packed_as
from autocompress.formats.packing import lookup
from autocompress.hardware.profile import load_profile
from autocompress.study.workbench import Workbench
from autocompress.testing.exporters import halves, integers, sparse, structure
from autocompress.testing.techniques import outputs, workbench

PATTERNS = (UNSTRUCTURED, "1:2", "1:4", "2:4", "3:4", "1:8", "4:8", "1:16", "2:16")


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_arrangement_has_its_code(pattern: str) -> None:
    table = arrangements(pattern)
    assert len({row.tobytes() for row in table}) == len(table) <= 2 ** code_bits(pattern)
    if pattern != UNSTRUCTURED:
        n, m = map(int, pattern.split(":"))
        assert table.shape[1] == m
        assert (table.sum(1) == n).all()
    if code_bits(pattern) < 8:
        bits = code_bits(pattern)
        np.testing.assert_array_equal(lookup(table, bits)[packed_as(bits)[:len(table)]], table)


@given(st.sampled_from(PATTERNS), st.integers(1, 5), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_packed_values_and_codes_say_everything(pattern: str, outs: int, groups: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ins = 16 * groups
    weight = rng.normal(size=(outs, ins, 3)).astype(np.float32)
    score = np.moveaxis(rng.random(weight.shape), 1, -1)
    if pattern == UNSTRUCTURED:
        mask = np.moveaxis(score < 0.4, -1, 1)
    else:
        n, m = map(int, pattern.split(":"))
        rank = score.reshape(-1, m).argsort(1).argsort(1)
        mask = np.moveaxis((rank < n).reshape(score.shape), -1, 1)
    packed = pack_sparse(pattern, {"a": weight * mask, "b": (weight * mask)[:1]}, {"a": mask, "b": mask[:1]},
                         {"a": 1, "b": 1})
    flags = arrangements(pattern)[packed.codes].reshape(-1)
    assert flags.sum() == len(packed.values)
    whole = np.zeros(len(flags), np.float32)
    whole[flags] = packed.values
    first = whole[:weight.size].reshape(packed.shapes["a"])
    if packed.orders["a"]:
        first = first.transpose(packed.orders["a"])
    np.testing.assert_array_equal(first, weight * mask)
    assert len(flags) == weight.size + weight[:1].size + packed.padding


@pytest.mark.parametrize(("pattern", "bits"), [(UNSTRUCTURED, 4), ("2:4", 2), ("4:8", 8), ("1:4", 16),
                                               (UNSTRUCTURED, 32), ("2:4", 32)])
def test_the_runtime_restores_weights_when_it_loads(tmp_path: Path, pattern: str, bits: int) -> None:
    """Nothing of the restoring is left in what runs: it costs no time but at the start."""
    bench = workbench("residual")
    widths = {16: halves(bench).steps, 32: ()}.get(bits, integers(bench, (bits,), 32).steps)
    compressed = bench.network.compressor.compress(Plan.of((*sparse(bench, Plan(), (pattern,)).steps, *widths)))
    data = bench.network.write(compressed).data
    assert "CumSum" in {node.op_type for node in onnx.load_model_from_string(data).graph.node}
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    left = {node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node}
    assert not {"CumSum", "Gather", "Split", "Concat", "Cast", "Mul", "Reshape", "Transpose"} & left - {"Reshape"}
    np.testing.assert_allclose(Runtime(data).run(bench.network.calibration.numpy()),
                               outputs(compressed.model, bench.network.calibration).numpy(), rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("bits", [1, 3, 4, 8, 16, 32])
@pytest.mark.parametrize("pattern", [UNSTRUCTURED, "2:4", "1:8"])
@pytest.mark.parametrize("network", ["residual", "mlp", "signal"])
def test_files_are_as_large_as_predicted(network: str, pattern: str, bits: int) -> None:
    bench = workbench(network)
    widths = {16: halves(bench).steps, 32: ()}.get(bits, integers(bench, (bits,), 32).steps)
    for shape in (Plan(), structure(bench)):
        for density in (0.3, 0.97):
            plan = Plan.of((*shape.steps, *sparse(bench, shape, (pattern,), density, "magnitude").steps, *widths))
            _agrees(bench, plan)


@pytest.mark.slow
def test_a_large_file_is_as_large_as_predicted(resnet: Workbench) -> None:
    for steps in (integers(resnet, (4, 8, 2), 8).steps, halves(resnet).steps, ()):
        plan = Plan.of((*sparse(resnet, Plan(), criterion="magnitude").steps, *steps))
        real = _agrees(resnet, plan)
        assert real < _size(resnet, Plan.of(steps))


def _size(bench: Workbench, plan: Plan) -> int:
    return len(bench.network.write(bench.network.compressor.compress(plan)).data)


def _agrees(bench: Workbench, plan: Plan) -> int:
    predicted, real = estimate(bench.network.table, plan, bench.evaluator.profile)["size_bytes"], _size(bench, plan)
    assert abs(predicted - real) <= max(0.005 * real, 60), f"predicted {predicted}, real {real}"
    return real


def test_the_sparse_form_is_taken_only_where_it_is_smaller() -> None:
    bench = workbench("mlp")
    for bits in (8, 32):
        steps = integers(bench, (8,), 32).steps if bits == 8 else ()
        dense = _size(bench, Plan.of(steps))
        full = Plan.of((*sparse(bench, Plan(), (UNSTRUCTURED,), 0.99).steps, *steps))
        assert _size(bench, full) == dense, "zeros are stored like any other level or value"
    assert stored_sparse("2:4", 8, [(10**6, 5 * 10**5)]) == [True]
    assert stored_sparse("2:4", 8, [(1000, 500)]) == [False], "tables would outweigh what is saved"
    assert stored_sparse(UNSTRUCTURED, 8, [(10**6, 9 * 10**5), (10**6, 10**5)]) == [False, True]
    assert stored_sparse(UNSTRUCTURED, 2, [(1000, 900)]) == [True], "no zero without a mask"


@pytest.mark.parametrize("profile", ["raspberry-pi-4", "nvidia-t4", "stm32h743"])
def test_zeros_are_not_taken_for_speed(profile: str) -> None:
    """No profile names a runtime that skips them."""
    bench, device = workbench("residual"), load_profile(profile)
    widths = integers(bench, (8,), 8).steps
    sparse_plan = Plan.of((*sparse(bench, Plan(), density=0.05).steps, *widths))
    dense, thin = (estimate(bench.network.table, plan, device) for plan in (Plan.of(widths), sparse_plan))
    for metric in ("latency_ms", "macs", "peak_memory_bytes", "params"):
        assert thin[metric] == dense[metric]


@pytest.mark.parametrize(("pattern", "bits"), [(UNSTRUCTURED, 1.0), ("2:4", 0.75), ("1:4", 0.5), ("4:8", 0.875),
                                               ("1:16", 0.25), ("1:2", 0.5)])
def test_bits_that_say_which_stay(pattern: str, bits: float) -> None:
    assert mask_bits(pattern) == bits
    assert kept_weights(160, pattern, 0.25) == (40 if pattern == UNSTRUCTURED else
                                                160 * int(pattern[0]) // int(pattern.split(":")[1]))


@pytest.mark.parametrize("pattern", ["", "2", "2:", "0:4", "4:4", "5:4", "2:4:8", "1:99", "8:16", "-1:4", "Dense"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(InputError, match="sparsity pattern must be"):
        mask_bits(pattern)


def test_a_mask_that_the_graph_lacks_is_told() -> None:
    bench = workbench("mlp")
    compressed = bench.network.compressor.compress(Plan.of([Step("0", "sparsify", {"pattern": "2:4"})]))
    with pytest.raises(TrialError, match="no node for ghost"):
        build(
            bench.network.writer.prepared,
            fold_norms(compressed, bench.network.table).model,
            {},
            set(),
            set(),
            bench.network.calibration.numpy(),
            masks={"ghost": compressed.masks["0"]},
        )
