"""Long work that can be stopped and says how far it is."""

from __future__ import annotations

import math
import time

import pytest

from autocompress.core.cancellation import checkpoint, controlled, seconds_left
from autocompress.errors import OutOfTime, TrialError


def test_outside_nothing_stops_and_nobody_is_told() -> None:
    checkpoint("anything", 1, 2)
    assert seconds_left() == math.inf


def test_the_user_and_the_clock_both_stop_it() -> None:
    with controlled(lambda: True), pytest.raises(TrialError, match="stopped when the search was"):
        checkpoint()
    with controlled(deadline=time.perf_counter() - 1), pytest.raises(OutOfTime):
        checkpoint()
    checkpoint()


def test_what_is_around_still_holds_inside() -> None:
    told: list[tuple[str, int, int]] = []
    early = time.perf_counter() - 1
    with controlled(tell=lambda *step: told.append(step)):
        with controlled(lambda: False, time.perf_counter() + 100):
            checkpoint("calibrating", 3, 7)
            checkpoint()
        with controlled(deadline=early), controlled(deadline=early + 100), pytest.raises(OutOfTime):
            checkpoint()
        with controlled(lambda: True), controlled(lambda: False), pytest.raises(TrialError):
            checkpoint()
    assert told == [("calibrating", 3, 7)]
