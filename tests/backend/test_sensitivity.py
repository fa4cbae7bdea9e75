"""Predicted sensitivities: right to second order on networks small enough to check, and in the order of measured
ones."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autocompress.backend.compress import Compressor
from autocompress.backend.decompose.factorize import factorize
from autocompress.backend.sensitivity import fisher as sensitivity
from autocompress.backend.sensitivity.fisher import sensitivities
from autocompress.backend.sensitivity.weight_deltas import composed, weight_changes
from autocompress.core.layer import Layer
from autocompress.core.plan import Plan, Step
from autocompress.core.store import FolderStore
from autocompress.errors import InputError, TrialError
from autocompress.hardware.profile import load_profile
from autocompress.study import traced
from autocompress.study.workbench import Workbench
from autocompress.tasks.data import load_data
from autocompress.techniques.base import whole
from autocompress.techniques.decompose import methods_for, rank_args
from autocompress.tensors.likelihood import TEMPERATURE
from autocompress.testing.networks import NETWORKS
from autocompress.testing.techniques import outputs, state_hash, trained_workbench, workbench


def _steps(bench: Workbench) -> list[Step]:
    """Some of each technique that changes weights, at every site."""
    steps = [Step(group.name, "prune", {"keep": group.blocks * max(1, round(group.channels * share / group.blocks))})
             for group in bench.network.table.groups for share in (0.75, 0.5, 0.25)]
    for layer in bench.network.table.layers:
        if layer.kind in ("conv", "linear") and layer.compressible:
            steps += [Step(layer.name, "quantize", {"weight_bits": bits, "activation_bits": 32}) for bits in (2, 4, 8)]
            factorisations = [(method, rank_args(whole(layer), method, 0.5, 1)) for method in methods_for(layer)]
            steps += [Step(layer.name, "decompose", {"method": method, **args}) for method, args in factorisations
                      if args and method != "cp"]
    return steps


def _measured(bench: Workbench, step: Step, inputs: Tensor | None = None) -> float:
    inputs = bench.network.calibration if inputs is None else inputs
    compressed = bench.network.compressor.compress(Plan.of([step])).model
    expected, got = (outputs(model, inputs).double() / TEMPERATURE for model in (bench.network.model, compressed))
    return float(F.kl_div(got.log_softmax(1), expected.log_softmax(1), log_target=True, reduction="batchmean"))


ALIKE = ("bilstm", "rnn", "gru", "grouped", "flattened", "hourglass")
"""Networks of the same kinds of layers as others: slow tests."""


@pytest.mark.parametrize("network", [pytest.param(name, marks=pytest.mark.slow) if name in ALIKE else name
                                     for name in sorted(NETWORKS)])
def test_predictions_are_near_what_is_measured_one_at_a_time(network: str) -> None:
    bench = trained_workbench(network)
    steps = _steps(bench)
    steps = steps[::2] if len(steps) > 24 else steps
    predicted = torch.tensor(sensitivities(bench.network.compressor, steps))
    measured = torch.tensor([_measured(bench, step) for step in steps])
    assert len(steps) > 10
    assert _spearman(predicted, measured) >= 0.9
    assert 0.7 < float((predicted / measured).median()) < 1.4, "nats, not only an order"


def test_a_fit_is_not_judged_by_the_samples_that_it_is_fitted_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A linear layer that reads more features than there are calibration samples: every change of its weights could be
    made good on these, and on no others."""
    torch.manual_seed(0)
    mixing = torch.randn(24, 256)
    inputs = torch.tanh(torch.randn(400, 24) @ mixing / 3 + 0.3 * torch.randn(400, 256))
    model = nn.Sequential(nn.Linear(256, 12)).eval()
    labels = model(inputs).argmax(1)
    splits = {"train": slice(0, 200), "validation": slice(200, 300), "test": slice(300, 400)}
    data = load_data({name: (inputs[rows], labels[rows]) for name, rows in splits.items()} | {"classes": 12})
    monkeypatch.setattr(traced, "CALIBRATION_SAMPLES", 64)
    bench = Workbench(model, data, load_profile("host"), seed=0, epochs=1)
    steps = [Step("0", "quantize", {"weight_bits": bits, "activation_bits": 32}) for bits in (2, 3, 4)]
    predicted = sensitivities(bench.network.compressor, steps)
    for step, cost in zip(steps, predicted, strict=True):
        assert 0.4 < cost / _measured(bench, step, inputs[200:]) < 2.5, step


