"""Libraries made quiet, and what they were afterwards."""

from __future__ import annotations

import logging
import sys
import warnings

import pytest

from autocompress.core.quiet import silent


def test_nothing_is_said_inside_and_all_is_as_it_was_behind(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("a library")
    logger.setLevel(logging.INFO)
    filters = list(warnings.filters)
    with pytest.raises(ZeroDivisionError), silent("a library", "another"):
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        print("progress")
        print("progress", file=sys.stderr)
        assert not logger.isEnabledFor(logging.CRITICAL)
        raise ZeroDivisionError
    assert logger.level == logging.INFO and logging.getLogger("another").level == logging.NOTSET
    assert list(warnings.filters) == filters
    assert capsys.readouterr() == ("", "")
