"""Being told to stop at the worst moment."""

from __future__ import annotations

import io
import logging
import os
import signal
import threading
import time

from autocompress.study.stopping import stoppable


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
        with stoppable() as should_stop:
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
