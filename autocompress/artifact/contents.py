"""The files of an artefact, read into memory once, and only where they are what its manifest says."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autocompress.artifact.manifest import MANIFEST, MOST_BYTES, Manifest, parse
from autocompress.errors import InputError


@dataclass(frozen=True)
class Contents:
    """An artefact in memory: its manifest, as a document too, and its files by name with the content that the manifest
    vouches for."""

    folder: Path
    manifest: Manifest
    document: Mapping[str, Any] = field(repr=False)
    files: Mapping[str, bytes] = field(repr=False)

    @property
    def model(self) -> bytes:
        """The file that runs."""
        return self.files[self.manifest.model]


def read_contents(folder: Path | str) -> Contents:
    """Read an artefact.

    Raises:
        InputError: where the folder holds no artefact, one of a newer release, or a file that is missing, is no plain
            file, or is not what the manifest says.
    """
    folder = Path(folder)
    manifest, document = parse(plain_file(folder / MANIFEST, MOST_BYTES), str(folder / MANIFEST))
    files = {name: unchanged_file(folder, manifest, name) for name in manifest.files}
    return Contents(folder, manifest, document, files)


def unchanged_file(folder: Path, manifest: Manifest, name: str) -> bytes:
    """The content of one file of an artefact. InputError where it is not what the manifest says."""
    facts = manifest.files[name]
    data = plain_file(folder / name, facts.bytes)
    if len(data) != facts.bytes:
        raise InputError(f"{folder / name} must have {facts.bytes:,} bytes, as its manifest says, but has "
                         f"{len(data):,}: copy or export it again")
    found = hashlib.sha256(data).hexdigest()
    if found != facts.sha256:
        raise InputError(f"{folder / name} must have sha256 {facts.sha256[:12]}…, as its manifest says, but has "
                         f"{found[:12]}…: it was changed since it was exported. Export it again")
    return data


def plain_file(path: Path, most: int) -> bytes:
    """The content of a file, read up to `most` bytes and one more. InputError where it is no plain file: links could
    lead out of the folder, and pipes never end."""
    try:
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a link" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "a device"
            raise InputError(f"{path} must be a plain file, but is {kind}")
        with path.open("rb") as stream:
            return stream.read(most + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"an artefact must hold {MANIFEST} and the files that it names, but {path}: {reason}"
                         ) from None
