"""Claiming a folder for a study: it is refused before any work is done, or held until the work is over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autocompress.errors import InputError
from autocompress.study.folder import is_study, prepare_folder, remove_empty
from autocompress.study.lock import locked
from autocompress.study.ownership import clean, is_own, require_no_foreign


@contextmanager
def claimed(folder: Path, *, resume: bool, replace: bool) -> Iterator[None]:
    """Make `folder` if need be and hold its lock. A folder that was made here and is still empty afterwards is removed.

    InputError where a study is there that is neither to be resumed nor replaced, where something else stands in the
    way of one, or where the folder cannot be written; StorageError where another run is at work on it.
    """
    if is_study(folder) and is_own(folder) and not resume and not replace:
        raise InputError(f"{folder} holds a study already: add --resume to go on with it, --force-new-study to "
                         "replace it, or choose another --out")
    created = prepare_folder(folder)
    try:
        require_no_foreign(folder)
        with locked(folder):
            clean(folder)
            yield
    finally:
        remove_empty(created)
