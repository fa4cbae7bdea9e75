"""Evaluated files that a study keeps, by their content's hash: what is shipped is then copied, not compressed again."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path

from autocompress.core.budget import Budget
from autocompress.core.evaluation import Candidate
from autocompress.core.files import write_whole
from autocompress.core.front import front
from autocompress.core.metric import Reference

FILES = "files"
MOST = 32
"""Files that are kept in any case while trials run."""
NAME = re.compile(r"[0-9a-f]{64}\.\w+")


def keep_file(folder: Path, data: bytes, suffix: str) -> str:
    """Keep `data`, a file of the format with that suffix, in a study's folder, where the disk allows it, and return its
    hash."""
    known = hashlib.sha256(data).hexdigest()
    path = _path(folder, known, suffix)
    if not path.is_file():
        with suppress(OSError):
            write_whole(path, data)
    return known


def kept_file(folder: Path, known: str, suffix: str) -> bytes | None:
    """The bytes of that hash, or None where they are not kept, or damaged."""
    try:
        data = _path(folder, known, suffix).read_bytes()
    except OSError:
        return None
    return data if is_intact(known, data) else None


class Trimmer:
    """Keeps the files of a growing study to those of its front. It looks again only when they have doubled, so that a
    trial costs the same however many there are."""

    def __init__(self, folder: Path, budget: Budget, reference: Reference) -> None:
        self._folder, self._budget, self._reference = folder, budget, reference
        self._most = MOST

    def look(self, candidates: Callable[[], Sequence[Candidate]]) -> None:
        """While trials run: files that no trial has told of yet may be those of one that is under way, and stay."""
        if len(own_files(self._folder)) > self._most:
            everyone = candidates()
            self._remove(everyone, {e.file for c in everyone for e in c.evaluations})
            self._most = max(MOST, 2 * len(own_files(self._folder)))

    def end(self, everyone: Sequence[Candidate]) -> None:
        """Behind the last trial."""
        self._remove(everyone, {path.stem for path in own_files(self._folder)})

    def _remove(self, everyone: Sequence[Candidate], among: Collection[str]) -> None:
        wanted = {c.best.file for c in front(everyone, self._budget, self._reference) if c.best is not None}
        for path in own_files(self._folder):
            if path.stem in among and path.stem not in wanted:
                with suppress(OSError):
                    path.unlink()


def own_files(folder: Path) -> list[Path]:
    """Those kept in a study's folder, by their names."""
    return [path for path in sorted((folder / FILES).glob("*")) if NAME.fullmatch(path.name) and path.is_file()]


def is_intact(known: str, data: bytes) -> bool:
    """Whether bytes are those of the hash."""
    return bool(known) and hashlib.sha256(data).hexdigest() == known


def _path(folder: Path, known: str, suffix: str) -> Path:
    return folder / FILES / f"{known}{suffix}"
