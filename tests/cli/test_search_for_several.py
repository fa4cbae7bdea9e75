"""Several devices on the command line: from a file of settings to show and export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autocompress.artifact.folder import read_manifest

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def searched(cli: Cli, task: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A search for two devices, one of them known by the user's own file."""
    folder = tmp_path_factory.mktemp("several")
    mine = cli("profiles", "show", "stm32h743").out.replace('id = "stm32h743"', 'id = "board"')
    (folder / "mine.toml").write_text(mine)
    (folder / "c.toml").write_text('profile = ["raspberry-pi-4", "mine.toml"]\nlatency = ["1s", "board=2s"]\n'
                                   'trials = 2\nepochs = 1\nout = "study"\n')
    return folder, cli("search", *task.flags, "--config", str(folder / "c.toml"))


def test_search_show_and_export(cli: Cli, searched: tuple[Path, Any], tmp_path: Path) -> None:
    folder, out = searched
    assert out.code == 0, out.err
    assert " on board; " in out.err
    for text in ("Latency on raspberry-pi-4, estimated", "Latency on board, estimated"):
        assert text in out.out
    shown = cli("show", str(folder / "study"))
    assert "latency ≤ 1e+03 ms, latency on board ≤ 2e+03 ms" in shown.out
    assert "Latency on raspberry-pi-4" in shown.out and "Latency on board" in shown.out
    assert {"latency_ms", "latency_ms@board"} <= cli("show", str(folder / "study"), "--json").document["metrics"].keys()
    exported = cli("export", str(folder / "study"), "--out", str(tmp_path / "a"), "--trust-code")
    assert exported.code == 0 and "Latency on board, estimated" in exported.out
    assert list(read_manifest(tmp_path / "a")["latencies"]) == ["board", "raspberry-pi-4"]


def test_flags_replace_the_profiles_of_the_file(cli: Cli, task: Any, searched: tuple[Path, Any]) -> None:
    folder, _ = searched
    out = cli("search", *task.flags, "--config", str(folder / "c.toml"), "--profile", "host", "--resume")
    assert out.code == 2 and "on a profile that is searched for, host, but got 'board'" in out.err


def test_widths_that_the_devices_do_not_share(cli: Cli, searched: tuple[Path, Any], tmp_path: Path) -> None:
    folder, _ = searched
    text = (folder / "mine.toml").read_text().replace("weight_bits = { value = [8]", "weight_bits = { value = [2]")
    (tmp_path / "two.toml").write_text(text)
    out = cli("search", "--profile", "x86-avx2", "--profile", str(tmp_path / "two.toml"), "--out", str(tmp_path / "s"))
    assert out.code == 2 and "must share one of `weight_bits`" in out.err and "(x86-avx2: 8, 32; board: 2)" in out.err
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("text", ["host=", "=", "=5ms"])
def test_a_latency_without_a_time(cli: Cli, task: Any, tmp_path: Path, text: str) -> None:
    out = cli("search", *task.flags, "--profile", "host", "--latency", text, "--out", str(tmp_path / "s"))
    assert out.code == 2 and "latency must be a time such as 5ms, or host=5ms" in out.err and "Traceback" not in out.err
