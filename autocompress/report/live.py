"""What the live page shows beside a report: drivers, their workers, what runs and the time left."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from autocompress.core.search_status import SearchStatus
from autocompress.quantities import format_seconds
from autocompress.report.text import format_rung

# Seconds of silence that are said: a driver is heard of every ten.
SILENT_SECONDS = 30.0


def status_markup(statuses: Sequence[tuple[SearchStatus, float]]) -> str:
    """The drivers as markup; `statuses` come with the seconds for which each has not changed."""
    if not statuses:
        return '<p class="verdict">No search runs on this study at the moment.</p>'
    return "".join(_driver(status, silent) for status, silent in statuses)


def _driver(status: SearchStatus, silent: float) -> str:
    count = f" {status.done}/{status.total}" if status.total else ""
    items = {"phase": f"{status.phase}{count}"}
    if status.workers:
        items["workers"] = f"{len(status.running)} of {status.workers} busy"
    if status.seconds_left is not None:
        seconds = format_seconds(max(0.0, status.seconds_left - silent))
        items["time left"] = seconds if status.is_limited else f"about {seconds} in this phase"
    items["driver"] = f"process {status.process} on {status.host}"
    if silent > SILENT_SECONDS:
        items["last heard of"] = f"{format_seconds(silent)} ago"
    facts = "".join(f"<li><b>{name}</b>{escape(text)}</li>" for name, text in items.items())
    running = "".join(f"<li>trial {each.trial}, {escape(format_rung(each.rung))}, for "
                      f"{format_seconds(each.seconds + silent)}</li>" for each in status.running)
    return f'<ul class="facts">{facts}</ul>' + (f'<ul class="running">{running}</ul>' if running else "")
