"""Joins search to backend and formats: one call that runs a study, and the folder that holds it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autocompress.study.result import SearchResult, open_study
    from autocompress.study.run import search

__all__ = ["SearchResult", "open_study", "search"]
_HOMES = {"SearchResult": "result", "open_study": "result", "search": "run"}


def __getattr__(name: str) -> Any:
    """Load on first use: the settings of a search are asked for where torch is not needed."""
    if name in _HOMES:
        return getattr(import_module(f"autocompress.study.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'autocompress.study' has no attribute {name!r}")
