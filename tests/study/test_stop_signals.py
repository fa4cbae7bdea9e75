"""Being told to stop at the worst moment."""

from __future__ import annotations

import io
import logging
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from autocompress.core.cancellation import checkpoint, idle_seconds
from autocompress.errors import AutocompressError
from autocompress.study import signals
from autocompress.study.signals import StoppedNow, ending_the_process, stoppable


class _Raw(io.RawIOBase):
    """Is interrupted in the middle of its first write, as a terminal is."""

    def __init__(self) -> None:
        self.text = b""

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        assert isinstance(data, memoryview)
        if not self.text:
            self.text = b"> "
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)  # the handler runs here, with the writer's lock held
        self.text += bytes(data)
        return len(data)


def test_a_signal_in_the_middle_of_a_message_is_no_fault() -> None:
    raw = _Raw()
    stream = io.TextIOWrapper(io.BufferedWriter(raw), write_through=True)
    handler = logging.StreamHandler(stream)
    log = logging.getLogger("autocompress")
    log.addHandler(handler)
    try:
        with stoppable() as should_stop, should_stop.patiently():
            assert not should_stop()
            log.warning("progress")
            assert should_stop()
            for thread in threading.enumerate():
                if thread.daemon and thread is not threading.current_thread():
                    thread.join(5)
    finally:
        log.removeHandler(handler)
    assert b"progress" in raw.text
    assert b"stopping after the current step" in raw.text


def test_before_the_search_a_request_ends_the_work_at_once() -> None:
    with pytest.raises(StoppedNow), stoppable():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)


def test_what_does_not_stop_by_itself_is_cut_off_and_the_report_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autocompress.study.signals.GRACE_SECONDS", 0.1)
    reached = False
    with stoppable() as stop:
        with stop.patiently():
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop()
            for _ in range(100):
                time.sleep(0.1)
            reached = True
        time.sleep(0.3)
        assert stop() and not reached


def test_a_process_that_does_not_let_go_is_ended_where_it_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autocompress.study.signals.LAST_SECONDS", 0.1)
    ended: list[AutocompressError] = []

    def end(folder: Path | None, error: AutocompressError) -> None:
        ended.append(error)

    with ending_the_process(end), stoppable() as stop, stop.patiently():
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(100):
            if not ended:
                time.sleep(0.05)
    assert [error.exit_code for error in ended] == [130]


def test_a_search_beyond_its_time_is_ended_only_where_it_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it comes to checkpoints, as an export does on a busy machine, it goes on."""
    ended, seen = threading.Event(), []
    idle = iter([0.0, 0.0, 0.005, 0.005, 60.0])

    def idle_for() -> float:
        seen.append(next(idle))
        return seen[-1]

    monkeypatch.setattr(signals, "HANG_SECONDS", 0.01)
    monkeypatch.setattr(signals, "idle_seconds", idle_for)
    with ending_the_process(lambda folder, error: ended.set()), stoppable() as stop:
        stop.end_after(0.0)
        assert ended.wait(30)
    assert len(seen) == 5


def test_a_checkpoint_is_a_sign_of_life() -> None:
    before = idle_seconds()
    checkpoint()
    assert idle_seconds() <= before
