"""A store of byte strings by key: where a study keeps trained weights, evaluated files, the teacher's answers and the
original's statistics.

Whoever evaluates a plan reads and writes these through one object, so that no worker needs the study's folder: the
folder is one implementation (`FolderStore`), a worker's memory with references to what the driver holds is another
(`MemoryStore`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from autocompress.core.files import remove_leftovers, write_whole
from autocompress.core.plan import Plan
from autocompress.errors import StorageError

# The kinds: weights of trained candidates, those of an earlier study (only read), evaluated files, the teacher's
# answers, statistics of the original.
WEIGHTS, EARLIER, FILES, TEACHER, STATISTICS = "weights", "earlier", "files", "teacher", "statistics"
KINDS = (WEIGHTS, EARLIER, FILES, TEACHER, STATISTICS)
# The entry in the header of a file of weights that holds, as JSON, the plan and the channels kept.
STRUCTURE = "structure."
_NAME = re.compile(r"\w[\w.-]*")


class Store(Protocol):
    """Byte strings by key. A key is `kind/name`: one of `KINDS` and a file name of letters, digits, `_`, `.`, `-`.

    Required of every implementation (`autocompress.testing.store_contract` holds it to that):

    * `get` gives exactly the bytes of the last `put` of that key, or None; never a part of them, whatever else reads
      and writes at the time.
    * What one object has put, that object gets, until it is removed.
    * A key of another form is a ValueError, and reaches nothing outside the store.
    """

    def get(self, key: str) -> bytes | None:
        """Return the bytes of `key`, None where there are none or they cannot be read."""

    def put(self, key: str, data: bytes) -> None:
        """Keep `data` under `key` in place of what was there. StorageError where that is not possible."""

    def remove(self, key: str) -> None:
        """Forget `key`, if it is there."""

    def keys(self, kind: str) -> list[str]:
        """The keys of one `kind`, sorted."""

    def used(self, kind: str) -> list[str]:
        """The keys of one `kind` that this object has read or put, and that are there, sorted."""

    def nearest(self, plan: Plan, most: int | None = None) -> list[tuple[str, Mapping[str, str]]]:
        """The trained weights of the plans that have most steps in common with a plan, those with most first.

        Args:
            plan: to compare with.
            most: how many at most; None for all.

        Returns:
            Keys of the kinds `weights` and `earlier`, each with the header of its file, from which nothing else was
            read.
        """


class Reference(NamedTuple):
    """Bytes that are elsewhere: the header of a file of weights (empty for others), and how to fetch them."""

    header: Mapping[str, str]
    read: Callable[[], bytes | None]


class FolderStore:
    """A store in a folder, a file for each key: `folder/kind/name`. Writing is atomic.

    Args:
        folder: of the study; made when something is first put.
        places: other folders for some kinds, such as the user's cache for statistics.
        limits: bytes that the files of a kind may take together; those not used for longest are then deleted.
    """

    def __init__(self, folder: Path, places: Mapping[str, Path] | None = None,
                 limits: Mapping[str, int] | None = None) -> None:
        self._folder, self._places, self._limits = folder, dict(places or {}), dict(limits or {})
        self._used: set[str] = set()

    def path(self, key: str) -> Path:
        """Return where the bytes of `key` are. ValueError for what is no key."""
        kind, name = checked(key)
        return self._of(kind) / name

    def get(self, key: str) -> bytes | None:
        """See `Store`."""
        path = self.path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        self._used.add(key)
        if key.partition("/")[0] in self._limits:
            with suppress(OSError):
                os.utime(path)
        return data

    def put(self, key: str, data: bytes) -> None:
        """See `Store`."""
        path, limit = self.path(key), self._limits.get(key.partition("/")[0])
        self._used.add(key)
        try:
            write_whole(path, data)
            if limit is not None:
                remove_leftovers(path.parent)
                _trim(path.parent, limit)
        except OSError as error:
            raise StorageError(f"{path} must be writable, but: {error.strerror or error}; free space or choose another "
                               "folder") from error

    def remove(self, key: str) -> None:
        """See `Store`."""
        with suppress(OSError):
            self.path(key).unlink()

    def keys(self, kind: str) -> list[str]:
        """See `Store`."""
        return sorted(f"{kind}/{path.name}" for path in self._of(kind).glob("*")
                      if _NAME.fullmatch(path.name) and path.is_file())

    def used(self, kind: str) -> list[str]:
        """See `Store`."""
        return [key for key in self.keys(kind) if key in self._used]

    def nearest(self, plan: Plan, most: int | None = None) -> list[tuple[str, Mapping[str, str]]]:
        """See `Store`. Of each file only the header is read."""
        return ranked(plan, {key: header_in(self.path(key)) for kind in (WEIGHTS, EARLIER)
                             for key in (self.keys(kind) if kind == WEIGHTS or kind in self._places else ())}, most)

    def _of(self, kind: str) -> Path:
        return self._places.get(kind, self._folder / kind)


class MemoryStore:
    """A store in this process's memory, over references to what is elsewhere: what a worker is given.

    Args:
        references: by key, what can be fetched when it is first asked for; what was fetched is kept.
    """

    def __init__(self, references: Mapping[str, Reference] | None = None) -> None:
        self._references = dict(references or {})
        self._data: dict[str, bytes] = {}
        self._new: dict[str, bytes] = {}

    def lend(self, references: Mapping[str, Reference]) -> None:
        """Add `references`, in place of those to the same keys and of what was fetched by them."""
        self._references |= references
        for key in references:
            self._data.pop(key, None)

    def taken(self) -> dict[str, bytes]:
        """Return what was put since this was last asked, for the driver to keep in its own store."""
        put, self._new = self._new, {}
        return put

    def get(self, key: str) -> bytes | None:
        """See `Store`."""
        checked(key)
        if key not in self._data and key in self._references:
            fetched = self._references[key].read()
            if fetched is not None:
                self._data[key] = fetched
        return self._data.get(key)

    def put(self, key: str, data: bytes) -> None:
        """See `Store`."""
        checked(key)
        self._data[key] = self._new[key] = data

    def remove(self, key: str) -> None:
        """See `Store`."""
        checked(key)
        for entries in (self._data, self._new, self._references):
            entries.pop(key, None)  # type: ignore[attr-defined]

    def keys(self, kind: str) -> list[str]:
        """See `Store`."""
        return sorted(key for key in self._data.keys() | self._references.keys() if key.partition("/")[0] == kind)

    def used(self, kind: str) -> list[str]:
        """See `Store`: all that it has."""
        return self.keys(kind)

    def nearest(self, plan: Plan, most: int | None = None) -> list[tuple[str, Mapping[str, str]]]:
        """See `Store`."""
        return ranked(plan, {key: header_of(self._data[key]) if key in self._data else self._references[key].header
                             for kind in (WEIGHTS, EARLIER) for key in self.keys(kind)}, most)


def references_to(store: Store, keys: Mapping[str, Mapping[str, str]]) -> dict[str, Reference]:
    """Return references by which a `MemoryStore` of the same process reads from `store`. `keys`: each with the header
    of its file, as `nearest` tells it."""
    return {key: Reference(header, lambda key=key: store.get(key)) for key, header in keys.items()}  # type: ignore[misc]


def checked(key: str) -> tuple[str, str]:
    """The kind and the name in a `key`. ValueError where it is none."""
    kind, _, name = key.partition("/")
    if kind not in KINDS or not _NAME.fullmatch(name):
        raise ValueError(f"a key must be KIND/NAME with a kind of {', '.join(KINDS)}, but got {key!r}")
    return kind, name


def weights_key(plan: Plan, rung: int) -> str:
    """The key of the weights that a `plan` had after a `rung`."""
    return f"{WEIGHTS}/{plan.fingerprint}-{rung}.safetensors"


def ranked(plan: Plan, headers: Mapping[str, Mapping[str, str] | None],
           most: int | None) -> list[tuple[str, Mapping[str, str]]]:
    """The keys whose header says a plan, with their headers, by how many steps that has in common with a plan, then by
    key.

    Args:
        plan: to compare with.
        headers: texts in the header of a file by its key; None where there is none.
        most: how many are returned at most; None for all.
    """
    near = []
    for key, header in headers.items():
        with suppress(msgspec.MsgspecError):
            other = msgspec.json.decode((header or {}).get(STRUCTURE, ""), type=_Structure).plan
            near.append((-sum(step in other.steps for step in plan.steps), key, header or {}))
    return [(key, header) for _, key, header in sorted(near, key=lambda one: one[:2])][:most]


class _Structure(msgspec.Struct):
    """What a header says of the plan, whatever else stands beside it."""

    plan: Plan


def header_of(data: bytes) -> dict[str, str] | None:
    """The texts in the header of a safetensors file, None where it is none.

    Args:
        data: the bytes of the file.
    """
    size = int.from_bytes(data[:8], "little")
    return _texts(data[8:8 + size]) if 0 < size <= len(data) - 8 else None


def header_in(path: Path) -> dict[str, str] | None:
    """The texts in the header of a safetensors file, of which no more is read; None where it is none.

    Args:
        path: of the file.
    """
    try:
        with path.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            return _texts(stream.read(size)) if 0 < size <= path.stat().st_size - 8 else None
    except OSError:
        return None


def _texts(header: bytes) -> dict[str, str] | None:
    try:
        fields: Any = json.loads(header)
        return {str(name): str(text) for name, text in fields.get("__metadata__", {}).items()}
    except (ValueError, AttributeError):
        return None


def _trim(folder: Path, limit: int) -> None:
    """Delete the files not used for longest until the rest fit; another process may delete them first."""
    files = []
    for path in folder.glob("*-*.safetensors"):
        with suppress(OSError):
            status = path.stat()
            files.append((status.st_mtime, status.st_size, path))
    total = 0
    for _, size, path in sorted(files, reverse=True):
        total += size
        if total > limit:
            with suppress(OSError):
                path.unlink()
