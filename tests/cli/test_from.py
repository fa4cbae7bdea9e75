"""`search --from STUDY` and `search --resume --out STUDY`: what they take over, and whose code they run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autocompress.study.folder import Description, read_description
from autocompress.study.resume import with_stored
from autocompress.study.settings import SETTINGS, read

Cli = Callable[..., Any]


def test_what_is_not_given_is_taken_from_the_study(cli: Cli, finished: Any, tmp_path: Path) -> None:
    """The network is a Python file that only the study names: as with `export`, it runs when it is trusted."""
    second = tmp_path / "second"
    command = ("search", "--from", str(finished.folder), "--budget", "2.6kB", "--trials", "2", "--out", str(second))
    refused = cli(*command)
    assert refused.code == 2 and refused.err.count("\n") == 1
    assert "searching on would run code from that file. Add --trust-code" in refused.err and not second.exists()
    done = cli(*command, "--trust-code", "--json")
    assert done.code == 0, done.err
    assert "running code from" in done.err
    assert done.document["study"]["budget"]["size_bytes"] == 2600
    first, stored = read_description(finished.folder), read_description(second)
    assert _of_the_task(stored) == _of_the_task(first) and stored.fingerprints["data"] == first.fingerprints["data"]
    assert (stored.settings.epochs, stored.settings.from_study, stored.settings.trials) == (1, finished.folder, 2)
    assert stored.settings.budget == 2600 and first.settings.budget == 2800
    resumed = {"resume": True, "out": second}
    taken = {"effort": "normal", "trials": 2, "epochs": 1, "sampler": "auto"}
    assert taken.items() <= with_stored(resumed).items()
    settings = with_stored(resumed | {"effort": "thorough"})
    assert not settings.keys() & {"trials", "epochs"}, "that effort's own"
    assert "epochs" not in with_stored(read({"from_study": finished.folder, "effort": "fast", "budget": "1kB"}))
    own_task = with_stored(read({"from_study": finished.folder, "task": "mine.py:task"}))
    assert "model" in own_task and "data" not in own_task, "a task of the user's own has its data"

    refused = cli("search", "--resume", "--out", str(second))
    assert refused.code == 2 and "Add --trust-code" in refused.err
    again = cli("search", "--resume", "--out", str(second), "--trials", "2", "--trust-code", "--json")
    assert again.code == 0, again.err
    assert again.document["study"] == done.document["study"] and again.document["trials"] == done.document["trials"]


def _of_the_task(description: Description) -> dict[str, Any]:
    """Settings of the network and of the data."""
    return {name: getattr(description.settings, name) for name, setting in SETTINGS.items()
            if setting.owner in ("network", "data")}


def test_a_file_that_the_user_names_needs_no_further_word(cli: Cli, finished: Any, task: Any, tmp_path: Path) -> None:
    out = cli("search", "--from", str(finished.folder), *task.flags, "--budget", "1kB", "--out", str(tmp_path / "s"))
    assert out.code == 3 and "smallest reachable" in out.err


@pytest.mark.parametrize(("flags", "told"), [
    (["--from", ""], "--from must not be empty"),
    (["--from", "nowhere"], "--from (from_study) must be a study that can be read"),
    (["--from", "nowhere", "--resume"], "must be left out with --resume"),
    (["--from", "nowhere", "--out", "nowhere"], "must be another folder"),
    (["--resume", "--out", "nowhere"], "--resume must find a study in --out, but nowhere holds none"),
])
def test_bad_use_is_one_line(cli: Cli, flags: list[str], told: str, tmp_path: Path,
                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = cli("search", *flags)
    assert out.code == 2 and out.out == "" and not list(tmp_path.iterdir())
    assert out.err.startswith("error: ") and told in out.err and out.err.count("\n") == 1


def test_a_file_cannot_name_the_study(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('from = "studies/mine"\n')
    out = cli("search", "--config", str(tmp_path / "c.toml"))
    assert out.code == 2 and "`from` must be given on the command line" in out.err
