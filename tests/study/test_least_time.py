"""The time limit and slow networks: a fake clock that a forward pass moves on."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import autocompress
from autocompress.backend.compress import Compressor
from autocompress.core.plan import Plan, Step
from autocompress.errors import InputError
from autocompress.hardware.profile import load_profile
from autocompress.space.solver.solver import Solver
from autocompress.space.spec import load_space
from autocompress.study import least_time, quantization_payoff, stages
from autocompress.study.expected_answers import NETWORK, expected_answers, samples_of
from autocompress.study.file_writer import as_arrays
from autocompress.study.least_time import least_passes, pass_seconds, require_time
from autocompress.study.quantization_payoff import unpaying_layers
from autocompress.study.racing import LEAST_SLOW, Sizes, slow_sizes
from autocompress.study.robustness import SHARE, disturbances, disturbed_runs, robustness
from autocompress.study.workbench import Workbench
from autocompress.tasks.splits import Split, TaskData
from autocompress.testing.networks import NETWORKS
from autocompress.testing.techniques import workbench


class Slow(nn.Module):
    """A classifier that moves a clock on by `seconds` for each sample."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.head, self.seconds, self.now = nn.Linear(8, 4), seconds, 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Scores `(N, 4)`."""
        self.now += self.seconds * len(x)
        return self.head(x)


def _data(samples: int = 200) -> TaskData:
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        return Split(torch.randn(count, 8, generator=generator), torch.arange(count) % 4)

    return TaskData("blobs", split(samples), split(samples), split(samples), 4)


def _clocked(monkeypatch: pytest.MonkeyPatch, seconds: float) -> Slow:
    network = Slow(seconds).eval()
    monkeypatch.setattr(least_time.time, "perf_counter", lambda: network.now)
    return network


def test_a_limit_that_no_search_can_keep_is_refused_with_the_time_it_takes(
        monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    data = _data()
    each = pass_seconds(_clocked(monkeypatch, 0.25), data)
    assert each == pytest.approx(0.25)
    least = 0.25 * least_passes(data)
    with pytest.raises(InputError, match=r"timeout must be long enough for one candidate of this network, but is 30s: "
                                         r"one sample takes 0\.25 s here"):
        require_time(each, data, 30.0)
    require_time(each, data, least + 1)
    assert not caplog.records
    with pytest.raises(InputError, match="with loading"):
        require_time(each, data, least + 1, elapsed=60.0 + 0.1 * least)
    with caplog.at_level(logging.WARNING):
        require_time(each, data, least - 10)
    assert "are short for this network" in caplog.text


def test_it_is_refused_before_the_network_is_traced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("autocompress.study.stages.pass_seconds", lambda network, task: 10.0)
    monkeypatch.setattr("autocompress.study.stages.make_bench", lambda *_: pytest.fail("it was traced"))
    with pytest.raises(InputError, match="timeout must be long enough"):
        autocompress.search(model=Slow(0.0).eval(), data=_data(), budget="1KB", timeout=60, out=tmp_path / "study")


@pytest.mark.parametrize(("each", "limit", "expected"), [
    (0.001, 60.0, None),
    (0.1, 6000.0, None),
    (0.1, 600.0, Sizes(300, 300, 300)),  # a twentieth of ten minutes
    (0.5, 60.0, Sizes(LEAST_SLOW, LEAST_SLOW, LEAST_SLOW)),
], ids=str)
def test_splits_are_scored_in_part_where_samples_are_slow(each: float, limit: float, expected: Sizes | None) -> None:
    assert slow_sizes(each, 2000, 1000, limit) == expected
    assert slow_sizes(each, 50, 50, limit) is None


def test_little_time_leaves_out_what_nobody_needs_and_says_so(monkeypatch: pytest.MonkeyPatch,
                                                              caplog: pytest.LogCaptureFixture) -> None:
    bench = Workbench(NETWORKS["mlp"].make(), NETWORKS["mlp"].data(), load_profile("host"), seed=0, epochs=1)
    monkeypatch.setattr(type(bench.network.writer.format), "plain", lambda *_: pytest.fail("it was exported"))
    bench.evaluator.exports_plainly = False
    assert "too short to make one" in bench.evaluator.original.note
    kinds = len(disturbances(as_arrays(bench.network.calibration)))
    bench.evaluator.sample_seconds, bench.evaluator.limit = 0.1, 0.1 * 2 * kinds * 10 / SHARE
    assert disturbed_runs(bench, 1.0) in (9 * kinds, 10 * kinds)  # a share of the limit
    bench.evaluator.limit /= 2
    file = bench.evaluator.open(bench.network.writer.original_file)
    assert disturbed_runs(bench, 1.0) == 0 and robustness(bench, file, file, 1.0) == {}
    assert "too short to measure" in caplog.text


def test_activations_are_not_compared_where_it_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = workbench("mlp")
    monkeypatch.setattr(quantization_payoff, "_Comparison", lambda _: pytest.fail("it was compared"))
    assert unpaying_layers(bench, load_space("default"), each=1.0, seconds=100.0) == frozenset()


@pytest.mark.usefixtures("short_searches")
def test_a_study_that_is_done_makes_no_solver_and_one_with_more_trials_does(
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[object] = []
    monkeypatch.setattr(stages, "Solver", lambda *args: made.append(args) or Solver(*args))
    network = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    settings = {"model": network, "data": _data(), "budget": "1KB", "profile": "stm32h743", "epochs": 1}
    for trials, solvers in ((2, 1), (2, 1), (3, 2)):
        result = autocompress.search(**settings, trials=trials, resume=True, out=tmp_path / "study")
        assert len(result.candidates) == trials and len(made) == solvers


def test_what_was_calibrated_last_is_exported_without_compressing_it_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = workbench("mlp")
    layer = next(layer.name for layer in bench.network.table.layers if layer.compressible)
    plan = Plan.of([Step(layer, "quantize", {"weight_bits": 4, "activation_bits": 8})])
    evaluation = bench.evaluator.evaluate(plan, 0)
    inputs = samples_of(bench)
    runtime = bench.evaluator.open(bench.evaluator.file_of(plan, evaluation))
    again = bench.evaluator.network.compressor.compress(plan)
    monkeypatch.setattr(Compressor, "compress", lambda *_: pytest.fail("it was compressed anew"))
    answers, whose = expected_answers(bench, plan, evaluation, inputs, runtime)
    assert whose == NETWORK
    with torch.no_grad():
        expected = bench.network.executed(again)(inputs)
    assert torch.allclose(torch.from_numpy(answers["output"]), expected, atol=1e-5)
