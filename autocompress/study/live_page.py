"""The live page of a study: its report, read again when the study has changed, and who searches at the moment."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

from autocompress.core.files import is_alive
from autocompress.core.search_status import SearchStatus
from autocompress.report.html import Live, page
from autocompress.report.live import status_markup
from autocompress.report.tables import as_csv, as_json, trials_frame
from autocompress.search.databases import storage_errors
from autocompress.study.folder import DESCRIPTION, read_description, read_store
from autocompress.study.result import SearchResult


class LivePage:
    """Texts of the page, made anew when trials or evaluations have come. Nothing of the study is written.

    Args:
        folder: of the study. InputError and StorageError where it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store = read_store(folder, read_description(folder))
        self._lock = threading.Lock()
        self._texts: dict[str, str] = {}
        self._version = ""
        self._heard: dict[str, tuple[int, float]] = {}  # beat and when it was first read, by driver
        self.look()

    def look(self) -> Live:
        """The version of the study, and who searches, as markup."""
        with self._lock, storage_errors(str(self._folder)):
            counts, statuses = self._store.watched()
            changed = (self._folder / DESCRIPTION).stat().st_mtime_ns
            return Live(f"{counts} {changed}", status_markup(self._present(statuses)))

    def text(self, name: str) -> str:
        """One of the texts: `page`, `content`, which is the page without scripts, `csv` or `json`."""
        live = self.look()
        with self._lock, storage_errors(str(self._folder)):
            if live.version != self._version:
                self._texts, self._version = {}, live.version
            if name not in self._texts:
                self._texts[name] = self._made(name, live)
            return self._texts[name]

    def _made(self, name: str, live: Live) -> str:
        view = SearchResult(self._folder, read_description(self._folder), store=self._store).view()
        if name in ("csv", "json"):
            frame = trials_frame(view)
            return as_csv(frame) if name == "csv" else as_json(frame)
        return page(view, live, scripts=name == "page")

    def _present(self, statuses: dict[str, SearchStatus]) -> list[tuple[SearchStatus, float]]:
        """Drivers that are not known to be gone, with the seconds for which this process has heard nothing new of
        each. No clocks of hosts are compared."""
        now, here = time.monotonic(), socket.gethostname()
        self._heard = {driver: heard for driver, heard in self._heard.items() if driver in statuses}
        present = []
        for driver, status in statuses.items():
            if status.host == here and not is_alive(status.process):
                continue
            if self._heard.get(driver, (-1, 0.0))[0] != status.beat:
                self._heard[driver] = status.beat, now
            present.append((status, now - self._heard[driver][1]))
        return present
