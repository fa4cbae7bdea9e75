"""The engine on the way that it is meant to go."""

from __future__ import annotations

import pytest
from engine_bench import SIZE, Bench

from autocompress.core.layer import LayerTable
from autocompress.errors import InputError
from autocompress.search.efforts import Schedule
from autocompress.search.samplers.make import make_sampler


def test_every_plan_is_inside_the_budget_and_every_trial_is_stored(table: LayerTable) -> None:
    bench = Bench(table)
    everyone = bench.run()
    assert [c.trial for c in everyone] == list(range(8))
    assert {c.status for c in everyone} <= {"complete", "duplicate"}
    assert all(c.metrics["size_bytes"] <= SIZE for c in everyone)
    results = [e for e in bench.events if e.kind == "result"]
    assert [e.done for e in results[:8]] == list(range(1, 9))
    assert results[-1].best is not None


def test_uniform_plans_come_first_and_are_uniform(table: LayerTable) -> None:
    everyone = Bench(table).run()
    uniform = [c for c in everyone if c.origin == "uniform"]
    assert [c.trial for c in uniform] == [0, 1, 2, 3]
    widths = []
    for candidate in uniform:
        assert candidate.plan is not None
        (width,) = {step.args["weight_bits"] for step in candidate.plan.find("quantize").values()}
        widths.append(width)
    assert widths[1:] == [4, 3, 2] and widths[0] > 4, "the gentlest that fits, then those that are always tried"


def test_promotion_goes_up_the_ladder_and_keeps_a_uniform_baseline(table: LayerTable) -> None:
    bench = Bench(table, trials=10, schedule=Schedule(short=4, long=2))
    everyone = bench.run()
    rungs = [rung for _, rung in bench.fake.calls]
    assert rungs == sorted(rungs)
    assert (rungs.count(1), rungs.count(2)) == (4, 2)
    short = [c for c in everyone if (c.rung or 0) >= 1]
    assert sum(c.origin == "uniform" for c in short) >= 2
    assert all([e.rung for e in c.evaluations] == list(range(len(c.evaluations))) for c in everyone)
    promoted = [c for c in everyone if c.rung == 2]
    assert min(c.evaluations[1].metrics["accuracy"] for c in promoted) >= max(
        c.metrics["accuracy"] for c in short if c.rung == 1)


def test_those_who_are_compared_get_equal_time_and_the_last_one_most_of_it(table: LayerTable) -> None:
    bench = Bench(table, trials=10, schedule=Schedule(short=4, long=1), seconds=1000.0)
    bench.run()
    assert set(bench.fake.slices[0]) == {None}
    short, (long,) = bench.fake.slices[1], bench.fake.slices[2]
    assert len(short) == 4 and len(set(short)) == 1
    assert short[0] is not None and long is not None
    assert long > 600 and sum(s or 0 for s in short) + long < 1400, "short runs ended early; long gets all that is left"


def test_equal_plans_are_evaluated_once(table: LayerTable) -> None:
    """Fault 22: a space in which nothing but one width is left repeats itself."""
    bench = Bench(table, space="int8", size_bytes=4000, trials=12)
    everyone = bench.run()
    again = [c for c in everyone if c.status == "duplicate"]
    assert again
    for candidate in again:
        assert candidate.duplicate_of is not None
        twin = everyone[candidate.duplicate_of]
        assert candidate.plan == twin.plan
        assert candidate.metrics == twin.evaluations[0].metrics
        assert candidate.reason == f"same plan as trial {twin.trial}"
        assert len(candidate.evaluations) == 1
    calibrated = [plan for plan, rung in bench.fake.calls if rung == 0]
    assert len(calibrated) == len(set(calibrated)) == len(everyone) - len(again)


def test_training_may_mend_accuracy(table: LayerTable) -> None:
    bench = Bench(table, max_drop=0.3, damage=lambda call, m: m | {"accuracy": 0.5 if call <= 8 else 0.9})
    everyone = bench.run()
    assert {c.status for c in everyone if (c.rung or 0) >= 1} == {"complete"}


def test_another_seed_is_another_search(table: LayerTable) -> None:
    assert Bench(table, seed=2).run() != Bench(table, seed=1).run()


def test_a_finished_search_has_nothing_left_to_do(table: LayerTable) -> None:
    """Fault 33."""
    bench = Bench(table)
    first = bench.run()
    again = Bench(table, study=bench.study)
    assert again.run() == first
    assert again.fake.calls == []


def test_stopping_leaves_the_rest_undone(table: LayerTable) -> None:
    bench = Bench(table, trials=20)
    bench.engine._should_stop = lambda: len(bench.fake.calls) >= 3
    everyone = bench.run()
    assert len(bench.fake.calls) == 3
    assert len([c for c in everyone if c.evaluations and c.status != "duplicate"]) == 3


def test_samplers_by_name() -> None:
    with pytest.raises(InputError, match="did you mean 'tpe'"):
        make_sampler("tpee", 0)
