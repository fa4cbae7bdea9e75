"""The three files of a report, and telling them from files of the same names that are somebody else's."""

from __future__ import annotations

from pathlib import Path

from autocompress.core.files import write_together
from autocompress.errors import EnvironmentFault, InputError

PAGE, CSV, JSON = "pareto.html", "trials.csv", "trials.json"
GENERATOR = '<meta name="generator" content="autocompress">'
_HEAD_BYTES = 4096


def write_files(folder: Path, page: str, csv: str, json: str) -> Path:
    """Replace the files of a report, all or none, in UTF-8; return the page's path.

    InputError where files of these names are there that are no report of ours, EnvironmentFault when the folder cannot
    hold them; the old ones then stay.
    """
    require_no_foreign(folder)
    texts = {PAGE: page, CSV: csv, JSON: json}  # the page first: it says whose the others are
    try:
        write_together(folder, {name: text.encode("utf-8", errors="backslashreplace") for name, text in texts.items()})
    except OSError as error:
        raise EnvironmentFault(f"{error.filename or folder} must be writable, but: {error.strerror or error}; free "
                               "space or choose another folder") from error
    return folder / PAGE


def require_no_foreign(folder: Path) -> None:
    """InputError where files of a report's names are in `folder` that are none of ours."""
    taken = [name for name in (PAGE, CSV, JSON) if (folder / name).exists() or (folder / name).is_symlink()]
    if taken and not is_report(folder):
        raise InputError(f"{folder} must not hold files of other things where a report is to be written, but "
                         f"{', '.join(taken)} is there and was not written by autocompress: choose another folder, or "
                         "move it away")


def is_report(folder: Path) -> bool:
    """Whether the page in `folder` is ours, and the tables beside it begin as ours do."""
    try:
        head = _head(folder / PAGE)
        has_our_page = GENERATOR.encode() in head or " · autocompress</title>".encode() in head
        starts = {CSV: (b"trial,status,",), JSON: (b"[]", b'[\n {\n  "trial":')}
        return has_our_page and all(_head(folder / name).startswith(begin) for name, begin in starts.items()
                                    if (folder / name).exists())
    except OSError:
        return False


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(_HEAD_BYTES)
