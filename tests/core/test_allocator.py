"""Memory that is used again."""

from __future__ import annotations

import ctypes
import math
import sys

import pytest

from autocompress.core import allocator


def test_glibc_is_told_and_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
        assert allocator.reuse_memory()
    allocator.release_memory()

    class Other:
        """A C library without mallopt."""

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Other())
    assert not allocator.reuse_memory()
    allocator.release_memory()


def test_memory_is_given_back_only_where_much_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    class Library:
        """A C library that can trim."""

        malloc_trim = staticmethod(calls.append)

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    for held in (0, allocator.HELD_BYTES, allocator.HELD_BYTES + 1):
        monkeypatch.setattr(allocator, "resident_bytes", lambda held=held: held)
        allocator.release_memory()
    assert calls == [0], "small searches keep what they freed"


def test_within_a_phase_memory_is_given_back_above_a_bound_and_not_for_each_batch(
        monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    now, held = [100.0], [0]
    monkeypatch.setattr(allocator, "release_memory", lambda: calls.append(held[0]))
    monkeypatch.setattr(allocator, "resident_bytes", lambda: held[0])
    monkeypatch.setattr(allocator, "_last_bound", -math.inf)
    monkeypatch.setattr(allocator.time, "monotonic", lambda: now[0])
    for step in range(100):  # each batch takes a tenth of a second, and leaves more
        held[0] = allocator.BOUND_BYTES - 5 + step
        now[0] += 0.1
        allocator.bound_memory()
    every = round(allocator.BOUND_SECONDS / 0.1)
    assert calls and min(calls) == allocator.BOUND_BYTES + 1
    assert len(calls) in (math.ceil(94 / (every + 1)), math.ceil(94 / every))


def test_resident_memory_is_told_where_the_system_tells_it() -> None:
    assert (allocator.resident_bytes() > 2**20) == sys.platform.startswith("linux")
