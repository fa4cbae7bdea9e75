"""A network that puts out probabilities is compressed and trained as the same one that puts out scores."""

from __future__ import annotations

import copy
import os
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autocompress.backend.sensitivity.fisher import sensitivities
from autocompress.backend.statistics.calibration import reestimate_norms
from autocompress.backend.statistics.outputs import ends_in_sigmoid
from autocompress.backend.training.distill import distill
from autocompress.backend.training.recipe import Recipe
from autocompress.core.plan import Step
from autocompress.formats.onnx.runtime import Runtime
from autocompress.hardware.profile import load_profile
from autocompress.study.workbench import Workbench
from autocompress.testing.exporters import integers
from autocompress.testing.networks import NETWORKS

ENDS = {"scores": nn.Identity(), "probabilities": nn.Softmax(1), "log-probabilities": nn.LogSoftmax(1)}


@cache
def _bench(end: str) -> Workbench:
    entry = NETWORKS["chain"]
    body, data = entry.make(), entry.data()
    reestimate_norms(body, data.normalise(data.train.inputs))
    with torch.no_grad():
        body[-1].weight *= 4  # type: ignore[index, operator]
    model = nn.Sequential(*body, copy.deepcopy(ENDS[end]))  # type: ignore[misc]
    return Workbench(model.eval(), data, load_profile("host"), seed=0, folder=Path(os.devnull), epochs=1)


@pytest.mark.parametrize("end", sorted(ENDS))
def test_outputs_are_recognised_and_said(end: str) -> None:
    bench = _bench(end)
    assert bench.network.likelihood.meaning == end
    assert any("probabilities" in note for note in bench.network.notes) == (end != "scores")


def test_a_sigmoid_for_each_class_is_seen_in_the_graph() -> None:
    inputs = torch.randn(8, 3, 12, 12)
    body = NETWORKS["chain"].make()
    assert ends_in_sigmoid(nn.Sequential(body, nn.Sigmoid()), inputs)
    assert ends_in_sigmoid(nn.Sequential(body, nn.Sigmoid(), nn.Unflatten(1, (5, 1)), nn.Flatten()), inputs)
    assert not ends_in_sigmoid(body, inputs)


@pytest.mark.parametrize("end", ["probabilities", "log-probabilities"])
def test_the_table_is_that_of_the_scores(end: str) -> None:
    steps = [Step("0.0", "quantize", {"weight_bits": bits, "activation_bits": 32}) for bits in (2, 4)]
    expected, got = (sensitivities(_bench(name).network.compressor, steps) for name in ("scores", end))
    assert expected[0] > expected[1] > 0
    torch.testing.assert_close(torch.tensor(got), torch.tensor(expected), rtol=1e-2, atol=0.0)


@pytest.mark.parametrize("end", ["probabilities", "log-probabilities"])
def test_training_is_that_of_the_scores(end: str) -> None:
    """Start, loss, gradients and metrics agree, so trained weights do."""
    trained: list[dict[str, Tensor]] = []
    entropies = []
    for name in ("scores", end):
        bench = _bench(name)
        plan = integers(bench, (3,), 8)
        evaluation = bench.evaluator.evaluate(plan, 0)
        entropies.append(evaluation.metrics["cross_entropy"])
        done = distill(
            bench.network.compressor.compress(plan),
            bench.trainer.teacher,
            bench.network.task,
            Recipe(epochs=2, batch=16),
            bench.network.calibration,
            0,
            likelihood=bench.network.likelihood,
        )
        trained.append(done.model.state_dict())
    assert entropies[1] == pytest.approx(entropies[0], rel=0.02)
    for key, value in trained[0].items():
        if value.is_floating_point():
            distance = float((trained[1][key] - value).norm() / value.norm().clamp_min(1e-3))
            assert distance < 0.1, key


def test_the_file_still_puts_out_probabilities() -> None:
    bench = _bench("probabilities")
    file = bench.network.write(bench.network.compressor.compress(integers(bench, (4,), 8))).data
    outputs = Runtime(file).run(bench.network.calibration.numpy())
    assert outputs.min() >= 0
    assert abs(outputs.sum(1) - 1).max() < 1e-4
