"""Journal files: a study as a file of records, one line of JSON each, that several processes append to.

A process that is killed while it appends leaves a torn last line, to which the next record would be glued. It is cut
off, and kept beside the file, before anything is appended. A line elsewhere that is no record is named, and left out by
`mend_journal` alone.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from autocompress.core.files import write_whole
from autocompress.errors import StorageError

log = logging.getLogger(__name__)


def is_journal(url: str) -> bool:
    """Whether a storage is a journal file, rather than a URL."""
    return url.endswith(".log") and "://" not in url


def open_journal(path: Path, *, mend: bool) -> optuna.storages.BaseStorage:
    """The storage of a journal file. `mend`: cut a torn end off. StorageError that names a line that is no record."""
    if path.exists() and path.stat().st_size:
        bad, torn = _faults(path)
        if bad:
            raise StorageError(f"{path} must hold a record in JSON in every line, but line {bad[0]} is none"
                               f"{f', nor are {len(bad) - 1} others' if len(bad) > 1 else ''}: `autocompress repair "
                               f"{path}` leaves out what cannot be read, and keeps a copy. Nothing was overwritten")
        if torn is not None and mend:
            _cut_off(path)
    return optuna.storages.JournalStorage(JournalFileBackend(str(path)))


def mend_journal(path: Path) -> list[str]:
    """Leave out what cannot be read of a journal file, and keep a copy of it; returned are sentences about what was
    done. Records about a trial whose creation is lost are passed over by Optuna."""
    with _locked(path):
        bad, torn = _faults(path)
        if not bad and torn is None:
            return [f"{path}: every line is a record; nothing was changed"]
        copy = free_name(path, "before-repair")
        shutil.copyfile(path, copy)
        intact = [line for number, line in enumerate(_lines(path), 1) if number not in bad and line.endswith(b"\n")]
        write_whole(path, b"".join(intact))
        said = [f"{path}: left out {'line' if len(bad) == 1 else 'lines'} {', '.join(map(str, bad))}"] if bad else []
        said += [f"{path}: cut off a torn last line"] if torn is not None else []
        return [*said, f"the file as it was: {copy}"]


def free_name(path: Path, what: str) -> Path:
    """The first name beside a file, `NAME.what`, `NAME.what-2` …, that is free."""
    numbers = ("", *(f"-{n}" for n in range(2, 10_000)))
    return next(place for n in numbers if not (place := path.with_name(f"{path.name}.{what}{n}")).exists())


def _faults(path: Path) -> tuple[list[int], int | None]:
    """Numbers of whole lines that are no records, and that of a torn last one."""
    bad: list[int] = []
    torn = None
    for number, line in enumerate(_lines(path), 1):
        if not line.endswith(b"\n"):
            torn = number
        elif not _is_record(line):
            bad.append(number)
    return bad, torn


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        yield from stream


def _is_record(line: bytes) -> bool:
    try:
        return "op_code" in msgspec.json.decode(line, type=dict)
    except msgspec.MsgspecError:
        return False


def _cut_off(path: Path) -> None:
    """Cut a torn last line off, unless another process has just completed it."""
    with _locked(path):
        *_, last = _lines(path)
        if last.endswith(b"\n"):
            return
        copy = free_name(path, "torn")
        copy.write_bytes(last)
        with path.open("rb+") as stream:
            stream.truncate(path.stat().st_size - len(last))
            os.fsync(stream.fileno())
    log.warning("%s ended in a torn line, of a process that was killed: it is in %s now", path, copy)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold Optuna's lock of a journal file."""
    lock = JournalFileSymlinkLock(str(path))
    lock.acquire()
    try:
        yield
    finally:
        lock.release()
