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


class State:
    """What is known of a running search."""

    def __init__(self) -> None:
        self.phase, self.done, self.total, self.feasible = "starting", 0, 0, 0
        self.best: Candidate | None = None
        self.running: list[str] = []
        # What is under way within the phase, and how far it is.
        self.step = ""
        self._deadline: float | None = None
        self._began = time.monotonic()
        self._before: int | None = None

    def update(self, event: Event) -> None:
        """Take one event in."""
        self.step = ""
        if event.kind == "phase":
            self.phase, self.done, self.total = event.text, 0, event.total
            self._began, self._before = time.monotonic(), None
        elif event.kind == "progress":
            self.step = f"{event.text} {event.done}/{event.total}"
            return
        elif event.kind == "start":
            self.running.append(event.text)
        else:
            name = f"trial {event.candidate.trial}" if event.candidate else ""
            self.running = [text for text in self.running if text != name]
            self.feasible, self.best = event.feasible, event.best
            if event.text == self.phase:  # not a late one of the rung below
                self.done, self.total = event.done, event.total
                if self._before is None:  # a resumed phase does not begin at zero
                    self._before = event.done - 1
            if event.seconds_left is not None:
                self._deadline = time.monotonic() + event.seconds_left

    @property
    def elapsed(self) -> str:
        """Time since the phase began."""
        return format_seconds(time.monotonic() - self._began)

    @property
    def left(self) -> str:
        """Time left: of the limit when there is one, else what the rest of the phase should take."""
        if self._deadline is not None:
            return f"{format_seconds(max(0.0, self._deadline - time.monotonic()))} left"
        if self._before is None or not self.total:
            return ""
        each = (time.monotonic() - self._began) / max(1, self.done - self._before)
        return f"about {format_seconds(each * max(0, self.total - self.done))} left in this phase"


class Lines:
    """One line for each phase and each result. A reader that went away does not stop the search."""

    def __init__(self, stream: IO[str], quiet: bool = False) -> None:
        self._stream, self._quiet, self._state = stream, quiet, State()
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
            self.note(f"  {', '.join([*self._state.running, self._state.step])}, {self._state.elapsed}")
        elif event.candidate is not None:
            parts = [f"[{event.done}/{event.total}] {describe(event.candidate)}", f"{event.feasible} feasible"]
            if event.best is not None:
                parts.append(f"best {quality(event.best)} (trial {event.best.trial})")
            self.note("; ".join([*parts, *filter(None, [self._state.left])]))

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
        self._state = State()

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
        running = f": {', '.join(state.running)}" if state.running else ""
        rows: list[RenderableType] = [
            Text.assemble((printable(f"{state.phase}{running}"), "bold"), (f"  {state.elapsed}", "dim"),
                          (printable(f"  {state.step}"), "dim"))]
        if state.total:
            bar = Table.grid(padding=(0, 1), expand=False)
            bar.add_row(ProgressBar(total=state.total, completed=state.done, width=20),
                        Text(f"{state.done}/{state.total}"), Text(state.left, style="dim"))
            rows.append(bar)
        if state.best is not None:
            best = Text.assemble(("best so far  ", "dim"), (figures(state.best), "green"),
                                 (f"  (trial {state.best.trial})", "dim"))
            rows.append(best)
        if state.done:
            rows.append(Text.assemble(("feasible     ", "dim"), str(state.feasible)))
        return Group(*rows)


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
