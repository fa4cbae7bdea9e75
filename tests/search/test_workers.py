"""Processes that evaluate candidates: what cannot go there."""

from __future__ import annotations

import pytest

from autocompress.core.plan import Plan
from autocompress.errors import InputError
from autocompress.search.workers import Processes


def test_what_cannot_be_sent_to_a_process_is_said_to_be_so() -> None:
    pool = Processes(lambda: None, jobs=2)  # type: ignore[arg-type, return-value]
    with pytest.raises(InputError, match=r"must be picklable.*path/to/file.py:factory, or jobs=1"):
        pool.submit(Plan(), 0)
    pool.close()
