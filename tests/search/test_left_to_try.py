"""What a stored search has left to try is what a resumed one tries."""

from __future__ import annotations

import pytest
from engine_bench import BASELINE, Bench

from autocompress.core.evaluation import Candidate
from autocompress.core.layer import LayerTable
from autocompress.errors import OutOfTime, TrialError
from autocompress.search.efforts import Schedule
from autocompress.search.left_to_try import is_any_left
from autocompress.search.storage import failures

TRIALS, SCHEDULE = 8, Schedule(short=3, long=1)


def _is_any_left(bench: Bench, everyone: list[Candidate], trials: int = TRIALS) -> bool:
    return is_any_left(everyone, failures(bench.study), bench.budget, BASELINE, trials, SCHEDULE)


@pytest.mark.parametrize("moment", [2, 8, 9, 11, 12, 13])
def test_what_the_clock_left_out_is_tried_and_nothing_else(table: LayerTable, moment: int) -> None:
    """Eight calibrations, three short trainings, a long one: the time is up in the middle of one of these, or after."""
    def damage(call: int, metrics: dict[str, float]) -> dict[str, float]:
        if call >= moment:
            raise OutOfTime("the time was up")
        return metrics

    first = Bench(table, trials=TRIALS, schedule=SCHEDULE, damage=damage)
    is_left = _is_any_left(first, first.run())
    again = Bench(table, trials=TRIALS, schedule=SCHEDULE, study=first.study)
    everyone = again.run()
    assert is_left == bool(again.fake.calls) == (moment < 13)
    assert not _is_any_left(again, everyone) and _is_any_left(again, everyone, TRIALS + 1)


def test_what_failed_is_not_left(table: LayerTable) -> None:
    def damage(call: int, metrics: dict[str, float]) -> dict[str, float]:
        if bench.fake.calls[-1][1] > 0:
            raise TrialError("nan: the loss is not finite")
        return metrics

    bench = Bench(table, trials=TRIALS, schedule=SCHEDULE, damage=damage)
    assert not _is_any_left(bench, bench.run())


def test_a_space_that_is_used_up_leaves_nothing(table: LayerTable) -> None:
    bench = Bench(table, space="int8", size_bytes=4000, trials=10_000, schedule=SCHEDULE)
    assert not _is_any_left(bench, bench.run(), 10_000)
