"""Where 8-bit activations pay: measured on the original, and then kept by every plan of the search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from autocompress.formats.onnx.format import OnnxFormat
from autocompress.formats.onnx.runtime import Runtime
from autocompress.formats.timing import Timing
from autocompress.hardware.profile import load_profile
from autocompress.hardware.targets import load_targets
from autocompress.space.encode import encode
from autocompress.space.space import build_space
from autocompress.space.spec import load_space, parse_space
from autocompress.study import quantization_payoff as paying
from autocompress.study.identity import kept_float
from autocompress.study.quantization_payoff import unpaying_layers
from autocompress.study.settings import SearchSettings
from autocompress.testing.techniques import workbench

DEFAULT = load_space("default")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A machine on which each quantised tensor costs so many milliseconds, and each integer layer saves so many."""
    def configure(tensor_ms: float, layer_ms: float, grouped_ms: float | None = None) -> None:
        def saved(node: onnx.NodeProto, integer: set[str]) -> float:
            if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[0] not in integer:
                return 0.0
            grouped = any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)
            return layer_ms if grouped_ms is None or not grouped else grouped_ms

        def cost(runtime: Runtime) -> float:
            nodes = files[id(runtime)]
            quantised = sum(node.op_type == "QuantizeLinear" for node in nodes)
            return 100 + tensor_ms * quantised - sum(saved(node, dequantised(nodes)) for node in nodes)

        monkeypatch.setattr(paying, "time_files", lambda both, *_: {
            name: Timing(np.full(5, cost(runtime)), np.ones(5)) for name, runtime in both.items()})

    files: dict[int, list[onnx.NodeProto]] = {}
    kept: list[Runtime] = []

    def dequantised(nodes: list[onnx.NodeProto]) -> set[str]:
        return {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}

    def load(_: OnnxFormat, data: bytes, threads: int = 1) -> Runtime:
        kept.append(Runtime(data, threads))
        files[id(kept[-1])] = list(onnx.load_model_from_string(data).graph.node)
        return kept[-1]

    monkeypatch.setattr(OnnxFormat, "open", load)
    return configure


def test_all_stays_float_where_integers_cost_more(machine: Callable[..., None]) -> None:
    bench = workbench("residual")
    machine(0.5, 0.1)
    every = {
        layer.name for layer in bench.network.table.layers if layer.kind in ("conv", "linear") and layer.compressible
    }
    assert unpaying_layers(bench, DEFAULT) == every
    machine(0.1, 2.0)
    assert unpaying_layers(bench, DEFAULT) == frozenset()


def test_a_class_of_layers_that_does_not_pay_is_left_out(machine: Callable[..., None]) -> None:
    bench = workbench("separable")
    machine(0.1, 2.0, grouped_ms=-3.0)
    grouped = {layer.name for layer in bench.network.table.layers if layer.groups > 1}
    assert grouped and unpaying_layers(bench, DEFAULT) == grouped


def test_nothing_is_measured_where_the_space_or_the_device_leaves_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paying, "_Comparison", lambda bench: pytest.fail("measured"))
    bench = workbench("mlp")
    assert unpaying_layers(bench, load_space("int8")) == frozenset()
    for profile in (load_profile("stm32h743"), load_targets(("host", "stm32h743"))):
        monkeypatch.setattr(bench.evaluator, "profile", profile)
        assert unpaying_layers(bench, DEFAULT) == frozenset()


def test_plans_keep_those_activations_float_and_their_weights_small(machine: Callable[..., None]) -> None:
    bench = workbench("residual")
    machine(0.5, 0.1)
    kept = unpaying_layers(bench, DEFAULT)
    space = build_space(bench.network.table, DEFAULT, bench.evaluator.profile, kept)
    plan = space.decode(space.uniform(4))
    steps = plan.find("quantize")
    assert {step.args["activation_bits"] for step in steps.values()} == {32}
    assert {step.args["weight_bits"] for step in steps.values()} == {4}
    assert space.decode(encode(space, plan)) == plan
    file = onnx.load_model_from_string(bench.network.write(bench.network.compressor.compress(plan)).data)
    nodes = [node.op_type for node in file.graph.node]
    assert "QuantizeLinear" not in nodes and "DequantizeLinear" not in nodes
    one = frozenset({next(iter(steps))})
    mixed = build_space(bench.network.table, DEFAULT, bench.evaluator.profile, one)
    plan = mixed.decode(mixed.uniform(8))
    assert {s for s, step in plan.find("quantize").items() if step.args["activation_bits"] == 32} == one
    assert mixed.decode(encode(mixed, plan)) == plan
    forced = parse_space('schema = 1\nname = "m"\n[quantize]\nactivation_bits = [8]\n', "m.toml")
    assert build_space(bench.network.table, forced, bench.evaluator.profile, one).unpaying == frozenset()


def test_a_resumed_study_keeps_what_was_measured(tmp_path: Path) -> None:
    measured = frozenset({"a"})
    assert kept_float(SearchSettings(), tmp_path, lambda: measured) == measured
    assert kept_float(SearchSettings(resume=True), tmp_path, lambda: measured) == measured
