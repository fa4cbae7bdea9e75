"""A whole search from the command line, and its refusals."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autocompress.search.efforts import EFFORTS
from autocompress.study import open_study

Cli = Callable[..., Any]
METRICS = {"accuracy", "accuracy_error", "cross_entropy", "size_bytes", "latency_ms", "macs", "params",
           "peak_memory_bytes", "latency_wall_ms", "latency_spread"}


def test_json_is_the_document_of_the_contract(finished: Any) -> None:
    assert finished.outcome.code == 0, finished.outcome.err
    said = finished.outcome.document
    assert set(said) == {"study", "baseline", "best", "front", "trials", "artifact", "report", "seconds", "warnings",
                         "rarest"}
    assert {"name", "storage", "seed", "profile", "budget", "metric"} == set(said["study"])
    assert said["study"]["name"] == "small" and said["study"]["budget"]["size_bytes"] == 2800
    assert set(said["baseline"]) >= METRICS
    assert set(said["best"]) == {"trial", "metrics", "plan_fingerprint"} and set(said["best"]["metrics"]) == METRICS
    assert all(set(member) == {"trial", "metrics"} for member in said["front"])
    assert said["best"]["trial"] in [member["trial"] for member in said["front"]]
    assert {"complete", "infeasible", "failed"} <= set(said["trials"])
    assert sum(said["trials"].values()) == 3
    artifact = said["artifact"]
    assert set(artifact) == {"path", "size_bytes", "accuracy", "latency_ms", "latency_wall_ms", "latency_spread",
                             "baseline_latency_ms", "baseline_latency_wall_ms", "speedup", "original", "verified"}
    assert artifact["verified"] is True and Path(artifact["path"]).stat().st_size == artifact["size_bytes"] <= 2800
    assert Path(said["report"]).is_file() and said["seconds"] > 0


def test_all_else_goes_to_stderr_as_plain_lines(finished: Any) -> None:
    assert "building the network" in finished.outcome.err  # what the user's file prints
    assert "calibrating candidates (3)" in finished.outcome.err
    assert "[3/3] trial" in finished.outcome.err and "exporting and verifying" in finished.outcome.err
    assert "\x1b" not in finished.outcome.err and "\r" not in finished.outcome.err


def test_resume_of_a_finished_search_changes_nothing(cli: Cli, finished: Any) -> None:
    files = [finished.folder / "artifact" / name for name in ("model.onnx", "manifest.json")]
    before = [file.read_bytes() for file in files]
    again = cli(*finished.command, "--resume", "--quiet")
    assert again.code == 0, again.err
    assert [file.read_bytes() for file in files] == before
    assert len(open_study(finished.folder).candidates) == 3
    assert "trials   3:" in again.out
    for word in ("Test accuracy", "Size", "Latency here", "smaller", "pareto.html", "autocompress show", "model.onnx"):
        assert word in again.out
    assert again.err == "building the network\n"


def test_a_warning_reaches_the_document_the_report_and_the_study(cli: Cli, task: Any, tmp_path: Path) -> None:
    stored = np.load(task.folder / "data.npz")
    np.savez(tmp_path / "turned.npz", x=stored["x"], y=(stored["y"] + 1) % 3)
    out = cli("search", *task.flags[:4], "--data", f"npz:{tmp_path}/turned.npz", "--budget", "2.8kB", "--trials", "1",
              "--effort", "fast", "--epochs", "1", "--out", str(tmp_path / "study"), "--json")
    assert out.code == 0, out.err
    told = {warned["code"]: warned["message"] for warned in out.document["warnings"]}
    assert "label-order" in told and f"warning: {told['label-order']}" in out.err
    page = Path(out.document["report"]).read_text()
    assert f"Warning: {escape(told['label-order'])}" in page
    shown = cli("show", str(tmp_path / "study"), "--json")
    assert shown.document["warnings"] == out.document["warnings"]
    assert told["label-order"] in cli("show", str(tmp_path / "study")).out


def test_existing_study_is_not_overwritten(cli: Cli, finished: Any) -> None:
    refused = cli(*finished.command)
    assert refused.code == 2
    assert "--resume" in refused.err and "--force-new-study" in refused.err and refused.err.count("\n") == 1


def test_resume_with_other_settings_lists_the_differences(cli: Cli, finished: Any) -> None:
    refused = cli(*finished.command, "--budget", "2.7kB", "--space", "int8", "--resume", "--quiet")
    assert refused.code == 2
    assert "budget: stored {'size_bytes': 2800}, now {'size_bytes': 2700}" in refused.err
    assert "space: stored" in refused.err and "model:" not in refused.err


def test_nothing_feasible(cli: Cli, unreachable: Any, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    out = cli("search", *unreachable.flags, "--space", "prune-only", "--budget", "5kB", "--max-drop", "0%",
              "--trials", "2", "--epochs", "1", "--out", str(folder), "--json")
    assert out.code == 3
    assert "nearest is trial" in out.err and "max_drop over by" in out.err
    document = out.document
    assert document["best"] is None and document["artifact"] is None and document["front"] == []
    assert document["trials"]["infeasible"] >= 1
    assert not (folder / "artifact").exists() and Path(document["report"]).is_file()
    shown = cli("show", str(folder))
    assert shown.code == 2 and "0 to 1" in shown.err
    shown = cli("show", str(folder), "--trial", "0")
    assert shown.code == 0 and "infeasible (max_drop" in shown.out


def test_budget_below_the_smallest_reachable_is_refused_before_the_search(cli: Cli, task: Any, tmp_path: Path) -> None:
    out = cli("search", *task.flags, "--budget", "1KB", "--out", str(tmp_path / "s"), "--json")
    assert out.code == 3 and out.document["error"]["code"] == 3 and set(out.document) == {"error"}
    assert "smallest reachable" in out.err and "bytes)" in out.err
    assert "calibrating" not in out.err and not (tmp_path / "s" / "study.db").exists()


def test_space_with_bits_that_the_device_cannot_run(cli: Cli, task: Any, tmp_path: Path) -> None:
    out = cli("search", *task.flags, "--space", "low-bit", "--profile", "stm32h743", "--out", str(tmp_path / "s"))
    assert out.code == 2
    assert "weight_bits" in out.err and "stm32h743" in out.err and "calibrating" not in out.err


def test_out_that_cannot_be_written(cli: Cli, task: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    places = [tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 300)]
    if Path("/proc").is_dir():
        places.append(Path("/proc/study"))  # read-only for everybody
    for place in places:
        out = cli("search", *task.flags, "--out", str(place))
        assert out.code == 2 and out.out == ""
        assert out.err.startswith("error: --out must be a folder that can be written") and out.err.count("\n") == 1
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(("flags", "told"), [
    (["--budget", "abc"], "'abc'"),
    (["--budget", "2Mb"], "2MB or 512KiB"),
    (["--budget", "0"], "above zero"),
    (["--budget", ""], "--budget must not be empty"),
    (["--latency", "5"], "5ms"),
    (["--macs", "5ms"], "50M"),
    (["--peak-memory", "-1kB"], "peak memory"),
    (["--max-drop", "2"], "between 0 and 1"),
    (["--timeout", "0"], "above zero"),
    (["--trials", "0"], "at least 1"),
    (["--trials", "-3"], "at least 1"),
    (["--trials", "many"], "'many' is not a valid integer"),
    (["--seed", "-1"], "seed"),
    (["--jobs", "0"], "jobs"),
    (["--device", "gpu"], "auto, cpu, cuda or cuda:N"),
    (["--resume", "--force-new-study"], "exclude each other"),
    (["--weights", "w.safetensors"], "need the model"),
    (["--data", "fashion-mnist"], "needs a model"),
    (["--model", "torchvision:resnet18"], "needs its data"),
    (["--profile", "stm32h7433"], "did you mean 'stm32h743'?"),
    (["--profile", "host", "--profile", ""], "--profile must not be empty"),
    (["--profile", "host", "--profile", "stm32h743", "--profile", "host"], "each profile must be given once"),
    (["--profile", "host", "--profile", "stm32h7433"], "did you mean 'stm32h743'?"),
    (["--latency", "stm32h743=5ms"], "on a profile that is searched for, host, but got 'stm32h743'"),
    (["--profile", "host", "--profile", "stm32h743", "--latency", "stm32h7433=5ms"], "did you mean 'stm32h743'?"),
    (["--latency", "host=5"], "5ms"),
    (["--latency", "5ms", "--latency", "6ms"], "once on all profiles, but is bounded by 5 ms and by '6ms'"),
    (["--latency", "host=5ms", "--latency", "host=6ms"], "once on host"),
    (["--space", "lowbit"], "did you mean 'low-bit'?"),
    (["--sampler", "nsga"], "did you mean 'nsga2'?"),
    (["--effort", "thorugh"], "did you mean 'thorough'?"),
    (["--budgt", "2MB"], "--budget"),
    (["--out", ""], "--out must not be empty"),
])
def test_bad_flags(cli: Cli, flags: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = cli("search", *flags)
    assert out.code == 2 and out.out == ""
    assert out.err.startswith("error: ") and told in out.err and out.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_tells_the_defaults_that_hold(cli: Cli) -> None:
    text = " ".join(cli("search", "--help").out.split())
    trials, epochs = ([getattr(effort, name) for effort in EFFORTS.values()] for name in ("trials", "epochs"))
    assert list(EFFORTS) == ["fast", "normal", "thorough"]
    assert f"Candidates to try. Default: {trials[0]}, {trials[1]} or {trials[2]}, by --effort." in text
    assert f"without --timeout. Default: {epochs[0]}, {epochs[1]} or {epochs[2]}, by --effort." in text


def test_a_missing_network_leaves_nothing_behind(cli: Cli, tmp_path: Path) -> None:
    out = cli("search", "--model", f"{tmp_path / 'gone.py'}:net", "--data", "digits", "--out", str(tmp_path / "study"))
    assert out.code == 2 and "gone.py" in out.err
    assert not (tmp_path / "study").exists()


def test_the_time_limit_counts_what_is_imported(cli: Cli, task: Any, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["autocompress.cli.search"], "perf_counter", lambda: time.perf_counter() - 1000)
    out = cli("search", *task.flags, "--budget", "2.8kB", "--timeout", "1m", "--out", str(tmp_path / "study"))
    assert out.code == 0 and "the best of 1 calibrated candidate stands" in out.err, out.err
