"""Records of a file of separated values, read one by one, each with the place where it begins."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from autocompress.errors import InputError

SEPARATORS = ",;\t|"
# Characters of the longest cell.
MAX_CELL = 2**27


class Records:
    """A file of records, UTF-8, whose first one may name the columns.

    The separator is the most frequent of `SEPARATORS` in the first line. A first record of numbers alone is a record;
    columns are then called 0, 1, ….

    Args:
        path: The file.

    Raises:
        InputError: where there is no such file, it is not UTF-8 text, holds no record, or a column's name twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise InputError(f"data: there is no file {str(path)!r}")
        with path.open("rb") as stream:
            first = stream.readline().decode("utf-8-sig", "replace")
        self.separator = max(SEPARATORS, key=first.count)
        record = next(self._all(), None)
        if record is None:
            raise InputError(f"{path} must hold records of separated values, but is empty")
        cells = [cell.strip() for cell in record[1]]
        self.has_header = not all(map(is_number, cells))
        self.columns = tuple(cells) if self.has_header else tuple(map(str, range(len(cells))))
        twice = next((column for column in self.columns if self.columns.count(column) > 1), None)
        if twice is not None:
            raise InputError(f"{path} must name each column once, but {twice!r} is there twice")

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        """The place of each record, in bytes from the file's beginning, and its cells. InputError for one of another
        length than the first."""
        for number, (place, cells) in enumerate(self._all(), 1):
            if number == 1 and self.has_header:
                continue
            if len(cells) != len(self.columns):
                raise InputError(f"{self.path}: every record must have {len(self.columns)} cells, one a column, but "
                                 f"record {number - self.has_header} has {len(cells)}")
            yield place, cells

    def at(self, place: int) -> list[str]:
        """The cells of the record that begins at a place."""
        with self.path.open("rb") as stream:
            stream.seek(place)
            return next(self._of(stream))[1]

    def number(self, column: str, what: str) -> int:
        """Which column has that name. InputError where none has; `what` says what it is for."""
        if column not in self.columns:
            held = ", ".join(self.columns[:12]) + (", …" if len(self.columns) > 12 else "")
            raise InputError(f"{self.path}: {what} must name a column, but there is no {column!r}; there are {held}")
        return self.columns.index(column)

    def _all(self) -> Iterator[tuple[int, list[str]]]:
        with self.path.open("rb") as stream:
            if stream.read(3) != b"\xef\xbb\xbf":
                stream.seek(0)
            yield from self._of(stream)

    def _of(self, stream: IO[bytes]) -> Iterator[tuple[int, list[str]]]:
        """Records from where the stream is. A record may hold ends of lines between quotes, so that its own end is
        known by what the reader took."""
        begin = stream.tell()
        taken = begin

        def lines() -> Iterator[str]:
            nonlocal taken
            for line in stream:
                taken += len(line)
                yield line.decode("utf-8")

        limit = csv.field_size_limit(MAX_CELL)
        reader = csv.reader(lines(), delimiter=self.separator, strict=True)
        try:
            for cells in reader:
                if cells:
                    yield begin, cells
                begin = taken
        except (csv.Error, UnicodeDecodeError) as error:
            remedy = ": save the file as UTF-8" if isinstance(error, UnicodeDecodeError) else ""
            raise InputError(f"{self.path} must hold records of values separated by {self.separator!r} in UTF-8, but "
                             f"in line {reader.line_num + 1}: {error}{remedy}") from None
        finally:
            csv.field_size_limit(limit)


def is_number(cell: str) -> bool:
    """Whether text reads as a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True
