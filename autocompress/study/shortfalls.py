"""Shortfalls: sentences about what a search with a result did not reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autocompress.core.evaluation import LONG, RUNG_NAMES, SHORT, Candidate


def shortfalls(everyone: Sequence[Candidate], failures: Mapping[tuple[int, int], str], time_is_up: bool) -> list[str]:
    """A sentence for each rung that was tried and that no candidate reached, with a reason for that; and one where the
    time was up before anything could be trained. `failures`: reasons by trial and rung."""
    reached = max((c.reached for c in everyone if c.reached is not None), default=0)
    sentences = []
    for rung in (SHORT, LONG):
        reasons = [reason for (_, failed), reason in sorted(failures.items()) if failed == rung]
        if reasons and reached < rung:
            sentences.append(f"none of {len(reasons)} candidates could be {RUNG_NAMES[rung]}, so that what they "
                             f"reached before stands; the first failed with: {reasons[0]}")
    if time_is_up and reached < SHORT and not sentences:
        scored = sum(bool(c.evaluations) and c.duplicate_of is None for c in everyone)
        sentences.append(f"the time limit ended before anything could be trained: the best of {scored} calibrated "
                         f"{'candidate' if scored == 1 else 'candidates'} stands; more time would give a better one")
    return sentences


def slower(artifact: Mapping[str, Any] | None) -> list[str]:
    """A sentence where the exported file was slower than the original when both were timed in turn."""
    speedup = (artifact or {}).get("speedup")
    if not speedup or speedup["high"] >= 1:
        return []
    return [f"the exported file is {1 / speedup['factor']:.2f} times slower than the original on this machine: a bound "
            "on --latency, or a space with float activations, finds files that are not"]
