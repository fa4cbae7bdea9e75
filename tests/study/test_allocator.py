"""Memory that is used again."""

from __future__ import annotations

import ctypes
import sys

import pytest

from autocompress.study import allocator


def test_glibc_is_told_and_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
        assert allocator.reuse_memory()
    allocator.release_memory()

    class Other:
        """A C library without mallopt."""

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Other())
    assert not allocator.reuse_memory()
    allocator.release_memory()
