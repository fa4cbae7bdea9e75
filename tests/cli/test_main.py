"""Help, exit codes, streams, and the commands that need no study."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autocompress import __version__
from autocompress.hardware.profile import list_profiles, parse_profile
from autocompress.space.spec import list_spaces, load_space, parse_space

Cli = Callable[..., Any]
START = "import sys; from autocompress.cli.main import run; run(sys.argv[1:])"
COMMANDS = [[], ["search"], ["show"], ["report"], ["export"], ["profiles"], ["profiles", "list"], ["profiles", "show"],
            ["profiles", "validate"], ["spaces"], ["spaces", "list"], ["spaces", "show"]]


def start(*args: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", START, *args], capture_output=True, text=True, timeout=60, **settings)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(cli: Cli, command: list[str], flag: str) -> None:
    out = cli(*command, flag)
    assert out.code == 0 and out.err == "" and "Usage: autocompress" in out.out


@pytest.mark.parametrize("command", [[], ["profiles"], ["spaces"]], ids=" ".join)
def test_a_group_alone_prints_its_help(cli: Cli, command: list[str]) -> None:
    assert cli(*command).out == cli(*command, "--help").out


def test_search_help_is_grouped_and_explains_units(cli: Cli) -> None:
    text = cli("search", "--help").out
    places = [text.index(word) for word in ("What to compress:", "Limits:", "How to search:", "Where results go:",
                                            "General:", "Examples:", "Units: 2MB = 2,000,000 bytes")]
    assert places == sorted(places)


def test_help_does_not_load_torch() -> None:
    code = ("import sys; from autocompress.cli.main import main\n"
            "assert main(['search', '--help']) == 0 and main(['spaces', 'list']) == 0\n"
            "sys.exit(', '.join({'torch', 'optuna', 'pandas', 'plotly'} & set(sys.modules)) or 0)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("told", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_that_wait_do_not_spin_unless_told_to(told: str | None, expected: str) -> None:
    env = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    code = ("import os\nfrom autocompress.cli.main import run\n"
            "try: run(['--version'])\nfinally: print(os.environ['OMP_WAIT_POLICY'])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True,
                          env=env | ({"OMP_WAIT_POLICY": told} if told else {}))
    assert done.stdout.splitlines()[-1] == expected


def test_version(cli: Cli) -> None:
    assert cli("--version").out == f"autocompress {__version__}\n"


@pytest.mark.parametrize(("args", "told"), [
    (["serch"], "did you mean 'search'?"),
    (["zzz"], "choose one of search, watch, show"),
    (["profiles", "shw"], "did you mean 'show'?"),
    (["profiles", "show", "hots"], "did you mean 'host'?"),
    (["spaces", "show", "int9"], "did you mean 'int8'?"),
    (["search", "--profile", "host", "x"], "unexpected extra argument"),
    (["show"], "Missing argument 'STUDY'"),
    (["export", "x"], "Missing option '--out'"),
    (["search", "--latancy", "5ms"], "--latency"),
])
def test_typing_errors(cli: Cli, args: list[str], told: str) -> None:
    out = cli(*args)
    assert out.code == 2 and out.out == "" and out.err.count("\n") == 1
    assert out.err.startswith("error: ") and told in out.err


def test_profiles(cli: Cli, tmp_path: Path) -> None:
    listed = cli("profiles", "list").out
    for name in list_profiles():
        assert re.search(rf"^{name} ", listed, re.MULTILINE)
        text = cli("profiles", "show", name).out
        assert parse_profile(text, name).id
    mine = tmp_path / "mine.toml"
    mine.write_text(text)
    assert "is a valid profile" in cli("profiles", "validate", str(mine)).out
    assert cli("profiles", "show", str(mine)).out == text
    mine.write_text(text.replace("schema_version = 1", "schema_version = 99"))
    bad = cli("profiles", "validate", str(mine))
    assert bad.code == 2 and str(mine) in bad.err and "99" in bad.err


def test_spaces(cli: Cli) -> None:
    listed = cli("spaces", "list").out
    for name in list_spaces():
        assert re.search(rf"^{name} ", listed, re.MULTILINE)
        assert parse_space(cli("spaces", "show", name).out, name) == load_space(name)


@pytest.mark.parametrize(("error", "code", "told"), [
    (RuntimeError("odd\nmore"), 1, "this is a bug in autocompress, not in what you gave: RuntimeError: odd."),
    (OSError(28, "No space left on device", "/disk/file"), 4, "/disk/file: No space left on device"),
    (MemoryError(), 4, "memory"),
    (KeyboardInterrupt(), 130, "--resume"),
])
def test_any_error_has_its_code(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: BaseException, code: int, told: str
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("autocompress.space.spec.list_spaces", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    out = cli("spaces", "list")
    assert out.code == code and told in out.err and "Traceback" not in out.err and out.err.count("\n") == 1
    written = list(tmp_path.iterdir())
    assert len(written) == (code == 1)
    if written:
        assert str(written[0]) in out.err and "in fail" in written[0].read_text()
    assert "Traceback" in cli("spaces", "list", "--debug").err
    monkeypatch.setenv("AUTOCOMPRESS_DEBUG", "1")
    assert "Traceback" in cli("spaces", "list").err


@pytest.mark.parametrize("args", [["profiles", "list"], ["profiles", "show", "host"], ["--help"]], ids=" ".join)
def test_reader_that_went_away(args: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stdout:
        done = subprocess.run([sys.executable, "-c", START, *args], stdout=stdout, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 0 and done.stderr == b""


def test_closed_stdout() -> None:
    done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", sys.executable, "-c", START, "profiles", "list"],
                          capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_encoding_without_the_character() -> None:
    done = start("spaces", "show", "no-such-☃", env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 2 and "no-such-?" in done.stderr and "Traceback" not in done.stderr
