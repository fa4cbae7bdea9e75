"""The five lines of Python, from a user's own network and arrays to a file that runs."""

from __future__ import annotations

import copy
import json
import logging
import signal
from pathlib import Path

import msgspec
import onnxruntime
import optuna
import pandas as pd
import pytest
import torch
from patterns import Arrays, network, patterns, trained_on
from torch import nn
from torch.nn.utils import weight_norm

import autocompress
from autocompress.artifact.folder import read_manifest
from autocompress.errors import AutocompressError, InfeasibleError, InputError, Interrupted
from autocompress.study import stages
from autocompress.study.export_candidate import ship
from autocompress.study.result import SearchResult
from autocompress.study.signals import StoppedNow


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return patterns(noise=0.7)


@pytest.fixture(scope="module")
def trained(arrays: Arrays) -> nn.Module:
    return trained_on(arrays, 20)


@pytest.fixture(scope="module")
def result(trained: nn.Module, arrays: Arrays, tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    return autocompress.search(model=trained, data=arrays, budget="9kB", trials=6, epochs=1,
                               out=tmp_path_factory.mktemp("api") / "study")


def test_front_is_a_table_inside_the_budget(result: SearchResult) -> None:
    assert isinstance(result.front, pd.DataFrame) and len(result.front)
    assert (result.front["size_bytes"] <= 9_000).all()
    assert len(result.trials) == 6
    assert set(result.trials["origin"]) == {"SolverSampler", "uniform"}
    assert result.trials["origin"].iloc[0] == "SolverSampler"


def test_without_time_for_predictions_the_search_goes_on(
        trained: nn.Module, arrays: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(stages, "SENSITIVITY_SHARE", 0.0)
    monkeypatch.setattr(stages, "is_late", lambda run, limit: False)  # however slow this machine is
    study = autocompress.search(model=trained, data=arrays, budget="9kB", trials=3, timeout="6s", out=tmp_path / "s",
                                seed=5)  # with another seed no prediction of an earlier search is kept
    assert "searching with TPE" in caplog.text
    assert "SolverSampler" not in set(study.trials["origin"]) and study.best is not None


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
def test_a_table_that_fails_is_gone_without_and_the_process_is_left_as_it_was(
        trained: nn.Module, arrays: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture) -> None:
    """With a network in memory as training with weight norm leaves it."""

    def broken(*_: object) -> None:
        raise KeyError("layer1.conv")

    monkeypatch.setattr(stages, "sensitivity", broken)
    model = copy.deepcopy(trained)
    weight_norm(next(module for module in model.modules() if isinstance(module, nn.Conv2d)))
    model(torch.from_numpy(arrays[0][:2])).sum().backward()
    torch.manual_seed(7)
    before = _of_the_process()
    study = autocompress.search(model=model, data=arrays, budget="9kB", trials=2, effort="fast", epochs=1,
                                out=tmp_path / "s")
    assert _of_the_process() == before
    assert "searching with TPE" in caplog.text and "KeyError: 'layer1.conv'" in caplog.text
    assert study.best is not None and study.artifact is not None and study.artifact["verified"]
    assert any(name.endswith("weight_g") for name in model.state_dict())


def _of_the_process() -> list[object]:
    """What a search uses of the process that its caller uses too."""
    levels = [logging.getLogger(name).level for name in ("optuna", "onnx_ir", "torch")]
    return [torch.get_rng_state().tolist(), torch.get_num_threads(), torch.backends.mha.get_fastpath_enabled(),
            optuna.logging.get_verbosity(), logging.getLogger("optuna").handlers[:], *levels]


def test_reported_figures_are_those_of_the_file(result: SearchResult, arrays: Arrays) -> None:
    facts = result.artifact
    assert facts is not None and facts["verified"]
    path = Path(facts["path"])
    assert path.stat().st_size == facts["size_bytes"] <= 9_000
    session = onnxruntime.InferenceSession(str(path))
    test = result.bench.network.task.test
    (scores,) = session.run(None, {"input": test.inputs.numpy()})
    assert (scores.argmax(1) == test.targets.numpy()).mean() == pytest.approx(facts["accuracy"])
    manifest = read_manifest(path.parent)
    assert manifest["trial"] == result.best.trial and manifest["verified"]["size_bytes"] == facts["size_bytes"]


def test_model_card_snippet_runs(result: SearchResult, monkeypatch: pytest.MonkeyPatch,
                                 capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(result.artifact["path"]).parent
    code = (folder / "README.md").read_text().split("```python")[1].split("```")[0]
    monkeypatch.chdir(folder)
    exec(code, {})
    assert capsys.readouterr().out.strip().startswith("[")


def test_a_damaged_artifact_is_noticed(result: SearchResult, tmp_path: Path) -> None:
    result.export(tmp_path / "copy")
    (tmp_path / "copy" / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(InputError, match="sha256"):
        read_manifest(tmp_path / "copy")


def test_every_trial_exports_to_what_it_promised(result: SearchResult, tmp_path: Path) -> None:
    for candidate in result.candidates:
        if candidate.status == "complete":
            path = result.export(tmp_path / str(candidate.trial), candidate.trial)
            assert path.stat().st_size == candidate.metrics["size_bytes"]


def test_an_export_that_breaks_its_promise_fails(result: SearchResult, tmp_path: Path) -> None:
    best = result.best
    lying = msgspec.structs.replace(best.best, metrics={**best.metrics, "accuracy": best.metrics["accuracy"] - 0.2})
    with pytest.raises(AutocompressError, match="must be as good as the trial"):
        ship(result.bench, msgspec.structs.replace(best, evaluations=(lying,)), tmp_path / "no",
             result._description)
    assert not (tmp_path / "no").exists()


def test_plot_and_json_agree_with_the_trials(result: SearchResult) -> None:
    points = sum(len(trace.x) for trace in result.plot().data if trace.meta == "trials")
    assert points == len(result.trials) == sum(result.to_dict()["trials"].values())
    json.dumps(result.to_dict(), allow_nan=False)


def test_reopened_with_its_network_it_exports_again(result: SearchResult, trained: nn.Module, arrays: Arrays,
                                                    tmp_path: Path) -> None:
    reopened = autocompress.open_study(result.folder, model=trained, data=arrays)
    again = reopened.export(tmp_path / "again")
    assert again.read_bytes() == Path(result.artifact["path"]).read_bytes()
    with pytest.raises(InputError, match="fingerprint"):
        autocompress.open_study(result.folder, model=network().eval(), data=arrays)


def test_a_plan_of_ones_own_goes_the_same_way_without_a_search(
        result: SearchResult, trained: nn.Module, arrays: Arrays, tmp_path: Path) -> None:
    """Its figures are those of the trial of a search that had the same plan."""
    trial = next(c for c in result.candidates if c.status == "complete" and c.duplicate_of is None)
    calibrated = trial.evaluations[0].metrics
    traced = autocompress.trace(trained, arrays)
    evaluation = autocompress.evaluate(traced, trial.plan)
    same = ("size_bytes", "macs", "params", "peak_memory_bytes", "accuracy", "cross_entropy")
    assert [evaluation.metrics[name] for name in same] == pytest.approx([calibrated[name] for name in same], rel=1e-6)
    path = autocompress.export(traced, trial.plan, tmp_path / "artifact")
    assert path.stat().st_size == evaluation.metrics["size_bytes"]
    manifest = read_manifest(path.parent)
    assert manifest["plan_fingerprint"] == trial.plan.fingerprint and manifest["verified"]["verified"]
    compressed = autocompress.compress(traced, trial.plan)
    inputs = torch.from_numpy(arrays[0][:4])
    assert len(compressed.model(inputs)) == 4 and compressed.plan == trial.plan
    options = autocompress.sensitivity(traced).document()
    sites = {group.name for group in traced.layers.groups} | set(traced.layers.by_name)
    assert options and {option["site"] for option in options} <= sites and min(o["nats"] for o in options) >= 0
    with pytest.raises(InputError):
        traced.evaluate(autocompress.Plan.of([autocompress.Step("nowhere", "prune", {"keep": 1})]))


@pytest.mark.slow
def test_processes_find_the_same_kind_of_front(trained: nn.Module, arrays: Arrays, tmp_path: Path) -> None:
    result = autocompress.search(model=trained, data=arrays, budget="9kB", trials=4, epochs=1, jobs=2,
                                 out=str(tmp_path / "study"))
    assert result.best is not None and result.to_dict()["trials"]["failed"] == 0


def test_a_profile_fixes_widths_and_memory(trained: nn.Module, arrays: Arrays, tmp_path: Path) -> None:
    result = autocompress.search(model=trained, data=arrays, profile="stm32h743", trials=2, epochs=1,
                                 out=tmp_path / "study")
    for candidate in result.candidates:
        assert {s.args["weight_bits"] for s in candidate.plan.find("quantize").values()} == {8}
        assert candidate.best.sources["latency_ms"] == "estimated"
        assert candidate.metrics["size_bytes"] <= 2 * 2**20
    with pytest.raises(InfeasibleError, match="smallest reachable on stm32h743"):
        autocompress.search(model=trained, data=arrays, profile="stm32h743", peak_memory="100B", out=tmp_path / "no")


def test_an_argument_that_there_is_not_is_named(arrays: Arrays) -> None:
    with pytest.raises(InputError, match="search\\(\\) has no argument 'trails'; did you mean 'trials'"):
        autocompress.search(model=network(), data=arrays, trails=4)


def test_trials_that_are_cut_off_end_in_the_report(trained: nn.Module, arrays: Arrays, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(run: stages.Run, *_: object) -> None:
        signal.raise_signal(signal.SIGINT)
        raise StoppedNow  # as a stop does where an evaluation does not end by itself

    monkeypatch.setattr(stages, "try_candidates", cut_off)
    with pytest.raises(Interrupted, match="everything is kept"):
        autocompress.search(model=trained, data=arrays, budget="9kB", trials=2, out=tmp_path / "s")
    assert (tmp_path / "s" / "report" / "pareto.html").is_file()
