"""Channels rescaled between two layers: nothing else changes, and what it is good for."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch import Tensor, nn

from autocompress.backend.graph.rescale import Scaling, first_leaf, input_columns, rescale, scale_output
from autocompress.backend.graph.trace import trace
from autocompress.backend.quantize.cross_layer_equalization import HEADROOM, equalize
from autocompress.backend.statistics.calibration import reestimate_norms
from autocompress.backend.statistics.moments import Statistics
from autocompress.backend.training.feature_distillation import find_hook_points
from autocompress.core.plan import Plan, Step
from autocompress.core.store import weights_key
from autocompress.errors import InputError
from autocompress.formats.onnx.runtime import Runtime
from autocompress.hardware.profile import load_profile
from autocompress.study.workbench import Workbench
from autocompress.techniques.apply import check_plan
from autocompress.techniques.quantize import equalized
from autocompress.testing.exporters import integers, structure
from autocompress.testing.networks import NETWORKS, Network, task_data
from autocompress.testing.techniques import outputs, workbench

WAYS = ("weights", "activations")


def _inputs(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def _spread(count: int, seed: int = 0, low: float = -2.0, high: float = 2.0) -> Tensor:
    """Factors from `10**low` to `10**high`."""
    return torch.tensor(10.0) ** (low + (high - low) * torch.rand(count, generator=torch.Generator().manual_seed(seed)))


# -- nothing else changes ------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["chain", "grouped", "flattened", "mlp", "lstm", "encoder"])
def test_any_factors_leave_the_function_as_it_is(network: str) -> None:
    bench = workbench(network)
    both, one_sided = copy.deepcopy(bench.network.model), copy.deepcopy(bench.network.model)
    for source, scaling in bench.network.compressor.coupling.scalings.items():
        weight: Any = both.get_submodule(source).weight
        rescale(both, scaling, _spread(len(weight)))
        scale_output(one_sided, source, _spread(len(weight)))
    expected = outputs(bench.network.model, bench.network.calibration)
    torch.testing.assert_close(outputs(both, bench.network.calibration), expected, rtol=1e-3, atol=1e-4)
    assert (outputs(one_sided, bench.network.calibration) - expected).abs().max() > 0.01


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("network", ["separable", "flattened", "grouped", "encoder"])
def test_pruned_and_factored_networks_compute_the_same_with_even_channels(network: str, way: str) -> None:
    bench = workbench(network)
    scalings = bench.network.compressor.coupling.scalings
    ways, folds = dict.fromkeys(scalings, way), {layer.name: layer.folds_into for layer in bench.network.table.layers}
    for plan in (Plan(), structure(bench)):
        model = bench.network.compressor.restructure(plan).model
        expected = outputs(model, bench.network.calibration)
        factors = equalize(model, scalings, ways, folds, bench.network.calibration)
        assert list(factors) == list(scalings)
        assert any((factor != 1).any() for factor in factors.values())
        torch.testing.assert_close(outputs(model, bench.network.calibration), expected, rtol=1e-3, atol=1e-4)
        again = equalize(model, scalings, ways, folds, bench.network.calibration)
        for source, factor in again.items():
            torch.testing.assert_close(factor, torch.ones_like(factor), rtol=0, atol=0.01, msg=source)


def test_ranges_of_channels_and_columns_become_alike() -> None:
    bench = workbench("chain")
    model, scaling = copy.deepcopy(bench.network.model), bench.network.compressor.coupling.scalings["1.1"]
    before, _ = _ranges(model, scaling, bench.network.calibration)
    alive = before > 0
    assert alive.sum() > 12
    equalize(model, {"1.1": scaling}, {"1.1": "activations"}, {}, bench.network.calibration)
    values, columns = _ranges(model, scaling, bench.network.calibration)
    ratio = values[alive] / columns[alive]
    assert ratio.max() / ratio.min() < 1.01
    assert values[alive].min() / values.max() > 1.5 * before[alive].min() / before.max()


def test_a_depthwise_reader_takes_all_of_the_unevenness() -> None:
    bench = workbench("separable")
    model, scaling = copy.deepcopy(bench.network.model), bench.network.compressor.coupling.scalings["0.1"]
    equalize(model, {"0.1": scaling}, {"0.1": "activations"}, {}, bench.network.calibration)
    values, _ = _ranges(model, scaling, bench.network.calibration)
    assert values.max() / values[values > 0].min() < 1.01


def _ranges(model: nn.Module, scaling: Scaling, inputs: Tensor) -> tuple[Tensor, Tensor]:
    (name,) = scaling.readers
    seen: list[Tensor] = []
    handle = first_leaf(model, name).register_forward_pre_hook(lambda _, args: seen.append(args[0].abs()))
    outputs(model, inputs)
    handle.remove()
    columns = input_columns(first_leaf(model, name)).abs().amax((1, 3)).flatten()
    return seen[0].transpose(0, 1).flatten(1).amax(1), columns


def test_clipped_channels_stay_as_they_are() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU6(), nn.Linear(16, 5))

    network, inputs = Network("made", (6,), build).make(), _inputs(256, 6)
    scale_output(network, "0", torch.cat([torch.full((8,), 40.0), _spread(8, high=0.0)]))
    _, coupling = trace(network, (6,))
    scaling, expected = coupling.scalings["0"], outputs(network, inputs)
    reached = network[0](inputs).amax(0)  # type: ignore[index]
    assert (reached[:8] > 6).all()
    factor = equalize(network, {"0": scaling}, {"0": "activations"}, {}, inputs)["0"]
    assert (factor[:8] == 1).all() and (factor[8:] != 1).any()
    assert (reached * factor)[8:].max() <= 6 * HEADROOM * 1.001
    torch.testing.assert_close(outputs(network, inputs), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_dead_channels_and_unread_columns_keep_their_factor(way: str) -> None:
    bench = workbench("chain")
    model: Any = copy.deepcopy(bench.network.model)
    with torch.no_grad():
        model.get_submodule("1.1").weight[3] = model.get_submodule("1.1").bias[3] = 0
        model.get_submodule("2.0").weight[:, 5] = 0
    scalings = bench.network.compressor.coupling.scalings
    expected = outputs(model, bench.network.calibration)
    factor = equalize(model, scalings, {"1.1": way}, {"1.1": "1.0"}, bench.network.calibration)["1.1"]
    assert factor[3] == factor[5] == 1 and torch.isfinite(factor).all()
    torch.testing.assert_close(outputs(model, bench.network.calibration), expected, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        model.get_submodule("1.0").weight[0] = torch.nan
    factor = equalize(model, scalings, {"1.1": way}, {"1.1": "1.0"}, bench.network.calibration)["1.1"]
    assert torch.isfinite(factor).all()


@pytest.mark.parametrize("network", ["chain", "grouped", "flattened", "separable"])
def test_moments_go_along(network: str) -> None:
    bench = workbench(network)
    model = copy.deepcopy(bench.network.model)
    for source, scaling in bench.network.compressor.coupling.scalings.items():
        weight: Any = model.get_submodule(source).weight
        factor = _spread(len(weight), low=-0.5, high=0.5)
        rescale(model, scaling, factor)
        for name, repeat in scaling.readers.items():
            before_scaling = bench.network.compressor.statistics.moments(name)
            measured = Statistics(model, bench.network.calibration).moments(name)
            assert before_scaling is not None and measured is not None
            moved = before_scaling.rescaled(factor.repeat_interleave(repeat))
            for key, value in vars(measured).items():
                torch.testing.assert_close(getattr(moved, key), value, rtol=1e-3, atol=1e-4)


# -- as a step of a plan -------------------------------------------------------------------------------


def _step(name: str, way: str = "weights", bits: int = 4, activation_bits: int = 32) -> Step:
    return Step(name, "quantize", {"weight_bits": bits, "activation_bits": activation_bits, "equalize": way})


@pytest.mark.parametrize(("network", "site", "message"), [
    ("chain", "0.0", r"`equalize` at 0\.0 must be left out.*it reads the network's input; it can at 1\.0, 2\.0, 5"),
    ("residual", "conv2", "the result of the operator add; it cannot at any layer of this network"),
])
def test_a_step_where_there_is_no_pair_is_refused_by_name(network: str, site: str, message: str) -> None:
    bench = workbench(network)
    with pytest.raises(InputError, match=message):
        check_plan(bench.network.table, Plan((_step(site),)), bench.evaluator.profile)


def test_only_integers_and_known_ways() -> None:
    bench = workbench("chain")
    with pytest.raises(InputError, match=r"`equalize` at 1\.0 is for weights of 8 bits or less"):
        check_plan(bench.network.table, Plan((_step("1.0", bits=16),)), bench.evaluator.profile)
    with pytest.raises(InputError, match=r"`equalize` at 1\.0 must be one of .*'weights', 'activations'.*'both'"):
        check_plan(bench.network.table, Plan((_step("1.0", "both"),)), bench.evaluator.profile)


def test_readers_of_one_source_must_agree() -> None:
    bench = workbench("encoder")
    assert equalized(bench.network.table, Plan((_step("query"), _step("fc", "none")))) == {"norm1": "weights"}
    with pytest.raises(InputError, match="the same at all layers that read what norm1 writes"):
        bench.network.compressor.compress(Plan((_step("query"), _step("key", "activations"))))


def test_receipts_tell_what_was_rescaled() -> None:
    bench = workbench("chain")
    compressed = bench.network.compressor.compress(Plan((_step("2.0", "activations"),)))
    (receipt,) = [r for r in compressed.receipts if r.technique == "equalize"]
    assert (receipt.site, receipt.facts["against"], receipt.facts["channels"]) == ("2.0", "1.1", 24)
    assert 0 < receipt.facts["least"] < 1 < receipt.facts["largest"] and receipt.facts["rescaled"] > 20


def test_trained_weights_are_not_rescaled_twice(tmp_path: Path) -> None:
    network = NETWORKS["chain"]
    model, data = network.make(), task_data(network.input_shape)
    reestimate_norms(model, data.train.inputs)  # so that training begins with the factors as they are
    bench = Workbench(model, data, load_profile("host"), seed=0, folder=tmp_path, epochs=1)
    plan = integers(bench, (4,), 8, equalize="activations")
    assert sum("equalize" in step.args for step in plan.steps) == 3
    evaluation = bench.evaluator.evaluate(plan, 1)
    again, kept = bench.trainer.rebuild(plan, 1), load(bench.store.get(weights_key(plan, 1)) or b"")
    started = bench.network.compressor.compress(plan)
    for name in bench.network.compressor.coupling.scalings:
        trained = again.model.state_dict()[f"{name}.weight"]
        torch.testing.assert_close(trained, kept[f"model.{name}.weight"], rtol=0, atol=0)
        # Training moves a factor by less than rescaling does.
        moved = (trained / started.model.state_dict()[f"{name}.weight"]).abs().log().abs().median()
        rescaled = (trained / bench.network.model.state_dict()[f"{name}.weight"]).abs().log().abs().median()
        assert moved < rescaled
    assert bench.evaluator.measured(again, 1, {}).metrics["accuracy"] == evaluation.metrics["accuracy"]


def test_rescaled_inputs_are_no_taps_of_attention() -> None:
    bench = workbench("chain")
    assert [layer.name for layer in find_hook_points(bench.network.table, Plan())] == ["1.0", "2.0"]
    assert [layer.name for layer in find_hook_points(bench.network.table, Plan((_step("2.0"),)))] == ["1.0"]


# -- what it is good for -------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["chain", "separable"])
def test_channels_made_uneven_by_hand_are_rescued(network: str) -> None:
    traced = workbench(network).network
    even = copy.deepcopy(traced.model)
    reestimate_norms(even, traced.calibration)  # as after training: compressing it finds the statistics that it has
    spoilt = copy.deepcopy(even)
    for seed, scaling in enumerate(traced.compressor.coupling.scalings.values()):
        weight: Any = spoilt.get_submodule(scaling.source).weight
        rescale(spoilt, scaling, _spread(len(weight), seed))
    bench = Workbench(spoilt, NETWORKS[network].data(), load_profile("host"), seed=0, epochs=1)
    expected = outputs(bench.network.model, bench.network.calibration)
    torch.testing.assert_close(expected, outputs(even, bench.network.calibration), rtol=1e-3, atol=1e-3)

    def error(way: str) -> float:
        built = bench.network.write(bench.network.compressor.compress(integers(bench, (8,), 8, equalize=way)))
        scores = torch.from_numpy(Runtime(built.data).run(bench.network.calibration.numpy()))
        return float((scores - expected).norm() / (expected - expected.mean(0)).norm())

    without = error("none")
    for way in WAYS:
        assert error(way) < 0.1 * without, way


