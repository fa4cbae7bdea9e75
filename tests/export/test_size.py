"""The predicted size against the file: what projection into a budget rests on."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from autocompress.backend.compress import quantize
from autocompress.backend.fold import fold_norms
from autocompress.core.budget import Budget
from autocompress.core.plan import Plan
from autocompress.errors import InfeasibleError
from autocompress.estimate import estimate
from autocompress.export.build import build
from autocompress.export.template import export_template
from autocompress.space.projection import Projection
from autocompress.space.space import build_space
from autocompress.space.spec import list_spaces, load_space
from autocompress.study.workbench import Workbench
from autocompress.testing.techniques import workbench

BUDGETS = (25_000, 50_000, 200_000, 2_000_000, 40_000_000)
SMALL_FILE, SMALL_ERROR = 20_000, 40


def _file_bytes(bench: Workbench, plan: Plan) -> int:
    """Structure and integers matter, their quality does not: two samples are enough."""
    compressed = bench.compressor.restructure(plan)
    quantize(compressed, bench.calibration[:2])
    folded = fold_norms(compressed, bench.table)
    bits = {part: q.bits for part, q in folded.weights.items()}
    steps = plan.find("quantize")
    owner = {name: name if name in steps else name.rpartition(".")[0] for name in bits}
    eight = {name for name in bits if steps[owner[name]].args["activation_bits"] == 8}
    half = {name for name, module in folded.model.named_modules()
            if isinstance(getattr(module, "weight", None), torch.Tensor)
            and (steps.get(name) or steps.get(name.rpartition(".")[0])) is not None
            and (steps.get(name) or steps[name.rpartition(".")[0]]).args["weight_bits"] == 16}
    return len(build(bench.template, folded.model, folded.weights, half, eight, bench.calibration[:2].numpy()).data)


def _plans(bench: Workbench, name: str, seed: int) -> list[Plan]:
    """A random plan for each budget that this space can meet."""
    space = build_space(bench.table, load_space(name), bench.profile)
    rng = random.Random(seed)
    plans = {}
    for budget in BUDGETS:
        values: dict[str, Any] = {knob.name: rng.choice(knob.choices) if knob.choices else rng.uniform(knob.low, knob.high)
                                  for knob in space.knobs}
        try:
            plan = Projection(space, Budget(size_bytes=budget)).project(values).plan
        except InfeasibleError:
            continue
        plans[plan.fingerprint] = plan
    return list(plans.values())


def _agrees(bench: Workbench, plan: Plan) -> None:
    predicted, real = estimate(bench.table, plan, bench.profile)["size_bytes"], _file_bytes(bench, plan)
    error = predicted - real
    assert -0.001 * real <= error <= max(0.005 * real, SMALL_ERROR if real < SMALL_FILE else 0), (
        f"predicted {predicted}, real {real}")


@pytest.mark.parametrize("name", list_spaces())
def test_resnet_files_are_as_large_as_predicted(resnet: Workbench, name: str) -> None:
    plans = _plans(resnet, name, 0)
    assert plans
    for plan in plans[:2] if name == "low-rank" else plans:  # Tucker-2 of 512 channels takes seconds
        _agrees(resnet, plan)


@pytest.mark.parametrize("name", list_spaces())
@pytest.mark.parametrize("network", ["dense", "mlp", "signal"])
def test_small_files_are_as_large_as_predicted(network: str, name: str) -> None:
    bench = workbench(network)
    for seed in range(2):
        for plan in _plans(bench, name, seed):
            _agrees(bench, plan)


def test_the_original_is_as_large_as_predicted(resnet: Workbench) -> None:
    predicted = estimate(resnet.table, Plan(), resnet.profile)["size_bytes"]
    assert predicted == pytest.approx(len(resnet.baseline_file), abs=16)


def test_the_skeleton_says_nothing_twice(resnet: Workbench) -> None:
    """Attributes at their defaults, names of nodes and metadata would be a tenth of a 25 kB file."""
    nodes = resnet.template.model.graph.node
    first = next(node for node in nodes if node.op_type == "Conv")
    assert {a.name for a in first.attribute} == {"kernel_shape", "pads", "strides"}
    assert not any(node.HasField("name") or node.HasField("doc_string") for node in nodes)
    assert resnet.template.skeleton_bytes < 2500


def test_a_depthwise_convolution_keeps_its_groups() -> None:
    bench = workbench("separable")
    template = export_template(fold_norms(bench.compressor.restructure(Plan()), bench.table).model, (3, 12, 12))
    groups = [a.i for node in template.model.graph.node for a in node.attribute if a.name == "group"]
    assert groups == [16, 32]
