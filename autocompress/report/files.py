"""Files that are whole or absent: written beside their place, then moved over it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from autocompress.errors import EnvironmentFault


def write_atomic(path: Path, text: str) -> Path:
    """Replace `path` by `text` in UTF-8. EnvironmentFault when the folder cannot hold it; the old file stays."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(text.encode("utf-8", errors="backslashreplace"))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):  # when the folder itself is out of reach, the first error says so
            temporary.unlink(missing_ok=True)
        raise EnvironmentFault(
            f"{path} must be writable, but: {error.strerror or error}; free space or choose another folder"
        ) from error
    return path
