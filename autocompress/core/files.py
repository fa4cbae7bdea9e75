"""Files that are whole or absent: written beside their place under a name of their own, synced, then moved over it.

A temporary name says which process of which machine writes it, so that what a killed process left can be told from what
a living one writes and from a user's own files.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
_TEMPORARY = re.compile(r"\.autocompress-([0-9a-f]{8})-(\d{1,10})-[0-9a-f]{8}\.tmp")


def temporary_name() -> str:
    """A new file name that says its writer: this machine and this process."""
    return f".autocompress-{_HOST}-{os.getpid()}-{secrets.token_hex(4)}.tmp"


def is_alive(process: int) -> bool:
    """Whether a process of this number runs on this machine, whoever it belongs to."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # one of another user's
        return True
    return True


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`, which is made if need be, for the body to write; then sync it and
    move it over `path`. Where the body or the disk fails, the temporary file is removed and `path` stays as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(temporary_name())
    try:
        yield part
        sync(part)
        part.replace(path)
    except BaseException:
        with suppress(OSError):  # where the folder itself is out of reach, the first error says so
            part.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, or raise OSError and leave it as it was."""
    with replacing(path) as part:
        part.write_bytes(content)


def write_together(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Replace several files of `folder`, by name, or none where one of them cannot be written: OSError names it. All
    are on the disk before the first is moved to its place."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {name: folder / temporary_name() for name in contents}
    try:
        for name, content in contents.items():
            try:
                parts[name].write_bytes(content)
                sync(parts[name])
            except OSError as error:
                raise type(error)(error.errno, error.strerror, str(folder / name)) from error
        for name, part in parts.items():
            part.replace(folder / name)
    finally:
        for part in parts.values():
            with suppress(OSError):
                part.unlink(missing_ok=True)


def write_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Make a folder with these files by name, or raise OSError and leave nothing: it is filled under a temporary name,
    and then moved to its place, where there must be nothing or an empty folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for path in folder.parent.glob(".autocompress-*.tmp"):
        if _is_left_over(path) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
    part = folder.with_name(temporary_name())
    try:
        part.mkdir()
        for name, content in contents.items():
            (part / name).write_bytes(content)
            sync(part / name)
        part.replace(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def sync(path: Path) -> None:
    """Have the disk hold what was written to `path`."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def sha256_of(path: Path) -> str:
    """The hash of a file's content, in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files directly in `folder` whose writer was a process of this machine that is gone."""
    for path in folder.glob(".autocompress-*.tmp"):
        if _is_left_over(path) and path.is_file() and not path.is_symlink():
            with suppress(OSError):
                path.unlink()


def _is_left_over(path: Path) -> bool:
    """Whether a name says that its writer was a process of this machine that is gone."""
    named = _TEMPORARY.fullmatch(path.name)
    return named is not None and named[1] == _HOST and not is_alive(int(named[2]))


def set_aside(path: Path) -> Path:
    """Move a file to the first free name beside it, `NAME.changed`, `NAME.changed-2` …, and return that."""
    numbers = ("", *(f"-{n}" for n in range(2, 10_000)))
    free = next(place for n in numbers if not (place := path.with_name(f"{path.name}.changed{n}")).exists())
    return path.rename(free)
