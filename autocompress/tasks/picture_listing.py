"""The pictures under folders of classes: names, sizes and times of change, listed once and kept for the next time."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import time
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from autocompress.core.files import write_whole
from autocompress.tasks.cache import cache_dir
from autocompress.tasks.pictures import picture_suffixes

log = logging.getLogger(__name__)

# From here on a listing is kept; below it is faster to list anew than to wonder.
KEPT_FILES = 10_000
# Files of a kept listing whose size and time of change are compared with what is there.
COMPARED_FILES = 256
PROGRESS_SECONDS = 5.0
# A folder that changed so shortly before it was listed may change again within the same tick of its clock.
SETTLED_NS = 2 * 10**9
_SYSTEM_FILES = {"thumbs.db", "desktop.ini", "icon\r", "__macosx"}


class FileNames(Sequence[str]):
    """Names in one block of bytes: a million of them take some tens of megabytes.

    Args:
        block: the names as the file system spells them, one behind another.
        ends: where each ends in the block.
    """

    def __init__(self, block: bytes, ends: NDArray[np.int64]) -> None:
        self.block, self.ends = block, ends

    @classmethod
    def of(cls, names: Iterable[str]) -> FileNames:
        """Those names."""
        encoded = [os.fsencode(name) for name in names]
        return cls(b"".join(encoded), np.cumsum([len(name) for name in encoded], dtype=np.int64))

    def __len__(self) -> int:
        """Number of names."""
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: Any) -> Any:
        """The name of a number."""
        return [self[i] for i in range(*index.indices(len(self)))] if isinstance(index, slice) else \
            os.fsdecode(self.raw(index))

    def raw(self, index: int) -> bytes:
        """The same as the file system spells it."""
        return self.block[int(self.ends[index - 1]) if index else 0:int(self.ends[index])]


@dataclass(frozen=True, eq=False)
class PictureListing:
    """Pictures by class, in the order of classes and, within one, of names.

    `names` are relative to `root`; `labels` int64 are numbers of classes, `sizes` int64 bytes, `changed` int64
    nanoseconds, all `(N,)`; `others` counts files of other kinds by suffix.
    """

    root: Path
    names: FileNames
    labels: NDArray[np.int64]
    sizes: NDArray[np.int64]
    changed: NDArray[np.int64]
    others: Counter[str]

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.labels)

    def path(self, number: int) -> Path:
        """The file of a picture."""
        return self.root / self.names[number]

    @property
    def digest(self) -> str:
        """A hash of all names, sizes and times of change: what is made of these files is kept under it."""
        digest = hashlib.sha256(self.names.block)
        for numbers in (self.names.ends, self.sizes, self.changed):
            digest.update(numbers.tobytes())
        return digest.hexdigest()


def list_pictures(root: Path, classes: Sequence[str]) -> PictureListing:
    """List the pictures in the folders `classes` of `root`, whose numbers are the labels.

    A listing of many files is kept in the user's cache folder. It is used again as long as no folder in it has changed,
    and the size and the time of change of some files are still those: a file that was written over without its folder's
    noticing can escape that.
    """
    place = cache_dir() / "listings" / f"{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:32]}.npz"
    stored = _kept(place, root, classes)
    if stored is not None:
        log.info("%s: %d pictures, as they were listed before: no folder has changed since", root, len(stored))
        return stored
    began = time.time_ns()
    folders: dict[str, int] = {}
    files, others, last = list[tuple[str, int, int, int]](), Counter[str](), time.monotonic()
    for label, name in enumerate(classes):
        pictures = sorted(_walked(root, name, folders, others), key=lambda file: file[0].split("/"))
        files.extend((path, label, size, changed) for path, size, changed in pictures)
        if time.monotonic() - last > PROGRESS_SECONDS:
            last = time.monotonic()
            log.info("%s: listed %d pictures in %d of %d folders", root, len(files), label + 1, len(classes))
    numbers = np.array([file[1:] for file in files], dtype=np.int64).reshape(-1, 3)
    listing = PictureListing(root, FileNames.of(file[0] for file in files), *numbers.T.copy(), others)  # type: ignore[call-arg, arg-type]
    if len(files) >= KEPT_FILES and max(folders.values()) < began - SETTLED_NS:
        _keep(place, listing, classes, folders)
    return listing


def is_hidden(name: str) -> bool:
    """Whether a file or a folder is one that the user does not mean, by its name."""
    return name.startswith(".") or name.lower() in _SYSTEM_FILES


def _walked(root: Path, name: str, folders: dict[str, int], others: Counter[str]) -> Iterator[tuple[str, int, int]]:
    """Path relative to `root`, size and time of change of each picture; notes the folders with their times."""
    suffixes, waiting = picture_suffixes(), [name]
    if not (root / name).is_dir():  # a split without pictures of a class
        folders["."] = root.stat().st_mtime_ns
        return
    while waiting:
        folder = waiting.pop()
        folders[folder] = (root / folder).stat().st_mtime_ns
        with os.scandir(root / folder) as entries:
            for entry in entries:
                if is_hidden(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{folder}/{entry.name}")
                    continue
                suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 (a million times)
                if suffix not in suffixes:
                    others[suffix if len(suffix) > 1 else "no suffix"] += entry.is_file()
                elif entry.is_file():
                    status = entry.stat()
                    yield f"{folder}/{entry.name}", status.st_size, status.st_mtime_ns


def _keep(place: Path, listing: PictureListing, classes: Sequence[str], folders: dict[str, int]) -> None:
    facts = {"settled_by": _settled_by(classes), "folders": folders, "others": listing.others}
    buffer = io.BytesIO()
    np.savez(buffer, names=np.frombuffer(listing.names.block, np.uint8), ends=listing.names.ends, labels=listing.labels,
             sizes=listing.sizes, changed=listing.changed, facts=np.frombuffer(json.dumps(facts).encode(), np.uint8))
    with suppress(OSError):  # listing again costs time alone
        write_whole(place, buffer.getvalue())


def _kept(place: Path, root: Path, classes: Sequence[str]) -> PictureListing | None:
    try:
        with np.load(place) as arrays:
            facts = json.loads(arrays["facts"].tobytes())
            if facts["settled_by"] != _settled_by(classes) or any(
                    (root / folder).stat().st_mtime_ns != time for folder, time in facts["folders"].items()):
                return None
            listing = PictureListing(root, FileNames(arrays["names"].tobytes(), arrays["ends"]), arrays["labels"],
                                     arrays["sizes"], arrays["changed"], Counter(facts["others"]))
        compared = np.linspace(0, len(listing) - 1, min(len(listing), COMPARED_FILES), dtype=np.int64)
        for number in compared.tolist():
            status = listing.path(number).stat()
            if (status.st_size, status.st_mtime_ns) != (listing.sizes[number], listing.changed[number]):
                return None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    return listing


def _settled_by(classes: Sequence[str]) -> str:
    """What the listing depends on beside the folders: the classes, and which files are pictures."""
    return hashlib.sha256("\0".join([*classes, "", *sorted(picture_suffixes())]).encode("utf-8", "surrogateescape")
                          ).hexdigest()
