"""What is known of a running search from its events."""

from __future__ import annotations

from autocompress.search.engine import Event
from autocompress.search.search_state import SearchState


def test_steps_of_which_the_number_is_not_known_stand_alone() -> None:
    state = SearchState()
    state.update(Event(kind="progress", text="training, 40s left, step", done=85))
    assert state.step == "training, 40s left, step 85"
    state.update(Event(kind="progress", text="training", done=85, total=90))
    assert state.step == "training 85/90"
