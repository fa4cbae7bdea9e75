"""Searches from end to end are short ones."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def short(short_searches: None) -> None:
    """Nothing here hangs on how well a network recovers."""