def test_they_are_settled_and_leave_the_network_alone() -> None:
    bench = workbench("residual")
    steps, before = _steps(bench)[:6], state_hash(bench.network.model)
    assert sensitivities(bench.network.compressor, steps) == sensitivities(bench.network.compressor, steps)
    assert state_hash(bench.network.model) == before


def _compressor(bench: Workbench, folder: Path) -> Compressor:
    network = bench.network
    return Compressor(network.model, network.table, network.compressor.coupling, network.calibration,
                      FolderStore(folder))


def test_they_are_kept_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = workbench("mlp")
    compressor = _compressor(bench, tmp_path)
    steps = _steps(bench)
    counts: list[int] = []
    real = sensitivity._measured
    monkeypatch.setattr(sensitivity, "_measured",
                        lambda c, steps, *how: (counts.append(len(steps)), real(c, steps, *how))[1])
    early = sensitivities(compressor, steps[2:5])
    first = sensitivities(compressor, steps)
    assert counts == [3, len(steps) - 3] and first[2:5] == early, "each step is asked about once"
    assert [path.name for path in (tmp_path / "statistics").glob("sensitivities-*")]
    monkeypatch.setattr(sensitivity, "_measured", lambda *_: pytest.fail("what is known is read"))
    again = _compressor(bench, tmp_path)
    assert sensitivities(again, steps) == first
    assert sensitivities(again, steps[:0:-1]) == first[:0:-1]


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = workbench("separable")
    steps = _steps(bench)[:12]
    whole_at_once = sensitivities(bench.network.compressor, steps)
    monkeypatch.setattr(sensitivity, "CHUNK_BYTES", 1)
    monkeypatch.setattr(sensitivity, "PRODUCT_BYTES", 1)
    monkeypatch.setattr(sensitivity, "MOST_PASSES", 10**9)
    assert sensitivities(bench.network.compressor, steps) == pytest.approx(whole_at_once, rel=1e-3)


def test_changes_and_passes_of_large_inputs_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    compressor, steps = (bench := workbench("separable")).network.compressor, _steps(bench)
    largest = max(sensitivity._nbytes(compressor.original, layer.name) for layer in bench.network.table.layers)
    limit = 4 * largest
    monkeypatch.setattr(sensitivity, "CHUNK_BYTES", limit)

    def held() -> list[int]:
        chunks = sensitivity._chunks(compressor, steps, math.inf, set(range(len(steps))))
        return [sum(change.nbytes for changes in chunk.values() for _, change in changes) for chunk in chunks]

    small = held()
    monkeypatch.setattr(sensitivity, "EVERY_BYTES", 1)  # as if one sample filled a pass
    large = held()
    assert max(small) <= limit and max(large) <= limit // 2
    assert sum(small) == sum(large) and len(large) > len(small)


def test_the_mean_input_of_a_layer_does_not_hang_on_the_size_of_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = workbench("separable")
    steps = _steps(bench)[:12]
    monkeypatch.setattr(sensitivity, "EVERY_BYTES", 1)
    alone = sensitivities(bench.network.compressor, steps)
    monkeypatch.setattr(sensitivity, "EVERY_BYTES", 3 * bench.network.compressor.statistics.footprint.every)
    assert sensitivities(bench.network.compressor, steps) == pytest.approx(alone, rel=1e-3)


