"""Files for Ethos-U under the contract of formats, and what the compiler tells of them."""

from __future__ import annotations

import pytest

from autocompress.core.plan import Step
from autocompress.errors import InputError, TrialError
from autocompress.formats.running import on_device
from autocompress.formats.table import format_named
from autocompress.formats.tflite.rules import lower
from autocompress.formats.tflite.trace import trace
from autocompress.formats.vela.compiler import compile_file
from autocompress.formats.vela.format import U55_128, U65_256, U85_256, VelaFormat
from autocompress.formats.vela.pooling import with_pooled_means
from autocompress.hardware.profile import load_profile
from autocompress.study.workbench import Workbench
from autocompress.testing.exporters import integers
from autocompress.testing.format_contract import FormatContract
from autocompress.testing.networks import NETWORKS
from autocompress.testing.techniques import workbench


class TestVela(FormatContract):
    """Small networks; the file itself is one for LiteRT."""

    format, networks = U55_128, ("separable",)


@pytest.mark.parametrize("target", [U55_128, U65_256, U85_256], ids=lambda target: target.name)
def test_a_file_in_integers_has_the_compilers_figures(target: VelaFormat) -> None:
    bench = workbench("separable", target)
    data = bench.network.write(bench.network.compressor.compress(integers(bench, (8,), 8))).data
    runtime = target.open(data)
    told = on_device(runtime)
    assert told.keys() == {"size_bytes", "peak_memory_bytes", "latency_ms"} and runtime.source == "compiled"
    assert 2000 < told["size_bytes"] < len(data) and 1000 < told["peak_memory_bytes"] < 64_000
    assert 0.001 < told["latency_ms"] < 1
    files = target.files(data)
    assert list(files) == ["model.tflite", "model_vela.tflite"] and files["model_vela.tflite"] != data
    proved = target.checked(data)["compiled"]
    assert proved["accelerator"] == target.accelerator.name and proved["flash_bytes"] == told["size_bytes"]


def test_a_file_in_floats_has_none() -> None:
    bench = workbench("separable", U55_128)
    original = bench.network.writer.original_file
    assert on_device(U55_128.open(original)) == {} and U55_128.checked(original) == {}
    assert list(U55_128.files(original)) == ["model.tflite"]


def test_what_vela_refuses_is_a_failed_trial() -> None:
    with pytest.raises(TrialError, match="Vela refuses the file"):
        compile_file(b"no model", U55_128.accelerator)


@pytest.mark.parametrize(("args", "reason"), [
    ({"weight_bits": 4, "activation_bits": 8}, "8 bits"), ({"weight_bits": 16, "activation_bits": 32}, "8 bits"),
    ({"weight_bits": 8, "activation_bits": 32}, "integer activations"),
    ({"weight_bits": 8, "activation_bits": 8}, "")])
def test_what_the_accelerator_cannot_hold_is_refused(args: dict[str, int], reason: str) -> None:
    layer = workbench("separable", U55_128).network.table.layers[0]
    told = format_named("vela").legal(Step(layer.name, "quantize", args), layer)
    assert reason in told and bool(reason) == bool(told)


def test_an_evaluation_counts_what_the_compiler_tells() -> None:
    network = NETWORKS["separable"]
    bench = Workbench(network.make(), network.data(), load_profile("ethos-u55-128"), seed=0, epochs=1)
    evaluation = bench.evaluator.evaluate(integers(bench, (8,), 8), 0)
    compiled = U55_128.open(bench.evaluator.file_of(integers(bench, (8,), 8), evaluation)).compiled
    assert compiled is not None
    assert {name: evaluation.metrics[name] for name in ("size_bytes", "peak_memory_bytes", "latency_ms")} == {
        "size_bytes": compiled.flash_bytes, "peak_memory_bytes": compiled.ram_bytes,
        "latency_ms": 1e3 * compiled.seconds}
    assert {evaluation.sources[name] for name in ("size_bytes", "peak_memory_bytes", "latency_ms")} == {"compiled"}


def test_means_over_places_are_pooled() -> None:
    graph = lower(trace(NETWORKS["separable"].make(), NETWORKS["separable"].data().train.inputs[:2]))
    assert [operation.kind for operation in graph.operations].count("MEAN") == 1
    with_pooled_means(graph)
    kinds = [operation.kind for operation in graph.operations]
    assert "MEAN" not in kinds and kinds.count("AVERAGE_POOL_2D") == 1


def test_a_network_that_the_processor_would_have_to_help_is_refused() -> None:
    with pytest.raises(InputError, match=r"exportable to vela.*has no integer kernel"):
        workbench("encoder", U55_128)
