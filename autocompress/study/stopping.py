"""Being asked to stop: Ctrl-C and SIGTERM."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

log = logging.getLogger(__name__)


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """SIGINT or SIGTERM once asks to stop, a second SIGINT stops now. Elsewhere than the main thread: never."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def handle(number: int, frame: Any) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()
        # The signal may have come in the middle of a write to the stream that this goes to: another thread waits.
        threading.Thread(target=log.warning, args=("stopping after the current step; press Ctrl-C again to stop now",),
                         daemon=True).start()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
