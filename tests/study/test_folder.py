"""Where a study goes when no folder was named."""

from __future__ import annotations

from pathlib import Path

import pytest

from autocompress.study.folder import DATABASE, choose_folder


@pytest.mark.parametrize(("there", "new", "resumed"), [
    ((), "x", "x"), (("x",), "x-2", "x"), (("x", "x-3"), "x-2", "x-3"), (("x-2",), "x", "x-2"),
    (("x", "x-2", "x-3"), "x-4", "x-3")])
def test_a_free_place_and_the_last_one_taken(there: tuple[str, ...], new: str, resumed: str, tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in there:
        (Path("studies") / name).mkdir(parents=True)
        (Path("studies") / name / DATABASE).touch()
    assert choose_folder(None, "x", resume=False) == Path("studies") / new
    assert choose_folder(None, "x", resume=True) == Path("studies") / resumed
    assert choose_folder(Path("mine"), "x", resume=False) == Path("mine")
