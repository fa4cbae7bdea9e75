"""Reading a file of an artefact: nothing that lies elsewhere, nothing without end."""

from __future__ import annotations

import stat
from pathlib import Path

from autocompress.artifact.manifest import MANIFEST
from autocompress.errors import InputError


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
