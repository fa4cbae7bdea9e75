"""The predicted size against the file: what projection into a budget rests on."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import pytest
import torch

from autocompress.backend.network.compressed import step_of, weight_bits
from autocompress.backend.network.fold import fold_norms
from autocompress.backend.network.quantized_weight import QuantizedWeight
from autocompress.backend.quantize import rounding
from autocompress.backend.statistics.moments import Statistics
from autocompress.core.budget import Budget
from autocompress.core.plan import Plan
from autocompress.errors import InfeasibleError
from autocompress.estimate import estimate
from autocompress.formats.onnx.writer import build
from autocompress.space.projection import Projection
from autocompress.space.space import build_space
from autocompress.space.spec import list_spaces, load_space
from autocompress.study.workbench import Workbench
from autocompress.testing.exporters import integers, structure
from autocompress.testing.techniques import workbench

BUDGETS = (25_000, 50_000, 200_000, 2_000_000, 40_000_000)
SMALL_FILE, SMALL_ERROR = 20_000, 40


@pytest.fixture(autouse=True)
def values_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes alone settle the size."""
    def quantized(weight: torch.Tensor, bits: int, grid: str = "linear", group: int = 0,
                  *_: object, **__: object) -> QuantizedWeight:
        table = None if grid == "linear" else torch.tensor([-1, 1], dtype=torch.int8).repeat_interleave(2**bits // 2)
        runs = -(-weight[0].numel() // group) if group else 0
        return QuantizedWeight(bits, torch.ones(weight.shape, dtype=torch.int8), torch.ones(len(weight)), table, group,
                               torch.ones(len(weight), runs, dtype=torch.uint8) if group else None)

    monkeypatch.setattr(rounding, "quantize_weight", quantized)
    monkeypatch.setattr(Statistics, "moments", lambda self, name: None)


def _file_bytes(bench: Workbench, plan: Plan) -> int:
    compressed = bench.network.compressor.restructure(plan, fit=bool(plan.find("sparsify")))  # which weights stay
    rounding.quantize(compressed, bench.network.calibration[:2], bench.network.compressor.rounded(compressed))
    folded = fold_norms(compressed, bench.network.table)
    quantised, half = {}, set()
    for name, bits in weight_bits(compressed.model, plan).items():
        step = step_of(name, plan)
        if bits == 16:
            half.add(name)
        elif step.args["activation_bits"] <= 16:
            quantised[name] = step.args["activation_bits"]
    template = bench.network.writer.prepared_for(plan, partial(bench.network.compressor.restructure, fit=False))
    return len(build(template, folded.model, folded.weights, half, quantised,
                     bench.network.calibration[:2].numpy(), masks=folded.masks).data)


def _plans(bench: Workbench, name: str, seed: int) -> list[Plan]:
    """A random plan for each budget that this space can meet."""
    space = build_space(bench.network.table, load_space(name), bench.evaluator.profile)
    rng = random.Random(seed)
    plans = {}
    for budget in BUDGETS:
        values: dict[str, Any] = {
            knob.key: rng.choice(knob.choices) if knob.choices else rng.uniform(knob.low, knob.high)
            for knob in space.knobs}
        try:
            plan = Projection(space, Budget(size_bytes=budget)).project(values).plan
        except InfeasibleError:
            continue
        plans[plan.fingerprint] = plan
    return list(plans.values())


def _agrees(bench: Workbench, plan: Plan) -> None:
    predicted, real = (
        estimate(bench.network.table, plan, bench.evaluator.profile)["size_bytes"],
        _file_bytes(bench, plan),
    )
    error = predicted - real
    assert -0.001 * real <= error <= max(0.005 * real, SMALL_ERROR if real < SMALL_FILE else 0), (
        f"predicted {predicted}, real {real}")


@pytest.mark.slow
def test_resnet_files_are_as_large_as_predicted(resnet: Workbench) -> None:
    for name in list_spaces():
        plans = _plans(resnet, name, 0)
        assert plans
        for plan in plans:
            _agrees(resnet, plan)
    predicted = estimate(resnet.network.table, Plan(), resnet.evaluator.profile)["size_bytes"]
    assert predicted == pytest.approx(len(resnet.network.writer.original_file), abs=16)
    assert resnet.network.writer.prepared.skeleton_bytes < 2500


@pytest.mark.parametrize("name", list_spaces())
@pytest.mark.parametrize("network", ["dense", "encoder", "lstm", "mlp", "signal"])
def test_small_files_are_as_large_as_predicted(network: str, name: str) -> None:
    bench = workbench(network)
    for plan in _plans(bench, name, 0):
        _agrees(bench, plan)


@pytest.mark.parametrize("settings", [{"grid": "codebook"}, {"grid": "pow2"}, {"group": 32}, {"group": 128},
                                      {"grid": "codebook", "group": 64}, {"equalize": "weights"}], ids=str)
@pytest.mark.parametrize("network", ["residual", "mlp", "signal", "separable"])
def test_grids_and_groups_are_counted(network: str, settings: dict[str, Any]) -> None:
    bench = workbench(network)
    _agrees(bench, integers(bench, (3, 4, 8), 32, **settings))
    _agrees(bench, Plan.of([*structure(bench).steps, *integers(bench, (2,), 32, **settings).steps]))
    if "group" not in settings:
        _agrees(bench, integers(bench, (4, 2), 16, **settings))


@pytest.mark.slow
def test_groups_on_a_large_network_are_counted(resnet: Workbench) -> None:
    for settings in ({"group": 32}, {"grid": "codebook", "group": 128}):
        plan = integers(resnet, (4, 3), 32, **settings)
        predicted = estimate(resnet.network.table, plan, resnet.evaluator.profile)["size_bytes"]
        assert predicted == pytest.approx(_file_bytes(resnet, plan), rel=2e-4)


def test_the_skeleton_says_nothing_twice() -> None:
    """Attributes at their defaults, names of nodes and metadata would be a tenth of a 25 kB file."""
    nodes = workbench("residual").network.writer.prepared.model.graph.node
    told = [{a.name for a in node.attribute} for node in nodes if node.op_type == "Conv"]
    assert told == [{"kernel_shape", "pads"}, {"kernel_shape", "pads"}, {"kernel_shape", "pads", "strides"},
                    {"kernel_shape", "strides"}]
    assert not any(node.HasField("name") or node.HasField("doc_string") for node in nodes)


def test_a_depthwise_convolution_keeps_its_groups() -> None:
    nodes = workbench("separable").network.writer.prepared.model.graph.node
    assert [a.i for node in nodes for a in node.attribute if a.name == "group"] == [16, 32]
