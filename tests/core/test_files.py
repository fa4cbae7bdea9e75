"""Files that are whole or absent, and temporary names that say whose they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autocompress.core.files import is_alive, remove_leftovers, replacing, set_aside, temporary_name, write_together

WRITE = """import sys, time
from pathlib import Path
from autocompress.core.files import replacing
with replacing(Path(sys.argv[1])) as part:
    part.write_text("half")
    print(part.name, flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITE, str(tmp_path / "a")], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    part = tmp_path / writer.stdout.readline().strip()
    others = [tmp_path / name for name in ("a.tmp", "study.notes.tmp", ".model.onnx.12.tmp", ".autocompress-mine.tmp",
                                           temporary_name())]
    for path in others:
        path.write_text("mine")
    remove_leftovers(tmp_path)
    assert part.read_text() == "half", "its writer lives"
    writer.kill()
    writer.wait()
    writer.stdout.close()
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_what_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a"
    with replacing(path) as part:
        part.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as part:
        part.write_text("new")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


def test_several_files_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_together(tmp_path, {"a": b"1", "b": b"1"})
    synced: list[int] = []

    def full(handle: int) -> None:
        synced.append(handle)
        if len(synced) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_together(tmp_path, {"a": b"2", "b": b"2"})
    assert caught.value.filename == str(tmp_path / "b")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"1", "b": b"1"}


def test_setting_aside_never_replaces(tmp_path: Path) -> None:
    for content in ("1", "2", "3"):
        (tmp_path / "a").write_text(content)
        set_aside(tmp_path / "a")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a.changed": "1", "a.changed-2": "2", "a.changed-3": "3"}


def test_who_is_alive() -> None:
    assert is_alive(os.getpid()) and is_alive(1) and not is_alive(2**22 + 1)
