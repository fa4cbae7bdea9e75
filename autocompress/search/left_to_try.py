"""Whether a stored search has candidates left to try: new ones, or promotions."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from autocompress.core.budget import Budget
from autocompress.core.evaluation import LONG, SHORT, Candidate
from autocompress.core.metric import Reference
from autocompress.search.efforts import Schedule
from autocompress.search.fidelity import promote
from autocompress.search.storage import closed_trials

# Proposals in a row that repeat known plans, after which the space counts as used up.
MAX_REPEATS = 20


def repeats(candidates: Sequence[Candidate]) -> int:
    """Count the last trials in a row that repeat known plans."""
    return len(list(itertools.takewhile(lambda c: c.status == "duplicate", reversed(candidates))))


def is_any_left(candidates: Sequence[Candidate], failures: Mapping[tuple[int, int], str], budget: Budget,
                reference: Reference, trials: int, schedule: Schedule) -> bool:
    """Tell whether a search that has all the time it needs would evaluate anything.

    Args:
        candidates: all of the study, judged, in order of number; none of them is running.
        failures: why candidates failed above their calibration, by trial and rung.
        budget: the bounds.
        reference: the task's metric with the original's value.
        trials: how many the search tries.
        schedule: the places of each rung.
    """
    if closed_trials(candidates) < trials and repeats(candidates) < MAX_REPEATS:
        return True
    return any(promote(candidates, budget, reference, rung, places, [trial for trial, at in failures if at == rung])
               for rung, places in ((SHORT, schedule.short), (LONG, schedule.long)))
