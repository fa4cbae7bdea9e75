"""Progress on a terminal and elsewhere."""

from __future__ import annotations

import io
import logging

import msgspec
import pytest

from autocompress.cli.console import is_rich, printable
from autocompress.cli.progress import busy, figures, progress, running
from autocompress.core.evaluation import Candidate, Evaluation
from autocompress.core.metric import Reference
from autocompress.core.plan import Plan
from autocompress.search.engine import Event
from autocompress.search.search_state import SearchState
from autocompress.tasks.classification.metric import ACCURACY

SCORED = Evaluation(rung=0, metrics={"accuracy": 0.921, "size_bytes": 1_900_433, "latency_ms": 1.25}, sources={})
GOOD = Candidate(trial=3, status="complete", plan=Plan(), evaluations=(SCORED,), reference=Reference(ACCURACY, 0.95))
EVENTS = [
    Event(kind="phase", text="loading the network and its data"),
    Event(kind="phase", text="calibrating candidates", total=32),
    Event(kind="start", text="trial 3", candidate=GOOD),
    Event(kind="result", text="calibrating candidates", candidate=GOOD, done=4, total=32, feasible=2, best=GOOD,
          seconds_left=250.0),
    Event(kind="result", text="calibrating candidates", done=5, total=32, feasible=2, best=GOOD, seconds_left=240.0,
          candidate=Candidate(trial=4, status="failed", reason="nan: \x1b[31mloss")),
    Event(kind="start", text="trial 5", candidate=msgspec.structs.replace(GOOD, trial=5)),
]


class Terminal(io.StringIO):
    """Text that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Gone(io.StringIO):
    """A pipe that nobody reads."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


def play(stream: io.StringIO, quiet: bool = False) -> str:
    with progress(quiet=quiet, stream=stream) as shown:
        for event in EVENTS:
            shown(event)
        logging.getLogger("autocompress.somewhere").warning("careful")
        logging.getLogger("autocompress.somewhere").info("chatter")
    return stream.getvalue()


def test_lines() -> None:
    assert play(io.StringIO()).splitlines() == [
        "loading the network and its data",
        "calibrating candidates (32)",
        "[4/32] trial 3: 92.10%, 1.90 MB, 1.25 ms; 2 feasible; best 92.10% (trial 3); 4m10s left",
        "[5/32] trial 4, failed: nan: \\x1b[31mloss; 2 feasible; best 92.10% (trial 3); 4m00s left",
        "warning: careful",
    ]


def test_further_devices_follow() -> None:
    scored = msgspec.structs.replace(SCORED, metrics=SCORED.metrics | {"latency_ms@board": 80.0})
    assert figures(msgspec.structs.replace(GOOD, evaluations=(scored,))) == "92.10%, 1.90 MB, 1.25 ms, 80 ms on board"


def test_quiet_keeps_warnings() -> None:
    assert play(io.StringIO(), quiet=True) == "warning: careful\n"


@pytest.mark.parametrize("columns", ["40", "100"])
def test_terminal(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", columns)
    text = play(Terminal())
    assert "\x1b[" in text and "careful" in text
    for word in ("calibrating candidates", "trial 5", "5/32", "92.10%", "feasible"):
        assert word in text


def test_a_late_result_of_the_rung_below_leaves_the_bar_alone() -> None:
    state = SearchState()
    for event in (*EVENTS[:4], Event(kind="phase", text="candidates trained briefly", total=6),
                  Event(kind="result", text="candidates trained briefly", candidate=GOOD, done=1, total=6),
                  Event(kind="result", text="calibrating candidates", candidate=GOOD, done=5, total=32, feasible=3)):
        state.update(event)
    assert (state.done, state.total, state.feasible) == (1, 6, 3)


def test_workers_are_told_where_there_are_several() -> None:
    state = SearchState()
    state.update(EVENTS[-1])
    assert busy(state) == "" and running(state) == ["trial 5"]
    state.update(msgspec.structs.replace(EVENTS[2], workers=4, rung=1))
    assert busy(state) == "2 of 4 workers busy" and [each.rung for each in state.running] == [0, 1]
    state.update(msgspec.structs.replace(EVENTS[3], workers=3))
    assert busy(state) == "1 of 3 workers busy"


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_terminal_that_wants_no_codes(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert not is_rich(Terminal())
    text = play(Terminal())
    assert "\x1b" not in text and "\r" not in text and "[4/32] trial 3" in text


def test_reader_that_went_away_does_not_stop_the_search() -> None:
    play(Gone())


def test_control_characters_are_spelled_out() -> None:
    assert printable("a\x1b[2Jb\tü\nc") == "a\\x1b[2Jb\\tü\nc"
