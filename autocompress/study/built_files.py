"""Evaluated files that a study keeps, by their content's hash: what is shipped is then copied, not compressed again."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

from msgspec.structs import replace

from autocompress.core.budget import Budget
from autocompress.core.evaluation import CALIBRATED, Candidate, Evaluation
from autocompress.core.front import front
from autocompress.core.metric import Reference
from autocompress.core.store import FILES, WEIGHTS, Store, weights_key
from autocompress.errors import StorageError

# Files that are kept in any case while trials run.
MOST = 32
NAME = re.compile(r"[0-9a-f]{64}\.\w+")


def keep_file(store: Store, data: bytes, suffix: str) -> str:
    """Keep `data`, a file of the format with that suffix, in a store, where that has room for it, and return its
    hash."""
    digest = hashlib.sha256(data).hexdigest()
    key = f"{FILES}/{digest}{suffix}"
    if store.get(key) is None:
        with suppress(StorageError):
            store.put(key, data)
    return digest


def kept_file(store: Store, digest: str, suffix: str) -> bytes | None:
    """Return the bytes of that hash, or None where they are not kept, or damaged."""
    data = store.get(f"{FILES}/{digest}{suffix}") if digest else None
    return data if data is not None and is_intact(digest, data) else None


class Trimmer:
    """Keeps the files of a growing study to those of its front. It looks again only when they have doubled, so that a
    trial costs the same however many there are."""

    def __init__(self, store: Store, budget: Budget, reference: Reference) -> None:
        self._store, self._budget, self._reference = store, budget, reference
        self._most = MOST

    def look(self, candidates: Callable[[], Sequence[Candidate]]) -> None:
        """While trials run: files that no trial has told of yet may be those of one that is under way, and stay."""
        if len(own_files(self._store)) > self._most:
            everyone = candidates()
            self._remove(everyone, {e.file for c in everyone for e in c.evaluations})
            self._most = max(MOST, 2 * len(own_files(self._store)))

    def end(self, everyone: Sequence[Candidate]) -> None:
        """Behind the last trial."""
        self._remove(everyone, own_files(self._store))

    def _remove(self, everyone: Sequence[Candidate], among: Collection[str]) -> None:
        of_front = {c.best.file for c in front(everyone, self._budget, self._reference) if c.best is not None}
        for digest, key in own_files(self._store).items():
            if digest in among and digest not in of_front:
                self._store.remove(key)


def own_files(store: Store) -> dict[str, str]:
    """Return the keys of the files that a store keeps, by the hashes in their names."""
    return {name.partition(".")[0]: key for key in store.keys(FILES) if NAME.fullmatch(name := key.partition("/")[2])}


def at_hand_here(everyone: Sequence[Candidate], store: Store) -> list[Candidate]:
    """Candidates without the evaluations whose file cannot be had again from this store: those of trainings that
    another driver did."""
    files, weights = own_files(store), set(store.keys(WEIGHTS))

    def is_here(candidate: Candidate, evaluation: Evaluation) -> bool:
        return (evaluation.rung == CALIBRATED or evaluation.file in files or candidate.plan is None
                or weights_key(candidate.plan, evaluation.rung) in weights)

    return [replace(c, evaluations=tuple(e for e in c.evaluations if is_here(c, e))) for c in everyone]


def is_intact(digest: str, data: bytes) -> bool:
    """Whether bytes are those of the hash."""
    return bool(digest) and hashlib.sha256(data).hexdigest() == digest