@pytest.mark.parametrize(("each", "samples"), [(1e-9, 96), (0.5 * 10 / 4 / 60, 48), (0.5 * 10 / 4 / 30, 24)])
def test_where_time_is_short_fewer_samples_are_asked(each: float, samples: int, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    bench = workbench("mlp")
    compressor = _compressor(bench, tmp_path)
    monkeypatch.setattr(sensitivity, "_forward_seconds", lambda compressor: each)
    assert sensitivity._affordable(compressor, _steps(bench), 10.0)[0] == samples


def test_a_table_is_not_begun_that_would_take_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = workbench("mlp")
    monkeypatch.setattr(sensitivity, "_forward_seconds", lambda compressor: 1.0)
    with pytest.raises(TrialError, match=r"24 samples would take 96 of 10 s"):
        sensitivities(bench.network.compressor, _steps(bench), 10.0)


def test_it_takes_a_bounded_number_of_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = workbench("mlp")
    calibration = len(bench.network.calibration)
    for chunk_bytes in (2**29, 2**12, 2**10):
        monkeypatch.setattr(sensitivity, "CHUNK_BYTES", chunk_bytes)
        steps = _steps(bench)
        chunks = -(-sum(sensitivity._bytes(bench.network.compressor, step) for step in steps) // chunk_bytes)
        samples, _ = sensitivity._affordable(bench.network.compressor, steps, math.inf)
        fits = samples * sensitivity.PASSES * chunks <= sensitivity.MOST_PASSES * calibration
        assert fits or samples == min(sensitivity.SAMPLES)


def test_what_time_left_out_is_not_kept_and_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = workbench("separable")
    steps = _steps(bench)
    widths = sum(step.technique == "quantize" for step in steps)
    assert 0 < widths < len(steps) - 1
    compressor = _compressor(bench, tmp_path)
    whole = sensitivities(compressor, steps)
    clock = iter(range(10**6))
    monkeypatch.setattr(sensitivity, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    other = _compressor(bench, tmp_path / "other")
    costs = sensitivity._measured(other, steps, 96, until=widths + 0.5)
    monkeypatch.undo()
    left_out = costs.isnan()
    assert not any(left_out[n] for n, step in enumerate(steps) if step.technique == "quantize")
    assert 0 < int(left_out.sum()) < len(steps)
    measured = [n for n in range(len(steps)) if not left_out[n]]
    assert [float(costs[n]) for n in measured] == pytest.approx([whole[n] for n in measured], rel=1e-3, abs=1e-9)
    monkeypatch.setattr(sensitivity, "_measured", lambda *_: costs)
    sensitivities(other, steps)
    assert sensitivity.unknown(other, steps) == left_out.nonzero()[:, 0].tolist()

@pytest.mark.parametrize("layer", [nn.Conv2d(6, 8, 3), nn.Conv2d(6, 8, (3, 1)), nn.Conv1d(6, 8, 5), nn.Linear(6, 8),
                                   nn.Conv2d(6, 8, 1)], ids=str)
def test_factors_compose_to_the_weight_that_they_compute(layer: nn.Module) -> None:
    facts = Layer(name="x", kind="linear" if isinstance(layer, nn.Linear) else "conv", in_channels=6,
                  out_channels=8, kernel=tuple(layer.weight.shape[2:]))
    inputs = torch.randn(2, 6, *(9 for _ in layer.weight.shape[2:]))
    for method in methods_for(facts):
        args = rank_args(whole(facts), method, 0.6, 1)
        assert args is not None
        factors = factorize(layer, method, args)
        single = copy.deepcopy(layer)
        with torch.no_grad():
            single.weight.copy_(composed([factor.weight.detach() for factor in factors]))
        torch.testing.assert_close(outputs(single, inputs), outputs(factors, inputs), rtol=1e-4, atol=1e-5)


def test_a_dropped_block_is_refused() -> None:
    bench = workbench("residual")
    with pytest.raises(InputError, match="dropped block must be measured"):
        weight_changes(bench.network.compressor, Step(bench.network.table.blocks[0].name, "drop", {}))


def _spearman(one: Tensor, other: Tensor) -> float:
    ranks = torch.stack([x.argsort().argsort().double() for x in (one, other)])
    return float(torch.corrcoef(ranks)[0, 1])
