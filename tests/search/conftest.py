"""A network made of facts alone."""

from __future__ import annotations

import pytest

from autocompress.core.layer import LayerTable
from autocompress.testing.facts import small_table


@pytest.fixture(scope="session")
def table() -> LayerTable:
    """See `small_table`."""
    return small_table()
