"""Where text goes: colours and redrawing on a terminal that wants them, bare lines everywhere else."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

PIPE_COLUMNS = 160
NAME_COLUMNS = 24
NARROW_COLUMNS = 64


def is_rich(stream: IO[str]) -> bool:
    """Whether control codes are welcome: a terminal, not a dumb one, and no NO_COLOR (see no-color.org)."""
    return (stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")
            and not os.environ.get("NO_COLOR"))


def console(stream: IO[str] | None = None) -> Console:
    """A console on standard output, or on `stream`, that writes control codes only where they are welcome."""
    from rich.console import Console

    target = sys.stdout if stream is None else stream
    rich = is_rich(target)
    unbound = not target.isatty() and "COLUMNS" not in os.environ  # a file or a pipe to grep: keep rows whole
    screen = Console(file=target, force_terminal=rich, color_system="auto" if rich else None, highlight=False,
                     markup=False, emoji=False, legacy_windows=False, width=PIPE_COLUMNS if unbound else None)
    screen.on_broken_pipe = _reraise  # type: ignore[method-assign]  # rich would end the process with 1
    return screen


def _reraise() -> None:
    raise  # called by rich while it handles the error


def printable(text: str) -> str:
    """`text` with its control characters spelled out: names come from users' files and could steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def say(text: str) -> None:
    """One line on standard error."""
    if sys.stderr is not None:
        print(printable(text), file=sys.stderr, flush=True)


def print_table(titles: tuple[str, ...], rows: list[Any], whole: bool = False) -> None:
    """Columns under titles; on a narrow terminal each row becomes a block of lines, so that nothing is lost.

    With `whole` no cell is ever folded: wherever the columns do not fit, rows become blocks.
    """
    from rich.table import Table

    screen = console()
    natural = sum(max(map(len, cells)) + 2 for cells in zip(titles, *rows, strict=True))
    if natural > screen.width and (whole or screen.width < NARROW_COLUMNS):
        for first, *others in rows:
            line(f"{titles[0]} {first}".strip())
            for title, cell in zip(titles[1:], others, strict=True):
                if cell:
                    line(f"  {title} {cell}" if title else f"  {cell}")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    longest = max((len(row[0]) for row in rows), default=0)
    for number, title in enumerate(titles):  # the first column is what one copies
        table.add_column(title, overflow="fold", min_width=None if number else min(longest, NAME_COLUMNS))
    for row in rows:
        table.add_row(*map(printable, row))
    screen.print(table)


def line(text: str) -> None:
    """One line that is never broken, so that a path in it can be copied."""
    console().print(printable(text), soft_wrap=True)


def print_json(document: Any) -> None:
    """One strict JSON document on standard output."""
    print(as_json(document), flush=True)


def as_json(document: Any) -> str:
    """Strict JSON: a number that is not finite becomes null."""
    return json.dumps(_finite(document), indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# Standard output while `clean_stdout` keeps it clean.
_kept: list[int] = []


def print_last(text: str) -> None:
    """Text on standard output from a process that ends in the middle of what it does."""
    data = text.encode("utf-8", errors="replace")
    while data:
        data = data[os.write(_kept[-1] if _kept else 1, data):]


@contextmanager
def clean_stdout() -> Iterator[None]:
    """What a library or a user's file prints goes to standard error, from worker processes too."""
    sys.stdout.flush()
    try:
        duplicate = os.dup(1)
        os.dup2(2, 1)
    except OSError:  # one of the two is closed
        duplicate = -1
    else:
        _kept.append(duplicate)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if duplicate >= 0:
            _kept.remove(duplicate)
            os.dup2(duplicate, 1)
            os.close(duplicate)
