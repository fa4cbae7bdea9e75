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


def is_rich(stream: IO[str]) -> bool:
    """Whether control codes are welcome: a terminal, not a dumb one, and no NO_COLOR (see no-color.org)."""
    return (stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")
            and not os.environ.get("NO_COLOR"))


def console(stream: IO[str] | None = None) -> Console:
    """A console on standard output, or on `stream`, that writes control codes only where they are welcome."""
    from rich.console import Console

    target = sys.stdout if stream is None else stream
    rich = is_rich(target)
    return Console(file=target, force_terminal=rich, color_system="auto" if rich else None, highlight=False,
                   markup=False, emoji=False, legacy_windows=False)


def printable(text: str) -> str:
    """`text` with its control characters spelled out: names come from users' files and could steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def say(text: str) -> None:
    """One line on standard error."""
    if sys.stderr is not None:
        print(printable(text), file=sys.stderr, flush=True)


def print_table(titles: tuple[str, ...], rows: list[Any]) -> None:
    """Columns under titles; a narrow terminal folds cells and loses nothing."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    console().print(table)


def line(text: str) -> None:
    """One line that is never broken, so that a path in it can be copied."""
    console().print(printable(text), soft_wrap=True)


def print_json(document: Any) -> None:
    """One strict JSON document on standard output: a number that is not finite becomes null."""
    print(json.dumps(_finite(document), indent=1, allow_nan=False), flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def clean_stdout() -> Iterator[None]:
    """What a library or a user's file prints goes to standard error, from worker processes too."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
        os.dup2(2, 1)
    except OSError:  # one of the two is closed
        kept = -1
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if kept >= 0:
            os.dup2(kept, 1)
            os.close(kept)
