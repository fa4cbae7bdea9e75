"""Progress of a search on standard error: a block that is redrawn on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Protocol

from autocompress.cli.console import console, is_rich, printable
from autocompress.quantities import format_bytes, format_milliseconds, format_seconds
from autocompress.search.search_state import SearchState

if TYPE_CHECKING:
    from rich.console import RenderableType

    from autocompress.core.evaluation import Candidate
    from autocompress.search.engine import Event


# Where lines are written, one says how far it is when none was written for so long.
QUIET_SECONDS = 15.0


class Progress(Protocol):
    """Shows the events of a search."""

    def __call__(self, event: Event) -> None:
        """Show one event."""

    def note(self, text: str) -> None:
        """Show a line that stays, such as a warning."""


@contextmanager
def progress(*, quiet: bool, stream: IO[str] | None = None) -> Iterator[Progress]:
    """The form of progress that suits `stream` (standard error if None), with log messages shown in it."""
    target = sys.stderr if stream is None else stream
    shown: Progress
    if quiet or not is_rich(target):
        shown = Lines(target, quiet)
        with _logging_to(shown, quiet):
            yield shown
        return
    from rich.live import Live

    block = Block()
    screen = console(target)
    with Live(block, console=screen, refresh_per_second=4, transient=True) as live:
        block.note = lambda text: live.console.print(printable(text))  # type: ignore[method-assign]
        with _logging_to(block, quiet):
            yield block


class Lines:
    """One line for each phase and each result. A reader that went away does not stop the search."""

    def __init__(self, stream: IO[str], quiet: bool = False) -> None:
        self._stream, self._quiet, self._state = stream, quiet, SearchState()
        self._said = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Show phases and results."""
        self._state.update(event)
        if self._quiet or event.kind == "start" or (event.kind == "progress" and not self._is_due()):
            return
        self._said = time.monotonic()
        if event.kind == "phase":
            self.note(f"{event.text} ({event.total})" if event.total else event.text)
        elif event.kind == "progress":
            self.note(f"  {', '.join([*running(self._state), self._state.step])}, {self._state.elapsed}")
        elif event.candidate is not None:
            parts = [f"[{event.done}/{event.total}] {describe(event.candidate)}", f"{event.feasible} feasible"]
            if event.best is not None:
                parts.append(f"best {quality(event.best)} (trial {event.best.trial})")
            self.note("; ".join([*parts, *filter(None, [busy(self._state), left(self._state)])]))

    def _is_due(self) -> bool:
        """Whether nothing was said for so long that somebody may wonder."""
        return time.monotonic() - self._said >= QUIET_SECONDS

    def note(self, text: str) -> None:
        """One line."""
        with suppress(OSError, ValueError):  # a closed pipe, a closed file
            print(printable(text), file=self._stream, flush=True)


class Block:
    """Phase, bar, best so far and time left, as something that rich draws again and again."""

    def __init__(self) -> None:
        self._state = SearchState()

    def __call__(self, event: Event) -> None:
        """Take it in; the next drawing shows it."""
        self._state.update(event)

    def note(self, text: str) -> None:
        """Above the block."""

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        state = self._state
        names = f": {', '.join(running(state))}" if state.running else ""
        rows: list[RenderableType] = [
            Text.assemble((printable(f"{state.phase}{names}"), "bold"), (f"  {state.elapsed}", "dim"),
                          (printable(f"  {state.step}"), "dim"))]
        if state.total:
            bar = Table.grid(padding=(0, 1), expand=False)
            bar.add_row(ProgressBar(total=state.total, completed=state.done, width=20),
                        Text(f"{state.done}/{state.total}"), Text(left(state), style="dim"))
            rows.append(bar)
        if state.best is not None:
            best = Text.assemble(("best so far  ", "dim"), (figures(state.best), "green"),
                                 (f"  (trial {state.best.trial})", "dim"))
            rows.append(best)
        if state.done:
            rows.append(Text.assemble(("feasible     ", "dim"), str(state.feasible)))
        if busy(state):
            rows.append(Text.assemble(("workers      ", "dim"), busy(state)))
        return Group(*rows)


def running(state: SearchState) -> list[str]:
    """`trial 3` for each evaluation under way."""
    return [f"trial {each.trial}" for each in state.running]


def busy(state: SearchState) -> str:
    """`3 of 4 workers busy`, where there are several."""
    return f"{len(state.running)} of {state.workers} workers busy" if state.workers > 1 else ""


def left(state: SearchState) -> str:
    """Time left: of the limit when there is one, else what the rest of the phase should take."""
    if state.seconds_left is None:
        return ""
    text = format_seconds(state.seconds_left)
    return f"{text} left" if state.is_limited else f"about {text} left in this phase"


def describe(candidate: Candidate) -> str:
    """`trial 3: 92.10%, 1.90 MB, 1.2 ms`, with what is wrong with it."""
    texts = [f"trial {candidate.trial}: {figures(candidate)}" if candidate.metrics else f"trial {candidate.trial}"]
    if candidate.status != "complete":
        texts.append(f"{candidate.status}: {candidate.reason}" if candidate.reason else candidate.status)
    return ", ".join(texts)


def quality(candidate: Candidate) -> str:
    """The task's metric of a candidate that was judged: `92.10%`."""
    metric = candidate.reference.metric if candidate.reference else None
    return metric.format(candidate.metrics[metric.name]) if metric and metric.name in candidate.metrics else ""


def figures(candidate: Candidate) -> str:
    """`92.10%, 1.90 MB, 1.2 ms`, and the latency on each further device."""
    formats = {"size_bytes": format_bytes, "latency_ms": format_milliseconds}
    texts = [quality(candidate)] if candidate.reference else []
    texts += [text(candidate.metrics[name]) for name, text in formats.items() if name in candidate.metrics]
    texts += [f"{format_milliseconds(value)} on {name.partition('@')[2]}"
              for name, value in candidate.metrics.items() if "@" in name]
    return ", ".join(texts)


class _Notes(logging.Handler):
    def __init__(self, shown: Progress) -> None:
        super().__init__()
        self._shown = shown

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        self._shown.note(prefix + self.format(record))


@contextmanager
def _logging_to(shown: Progress, quiet: bool) -> Iterator[None]:
    """Warnings of the package, and what the tasks say of downloads and of training the default model."""
    package, tasks = logging.getLogger("autocompress"), logging.getLogger("autocompress.tasks")
    handler, before = _Notes(shown), (package.propagate, tasks.level)
    package.addHandler(handler)
    package.propagate = False
    tasks.setLevel(logging.WARNING if quiet else logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.propagate, level = before
        tasks.setLevel(level)
