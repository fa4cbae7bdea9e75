"""Joins search to backend and export: one call that runs a study, and the folder that holds it."""

from __future__ import annotations

from autocompress.study.result import SearchResult, open_study
from autocompress.study.run import search

__all__ = ["SearchResult", "open_study", "search"]
