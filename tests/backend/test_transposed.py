"""Transposed convolutions in the form of all other layers: the same values, moments and costs."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autocompress.backend.canonical.layer_forms import in_one_form
from autocompress.backend.decompose.factorize import factorize
from autocompress.backend.graph.trace import trace
from autocompress.backend.layers.transposed import TransposedConv
from autocompress.backend.statistics.calibration import correct_biases, reestimate_norms
from autocompress.backend.statistics.moments import Statistics, windows
from autocompress.core.plan import Plan, Step
from autocompress.errors import InputError
from autocompress.estimate import estimate
from autocompress.formats.onnx.runtime import Runtime
from autocompress.hardware.profile import load_profile
from autocompress.study.workbench import Workbench
from autocompress.techniques.apply import check_plan
from autocompress.techniques.decompose import methods_for
from autocompress.testing.exporters import integers
from autocompress.testing.networks import task_data
from autocompress.testing.techniques import outputs

KINDS: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
PLAIN: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def _pair(axes: int, groups: int, **options: Any) -> tuple[nn.Module, TransposedConv, torch.Tensor]:
    torch.manual_seed(0)
    module = KINDS[axes](8, 16 if groups < 8 else 8, 3, groups=groups, **options)
    return module, TransposedConv.of(module), torch.randn(3, 8, *(7, 6, 5)[:axes])


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1, "output_padding": 1},
                                     {"padding": 2, "bias": False},
                                     {"stride": 3, "dilation": 2, "output_padding": 1}, {"padding": 4, "dilation": 2}],
                         ids=str)
def test_it_computes_the_same_and_as_a_convolution(axes: int, groups: int, options: dict[str, Any]) -> None:
    module, same, inputs = _pair(axes, groups, **options)
    expected = module(inputs)
    torch.testing.assert_close(same(inputs), expected, rtol=1e-4, atol=1e-5)
    turned = same.weight.flip(tuple(range(2, 2 + axes)))
    output = PLAIN[axes](same.spread(inputs), turned, same.bias, dilation=same.dilation, groups=groups)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    seen = windows(same, inputs)  # positions in reverse
    rows = seen.flatten(2 + axes).unflatten(1, (groups, -1))
    whole = torch.einsum("ngc...k,gock->ngo...", rows, same.weight.flatten(2).unflatten(0, (groups, -1))).flatten(1, 2)
    whole = whole.flip(tuple(range(2, 2 + axes)))
    if same.bias is not None:
        whole = whole + same.bias.reshape(-1, *[1] * axes)
    torch.testing.assert_close(whole, expected, rtol=1e-4, atol=1e-4)


def test_an_output_size_may_be_asked_for() -> None:
    module, same, inputs = _pair(2, 1, stride=2)
    torch.testing.assert_close(same(inputs, output_size=[16, 14]), module(inputs, output_size=[16, 14]))


@pytest.mark.parametrize("groups", [1, 2])
def test_moments_say_what_an_error_of_the_weight_does(groups: int) -> None:
    _, layer, inputs = _pair(2, groups, stride=2, padding=1, output_padding=1)
    moments = Statistics(layer, inputs).moments("")
    assert moments is not None
    change = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(1))
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.weight += change
        error = (other(inputs) - layer(inputs)).square().mean((0, 2, 3))
    rows = change.flatten(1).unflatten(0, (groups, -1))
    predicted = (rows @ moments.second * rows).sum(2).flatten()
    # Positions are drawn at random, so not all of them were seen.
    torch.testing.assert_close(predicted, error, rtol=0.35, atol=0.0)
    assert float(predicted.sum()) == pytest.approx(float(error.sum()), rel=0.15)


@pytest.mark.parametrize("groups", [1, 2])
def test_bias_correction_knows_of_the_zeros(groups: int) -> None:
    _, layer, inputs = _pair(2, groups, stride=2, padding=1, output_padding=1)
    inputs = inputs.abs().repeat(1, 1, 4, 4)
    changed, shift = copy.deepcopy(layer), torch.full_like(layer.weight, 0.1)
    with torch.no_grad():
        changed.weight += shift
    model = nn.Sequential(changed)
    means = reestimate_norms(model, inputs, ["0"])
    before = (outputs(changed, inputs) - outputs(layer, inputs)).mean()
    correct_biases(model, {"0": shift}, means)
    assert abs(float((outputs(changed, inputs) - outputs(layer, inputs)).mean())) < 0.15 * abs(float(before))


@pytest.mark.parametrize(("method", "args"), [("channel-svd", {"rank": 16}),
                                              ("tucker2", {"rank_in": 8, "rank_out": 16})])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_factors_of_full_rank_are_the_layer(axes: int, method: str, args: dict[str, int]) -> None:
    _, layer, inputs = _pair(axes, 1, stride=2, output_padding=1)
    factors = factorize(layer, method, args)
    assert sum(isinstance(factor, TransposedConv) for factor in factors) == 1
    torch.testing.assert_close(factors(inputs), layer(inputs), rtol=1e-3, atol=1e-4)


def test_what_there_is_no_technique_for_is_refused_by_name() -> None:
    model, left = in_one_form(nn.Sequential(nn.ConvTranspose2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 5)),
                              torch.randn(4, 3, 4, 4))
    assert not left and isinstance(model[0], TransposedConv)  # type: ignore[index]
    table, _ = trace(model.eval(), (3, 4, 4))
    layer = table.by_name["0"]
    assert layer.transposed and layer.positions == 16 and layer.out_positions == 36
    assert methods_for(layer) == ("channel-svd", "tucker2")
    with pytest.raises(InputError, match="transposed convolution 0 has float activations"):
        check_plan(table, Plan((Step("0", "quantize", {"weight_bits": 8, "activation_bits": 8}),)),
                   load_profile("host"))


def test_one_in_groups_is_pruned_quantised_and_written() -> None:
    """The graph arranges its weight, and with fewer channels in another shape: then it is exported afresh."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 12, 3, 2, groups=2), nn.ReLU(),
                          nn.Conv2d(12, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    bench = Workbench(model.eval(), task_data((3, 8, 8)), load_profile("host"), seed=0, folder=Path(os.devnull),
                      epochs=1)
    assert {group.name for group in bench.network.table.groups} >= {"0", "2"}
    for steps in ([], [Step("2", "prune", {"keep": 6}), Step("0", "prune", {"keep": 4})]):
        plan = Plan.of([*steps, *integers(bench, (3,), 32).steps])
        compressed = bench.network.compressor.compress(plan)
        data = bench.network.write(compressed).data
        got = torch.from_numpy(Runtime(data).run(bench.network.calibration.numpy()))
        torch.testing.assert_close(got, outputs(compressed.model, bench.network.calibration), rtol=1e-3, atol=1e-5)
        predicted = estimate(bench.network.table, plan, bench.evaluator.profile)["size_bytes"]
        assert abs(predicted - len(data)) <= 0.02 * len(data)
