"""The comparison of searchers: its measures, and that all are treated alike."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from autocompress.core.budget import Budget
from autocompress.core.plan import Plan
from autocompress.core.sensitivity import SensitivityTable
from autocompress.errors import TrialError
from autocompress.space.projection import Projection
from autocompress.testing.networks import NETWORKS

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "search"))
from arena import Arena, Run, _spread
from contenders import CONTENDERS, OURS, equal_damage
from measures import Box, Pick, Point, Results, Row, rising
from tables import section

BOX = Box(0.5, (100.0, 10_000.0), (1.0, 100.0))
CENTRE = Point(1.0, 0.75, 1000, 10.0)


def test_hypervolume_is_the_share_of_the_box_that_is_dominated() -> None:
    assert BOX.hypervolume([]) == 0
    assert BOX.hypervolume([CENTRE]) == pytest.approx(1 / 8)
    assert BOX.hypervolume([CENTRE, Point(2.0, 0.7, 2000, 20.0)]) == pytest.approx(1 / 8), "dominated"
    assert BOX.hypervolume([CENTRE, Point(2.0, 1.0, 1000, 101.0), Point(2.0, 0.4, 100, 1.0)]) == pytest.approx(1 / 8), \
        "worse than the reference in something"
    assert BOX.hypervolume([CENTRE, Point(2.0, 1.0, 1000, 31.6227766)]) == pytest.approx(1 / 8 + 1 / 16)
    assert BOX.hypervolume([Point(1.0, 1.0, 10, 0.1)]) == 1, "beyond the ideal is no more than the box"


def test_points_are_kept_when_they_raise_the_front() -> None:
    better = Point(2.0, 1.0, 1000, 10.0)
    kept = rising([CENTRE, Point(1.5, 0.7, 1000, 10.0), better, CENTRE], BOX)
    assert [(p.seconds, p.hypervolume) for p in kept] == [(1.0, pytest.approx(1 / 8)), (2.0, pytest.approx(1 / 4))]
    row = Row(OURS, 0, 4, 4, 0, 0, 3.0, 3.0, 0.0, 0.5, kept, [])
    assert [row.hypervolume(s) for s in (0.5, 1.0, 3.0)] == [0.0, pytest.approx(1 / 8), pytest.approx(1 / 4)]
    assert row.reached(0.2) == 2.0 and row.reached(0.3) == float("inf")


def test_a_path_is_spread_evenly_at_any_time() -> None:
    assert [_spread(number) for number in range(6)] == [1.0, 0.0, 0.5, 0.25, 0.75, 0.125]


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Arena:
    net = NETWORKS["residual"]
    torch.set_num_threads(1)
    return Arena(net.make(), net.data(), [20_000, 12_000], "default", 32, tmp_path_factory.mktemp("arena"))


def test_every_site_bears_as_much_as_any_other(arena: Arena) -> None:
    with arena.run(0, 60.0) as run:
        sensitivity_table = run.sensitivity_table()
        assert run.table_s > 0
        plans = [
            equal_damage(run.space, sensitivity_table, threshold) for threshold in (0.0, 1e-6, 1e-4, 1e-2, 1.0, 1e9)
        ]
        kept = [_numbers(plan, "prune", "keep") for plan in plans]
        bits = [_numbers(plan, "quantize", "weight_bits") for plan in plans]
        for wide, narrow in zip(kept + bits, kept[1:] + bits[1:], strict=False):
            if narrow:
                assert all(narrow.get(site, -1) <= number for site, number in wide.items())
        assert kept[0] == {} and all(sensitivity_table.entries.values())
        for technique, narrowest in (("prune", kept[-1]), ("quantize", bits[-1])):
            assert narrowest == {site: min(option[-1] for option in options)
                                 for (name, site), options in sensitivity_table.entries.items() if name == technique}
        untouched = equal_damage(run.space, SensitivityTable(), 1e9)
        assert untouched == run.space.decode(run.space.uniform())


def _numbers(plan: Plan, technique: str, name: str) -> dict[str, int]:
    return {site: int(step.args[name]) for site, step in plan.find(technique).items()}


def test_what_counts_is_new_inside_the_budget_in_time_and_no_failure(arena: Arena,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    with arena.run(0, 60.0) as run:
        small = Projection(run.space, Budget(size_bytes=12_000)).project(run.space.uniform(8)).plan
        metrics = run.attempt(small)
        assert metrics is not None and run.attempt(small) == metrics
        assert (len(run.evaluated), run.duplicates) == (1, 1)
        large = run.attempt(Plan())
        assert large is not None and large["size_bytes"] > 20_000
        assert len(run.evaluated) == 2 and [p.size_bytes for p in run.points] == [metrics["size_bytes"]]
        assert [run.best(size) is None for size in (12_000, 10)] == [False, True]
        with pytest.raises(ValueError, match="rung 1"):
            run.evaluate(small, 1)
        assert 0 <= run.trained(small, 0.2) <= 1 and run.bench.trainer.is_trained(small, 1)
        late = Run(run.bench, run.space, [20_000], arena.original, 0, 0.0)
        assert late.closed() and late.attempt(small) is not None
        assert (late.late, late.evaluated, late.points) == (1, {}, [])

        def failing(plan: Plan, *_: Any) -> Any:
            raise TrialError("nan: of course")

        monkeypatch.setattr(run.bench.evaluator, "evaluate", failing)
        monkeypatch.setattr(run, "closed", lambda: run.failed >= 3)
        CONTENDERS["random, projected"](run)
        assert (run.failed, len(run.evaluated)) == (3, 2)


@pytest.mark.parametrize("name", ["uniform", "NSGA-II", "random, sized", OURS])
def test_a_contender_uses_its_time_on_a_bench_of_its_own(name: str, arena: Arena) -> None:
    with arena.run(0, 60.0) as run:
        assert not [key for key in run.bench.store.keys("statistics") if "sensitivities-" in key], "nobody's table"
        assert run.bench.network.compressor._memo.bytes == 0, "nobody's layers"
        _closing_after(run, 3)
        CONTENDERS[name](run)
        assert 1 <= len(run.evaluated) <= 3
        assert all(point.size_bytes <= 20_000 for point in run.points)
        if name != "NSGA-II":
            assert len(run.points) == len(run.evaluated)
        assert (run.table_s > 0) == (name in (OURS, "random, sized")), "who moves along the table pays for it"


def _closing_after(run: Any, evaluations: int) -> None:
    """The clock, as if each evaluation and each proposal that is known already took its share of the time."""
    run.closed = lambda: len(run.evaluated) >= evaluations or run.duplicates >= 20


def test_the_table_says_how_ours_stands_to_the_best_other() -> None:
    def row(name: str, seed: int, hypervolume: float) -> Row:
        point = Point(4.0, 0.9, 39_000, 2.0, hypervolume)
        return Row(name, seed, 3, 2, 0, 0, 10.0, 8.0, 1.0, 0.5, [point], [Pick(40_000, 39_000, 0.9, 0.875)])

    results = Results("digits", "default", 32, 10.0, [40_000], {"accuracy": 1.0, "size_bytes": 1e5, "latency_ms": 3.0},
                      BOX, [row("uniform", 0, 0.5), row(OURS, 0, 0.5), row(OURS, 1, 0.6)])
    text = "\n".join(section(results))
    assert "| ours | 2 | 3 | 67 | 20 | 0.550 (0.500..0.600) | 87.5 (87.5..87.5) |" in text
    assert "| ours | 0.000 | 0.000 | 0.000 | 0.550 | 0.550 | 0.550 | 0.550 | 0.550 |" in text
    alone = BOX.hypervolume([Point(4.0, 0.9, 39_000, 2.0)])
    assert f"Of the files of all runs together: {alone:.3f}; of the 2 of ours {alone:.3f}, of the 1 of" in text
    assert "best other (uniform): 1.100 (1.000..1.200). 2 of 2 runs reach 0.500, after 4 (4..4) of 10 s" in text
    assert "--seeds 0 1" in text
