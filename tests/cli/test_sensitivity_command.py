"""`autocompress sensitivity`: which layers hurt, without a search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]


def test_options_of_all_layers_worst_first(cli: Cli, task: Any, tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = cli("sensitivity", *task.flags, "--json", "--seed", "3")
    assert done.code == 0, done.err
    options = done.document["options"]
    nats = [option["nats"] for option in options]
    assert done.document["unit"] == "nats" and nats == sorted(nats, reverse=True) and nats[0] > 0
    assert {option["technique"] for option in options} >= {"prune", "quantize"}
    assert not list(tmp_path.iterdir()), "nothing is left behind"
    table = cli("sensitivity", *task.flags, "--seed", "3", "--space", "int8", "--profile", "stm32h743", "--top", "2")
    assert table.code == 0 and "nats" in table.out and "more cost less" in table.out
    assert len(table.out.splitlines()) >= 4


@pytest.mark.parametrize(("flags", "told"), [
    (["--space", "nothing"], "--space must be a ready-made space"), (["--mean", ""], "--mean must not be empty"),
    (["--timeout", "soon"], "timeout must be a number with a unit"), (["--top", "-1"], "--top")])
def test_bad_use_is_one_line(cli: Cli, task: Any, flags: list[str], told: str) -> None:
    done = cli("sensitivity", *task.flags, *flags)
    assert done.code == 2 and done.err.splitlines()[-1].startswith("error: ") and told in done.err
