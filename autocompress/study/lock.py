"""A lock on a study's folder that names its owner: one run at a time writes to a study.

The lock is the operating system's on an open file, which ends with the process that holds it, whatever ends that. The
file says who the owner is, and stays behind where a process was killed: then it also says that a study was begun here.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import msgspec

from autocompress.core.files import is_alive
from autocompress.errors import InputError, StorageError
from autocompress.search.databases import DATABASE
from autocompress.study.folder import DESCRIPTION

try:
    import fcntl
except ImportError:  # not on Windows: there the number of the process has to do
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

LOCK, SCHEMA = "study.lock", "autocompress/lock"


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """Who writes to a study: a process of a machine, since when in local time."""

    pid: int
    host: str
    since: str

    @classmethod
    def this(cls) -> Owner:
        """Return the present process as an owner."""
        return cls(pid=os.getpid(), host=socket.gethostname(), since=time.strftime("%Y-%m-%d %H:%M:%S"))

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"

    @property
    def is_gone(self) -> bool:
        """Whether it is known to have ended; of another machine's processes nothing is known."""
        return self.host == socket.gethostname() and not is_alive(self.pid)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of the study in `folder`. What a run left that was killed is taken over, with a warning.

    StorageError, which names the owner, where another run holds it; InputError where the file is somebody else's.
    """
    path = folder / LOCK
    stream = _taken(path)
    try:
        content = {"schema": SCHEMA, **msgspec.to_builtins(Owner.this())}
        stream.seek(0)
        stream.truncate()
        stream.write(json.dumps(content).encode())
        stream.flush()
        yield
    finally:
        if (folder / DESCRIPTION).exists() or not (folder / DATABASE).exists():  # else it alone says whose that is
            with suppress(OSError):  # removed while it is held, so that nobody can hold what is no longer there
                path.unlink()
        stream.close()


def read_owner(path: Path) -> Owner | None:
    """Return the owner that a lock file names; None where there is none or autocompress did not write it."""
    try:
        document: Any = json.loads(path.read_bytes())
        if document.pop("schema") != SCHEMA:
            return None
        return msgspec.convert(document, Owner)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, msgspec.ValidationError):
        return None


def _taken(path: Path) -> IO[bytes]:
    """The lock file, open and locked. A file that another run has removed meanwhile is not it: try again."""
    while True:
        try:
            stream = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "rb+")
        except OSError as error:
            raise InputError(f"the folder of a study must have a place for {path}, but: {error.strerror}") from None
        owner = read_owner(path)
        if owner is None and stream.read(1) and not _says_ours(path):
            stream.close()
            raise InputError(f"{path} must be the lock of a study, but was not written by autocompress: move it away")
        if not _lock(stream, owner):
            stream.close()
            raise _in_use(path.parent, owner)
        with suppress(OSError):
            if os.path.samestat(os.fstat(stream.fileno()), path.stat()):
                break
        stream.close()
    owner = read_owner(path)
    if owner is not None and owner.host != socket.gethostname():  # locks of a shared disk need not reach that far
        stream.close()
        raise _in_use(path.parent, owner, f"; if that has ended, delete {path}")
    if owner is not None:
        log.warning("taking over from %s, which ended without a word", owner)
    return stream


def _says_ours(path: Path) -> bool:
    """Tell whether a lock that another run is just writing, or has removed, is autocompress's after all."""
    time.sleep(0.1)
    return not path.exists() or read_owner(path) is not None


def _lock(stream: IO[bytes], owner: Owner | None) -> bool:
    if fcntl is None:
        return owner is None or owner.is_gone
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _in_use(folder: Path, owner: Owner | None, advice: str = "; wait for it, or stop it first") -> StorageError:
    return StorageError(f"the study in {folder} must be written by one run at a time, but {owner or 'another run'} is "
                        f"at work on it{advice}")
