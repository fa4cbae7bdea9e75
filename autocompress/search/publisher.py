"""Tells the study's store how far a search is, so that it can be watched from anywhere."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from autocompress.core.search_status import SearchStatus
from autocompress.errors import StorageError
from autocompress.search.engine import Event
from autocompress.search.search_state import SearchState
from autocompress.search.study_store import StudyStore

log = logging.getLogger(__name__)

# Seconds between two statuses where something has changed, and where nothing has.
NEWS_SECONDS, BEAT_SECONDS = 1.0, 10.0


class Publisher:
    """Takes in the events of a search, in its thread, and writes a status to the store now and then, in another: what
    a slow database takes is not the search's time.

    Args:
        store: of the study.
        news_seconds: see `NEWS_SECONDS`.
    """

    def __init__(self, store: StudyStore, news_seconds: float = NEWS_SECONDS) -> None:
        self._store, self._news_seconds = store, news_seconds
        self._driver, self._state, self._beat = secrets.token_hex(6), SearchState(), 0
        self._lock, self._over, self._changed = threading.Lock(), threading.Event(), True

    def __call__(self, event: Event) -> None:
        """Take an event in."""
        with self._lock:
            self._state.update(event)
            self._changed = True

    @contextmanager
    def present(self) -> Iterator[None]:
        """Publish while the body runs; behind it the driver is no longer among the statuses."""
        thread = threading.Thread(target=self._publish_all, name="status", daemon=True)
        thread.start()
        gone = False
        try:
            yield
        except StorageError:
            gone = True
            raise
        finally:
            self._over.set()
            thread.join(BEAT_SECONDS)
            if not gone and not thread.is_alive():
                with suppress(Exception):  # nobody but a watcher misses it
                    self._store.publish(self._driver, None)

    def _publish_all(self) -> None:
        last = -BEAT_SECONDS
        while not self._over.wait(self._news_seconds):
            now = time.monotonic()
            with self._lock:
                if not self._changed and now - last < BEAT_SECONDS:
                    continue
                self._changed, last, status = False, now, self._status()
            try:
                self._store.publish(self._driver, status)
            except Exception as error:  # the search itself will hear of it, and says it
                log.debug("the status cannot be published: %s", error)

    def _status(self) -> SearchStatus:
        self._beat += 1
        state = self._state
        return SearchStatus(host=socket.gethostname(), process=os.getpid(), beat=self._beat, phase=state.phase,
                            done=state.done, total=state.total, running=state.running, workers=state.workers,
                            seconds_left=state.seconds_left, is_limited=state.is_limited)
