"""The solver against brute force where that can be had, and inside every budget."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from autocompress.core.budget import Budget
from autocompress.core.layer import LayerTable
from autocompress.core.plan import Plan, Step
from autocompress.core.sensitivity import SensitivityTable
from autocompress.hardware.profile import load_profile
from autocompress.space.projection import Projection
from autocompress.space.solver.costs import ILLEGAL, METRICS, LayerCosts, LayerOption
from autocompress.space.solver.feasibility import FeasibilityCheck
from autocompress.space.solver.lagrangian import lagrangian_relaxation
from autocompress.space.solver.problem import Problem
from autocompress.space.solver.solver import Solver
from autocompress.space.space import KnobKey, Value, build_space
from autocompress.space.spec import load_space

BITS = (6, 5, 4, 3, 2)
KEEPS = {"a": (24, 16, 8), "c": (36, 24, 12)}


def _falling(draw: random.Random, options: tuple[int, ...], scale: float) -> dict[int, float]:
    sensitivities = sorted(draw.expovariate(1) * scale * (i + 1) ** 2 for i in range(len(options)))
    return dict(zip(options, sensitivities, strict=True))


def _damages(seed: int) -> SensitivityTable:
    draw = random.Random(seed)
    return SensitivityTable.read({"prune": {group: _falling(draw, keeps, 0.1) for group, keeps in KEEPS.items()},
                   "bits": {layer: _falling(draw, BITS, 0.02) for layer in ("a", "b", "c", "fc")}})


def _projection(table: LayerTable, space: str = "low-bit", profile: str = "host", **budget: float) -> Projection:
    return Projection(build_space(table, load_space(space), load_profile(profile)), Budget(**budget))  # type: ignore[arg-type]


def _share(projection: Projection, room: float) -> dict[str, float]:
    bounds = projection.bounds or {"size_bytes": projection.estimate(Plan())["size_bytes"]}
    return {metric: room * bound for metric, bound in bounds.items() if metric in METRICS}


@pytest.mark.parametrize(("size", "seed"), [(4000, 0), (6000, 1), (9000, 0), (12000, 1)])
def test_it_is_as_good_as_trying_everything(table: LayerTable, size: int, seed: int) -> None:
    projection, sensitivity_table = _projection(table, size_bytes=size), _damages(seed)
    solver = Solver(projection, sensitivity_table)
    solved = solver.solve()
    assert projection.fits(projection.space.decode(solved))
    least = float("inf")
    for a, c in itertools.product((32, *KEEPS["a"]), (48, *KEEPS["c"])):
        for bits in itertools.product(BITS, repeat=4):
            values = projection.space.uniform() | {("prune", "a"): 1 - a / 32, ("prune", "c"): 1 - c / 48}
            values |= {("bits", layer): b for layer, b in zip(("a", "b", "c", "fc"), bits, strict=True)}
            sensitivity = sum(solver.sensitivities(values).values())
            if sensitivity < least and projection.fits(projection.space.decode(values)):
                least = sensitivity
    assert sum(solver.sensitivities(solved).values()) <= 1.1 * least


@pytest.mark.parametrize("budget", [{"size_bytes": 8000}, {"macs": 200_000}, {"size_bytes": 9000, "macs": 300_000}])
@pytest.mark.parametrize("room", [1.0, 0.8])
def test_every_bound_is_kept(table: LayerTable, budget: dict[str, float], room: float) -> None:
    projection = _projection(table, **budget)
    plan = projection.space.decode(Solver(projection, _damages(0)).solve(bounds=_share(projection, room)))
    metrics = projection.estimate(plan)
    assert all(metrics[name] <= room * bound for name, bound in budget.items())
    assert plan.steps


def test_a_latency_bound_is_solved_where_latency_is_estimated(table: LayerTable) -> None:
    whole = _projection(table, "default", "raspberry-pi-4", size_bytes=1e9)
    bound = 0.8 * whole.estimate(Plan())["latency_ms"]
    projection = _projection(table, "default", "raspberry-pi-4", latency_ms=bound)
    plan = projection.space.decode(Solver(projection, _damages(0)).solve())
    assert projection.estimate(plan)["latency_ms"] <= bound


def test_what_was_learned_elsewhere_does_not_hide_plans_that_fit(table: LayerTable) -> None:
    projection = _projection(table, size_bytes=8000, macs=300_000)
    problem = Problem(projection.space, _damages(0))
    problem.weigh({}, set(problem.fixed_bytes))

    def inside() -> FeasibilityCheck:
        return FeasibilityCheck(projection, problem, projection.bounds, {})

    too_much, one_sided = inside(), inside()
    too_much._rest = np.array([*projection.bounds.values()])  # as if all of it went into what is not counted
    one_sided.multipliers["size_bytes"] *= 1e-40
    for learned in (too_much, one_sided):
        solution = lagrangian_relaxation(problem, learned, problem.least_compressed())
        assert solution is not None and learned.fits(solution)


def test_the_untouched_plan_when_it_fits_and_the_smallest_when_nothing_does(table: LayerTable) -> None:
    roomy = _projection(table, "default", size_bytes=10**7)
    assert roomy.space.decode(Solver(roomy, _damages(0)).solve()).find("prune") == {}
    tight = _projection(table, size_bytes=100)
    plan = tight.space.decode(Solver(tight, _damages(0)).solve())
    assert tight.estimate(plan)["size_bytes"] < 5000


def test_weights_move_harm_from_one_kind_to_another(table: LayerTable) -> None:
    projection, sensitivity_table = _projection(table, size_bytes=8000), _damages(0)
    solver = Solver(projection, sensitivity_table)

    def sensitivity(technique: str, weight: float) -> float:
        sensitivities = solver.sensitivities(solver.solve({"prune": weight}))
        return sum(nats for (name, _), nats in sensitivities.items() if name == technique)

    assert sensitivity("prune", 0.01) > sensitivity("prune", 100.0)
    assert sensitivity("quantize", 0.01) < sensitivity("quantize", 100.0)


@pytest.mark.parametrize("metrics", [("size_bytes",), ("size_bytes", "macs")])
def test_proposals_are_hardly_worse_than_solutions(table: LayerTable, metrics: tuple[str, ...]) -> None:
    solver = Solver(_projection(table, size_bytes=9000), _damages(0))
    whole = solver.estimate(solver.solve())
    bounds = {metric: 0.9 * whole[metric] for metric in metrics}
    for _ in range(3):  # the first learns the prices, the others use them
        proposed = solver.propose({}, bounds)
        assert all(solver.estimate(proposed)[metric] <= bound for metric, bound in bounds.items())
        assert sum(solver.sensitivities(proposed).values()) <= 1.3 * sum(
            solver.sensitivities(solver.solve({}, bounds)).values()
        )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", [5000, 9000, 12000])
def test_a_setting_is_moved_into_the_budget_along_the_lagrangian_relaxationful_moves(table: LayerTable, size: int,
                                                                         seed: int) -> None:
    projection, draw = _projection(table, size_bytes=size), random.Random(seed)
    solver, space = Solver(projection, _damages(1)), projection.space
    values = {knob.key: draw.choice(knob.choices) if knob.choices else draw.uniform(knob.low, knob.high)
              for knob in space.knobs}
    values |= {KnobKey("prune", "a"): 1 - draw.choice((32, *KEEPS["a"])) / 32,
               KnobKey("prune", "c"): 1 - draw.choice((48, *KEEPS["c"])) / 48}
    moved = solver.fit(values)
    assert projection.fits(space.decode(moved))
    if projection.fits(space.decode(values)):
        assert sum(solver.sensitivities(moved).values()) <= sum(solver.sensitivities(values).values())
    elif size >= 9000:  # below, the tables that unpack widths weigh more than layers
        bits = [key for key in values if key.kind == "bits"]
        assert all(int(moved[name]) <= int(values[name]) for name in bits)
        squeezed = projection.project(values).plan
        channels = {group.name: group.channels for group in table.groups}
        common = values | {("prune", site): 1 - int(step.args["keep"]) / channels[site]
                           for site, step in squeezed.find("prune").items()}
        common |= {("bits", site): int(step.args["weight_bits"]) for site, step in squeezed.find("quantize").items()}
        assert sum(solver.sensitivities(moved).values()) <= 1.05 * sum(solver.sensitivities(common).values())


def test_what_is_not_decided_stays_as_given(table: LayerTable) -> None:
    projection = _projection(table, "all", size_bytes=8000)
    solver, values = Solver(projection, _damages(0)), projection.space.uniform()
    values |= {("pattern", "c"): "2:4", ("grid", "*"): "codebook"}
    for solution in (solver.fit(values), solver.solve(fixed={("pattern", "c"): "2:4", ("grid", "*"): "codebook"})):
        assert (solution[("pattern", "c")], solution[("grid", "*")]) == ("2:4", "codebook")
        assert projection.fits(projection.space.decode(solution))


def test_without_a_bound_the_original_is_the_measure(table: LayerTable) -> None:
    projection = _projection(table, max_drop=0.01)
    plan = projection.space.decode(Solver(projection, _damages(0)).solve(bounds=_share(projection, 0.3)))
    assert projection.estimate(plan)["size_bytes"] <= 0.3 * projection.estimate(Plan())["size_bytes"]


def test_a_table_without_options_leaves_what_it_does_not_know(table: LayerTable) -> None:
    projection = _projection(table, size_bytes=20_000)
    assert Solver(projection, SensitivityTable()).solve()[("prune", "a")] == 0


@pytest.mark.parametrize("name", ["a", "c", "fc"])
def test_costs_of_options_add_up_to_the_estimate(table: LayerTable, name: str) -> None:
    """What a layer's width changes is what the whole network's estimate changes by."""
    projection, layer = _projection(table, "default", size_bytes=10**7), table.by_name[name]
    costs = LayerCosts(layer, [LayerOption((), 8), LayerOption((), 16)], projection.space, 8)
    base, plan = Plan(), Plan.of([Step(name, "quantize", {"weight_bits": 16, "activation_bits": 32})])
    saved = projection.estimate(base)["size_bytes"] - projection.estimate(plan)["size_bytes"]
    at = costs.at(layer.in_channels, layer.out_channels)
    whole = LayerCosts(layer, [LayerOption(())], projection.space, 8).at(layer.in_channels, layer.out_channels)
    assert whole[0, 0] - at[1, 0] == pytest.approx(saved, abs=0.02 * saved + 40)
    assert (at < ILLEGAL).all() and at.shape == (2, len(METRICS))


def test_factors_that_save_nothing_are_never_chosen(table: LayerTable) -> None:
    layer = table.by_name["c"]
    options = [LayerOption(()), LayerOption((("decompose", ("svd", 0.6)),))]
    costs = LayerCosts(layer, options, _projection(table, "default").space, 32)
    assert np.isfinite(costs.at(1, 1)).all()
    assert costs.at(1, 1)[1, 0] == ILLEGAL


def test_harm_never_falls_as_an_option_gets_smaller() -> None:
    step = Step("x", "quantize", {"weight_bits": 8, "activation_bits": 32})
    noisy = {8: 0.2, 4: 0.1, 2: 0.3}
    table = SensitivityTable.of((Step("x", "quantize", {**step.args, "weight_bits": bits}), (bits,), sensitivity)
                       for bits, sensitivity in noisy.items())
    assert table.costs("quantize", "x") == {(8,): 0.2, (4,): 0.2, (2,): 0.3}
    assert SensitivityTable.read(table.document()) == table


def _drawn(solver: Solver, seed: int) -> dict[str, Value]:
    draw = random.Random(seed)
    return {knob.key: draw.choice(knob.choices) if knob.choices else draw.uniform(knob.low, knob.high)
            for knob in solver.space.knobs}


@pytest.mark.parametrize("budget", [{}, {"size_bytes": 10**7}, {"macs": 10**9}])
def test_where_nothing_binds_settings_stay_apart(table: LayerTable, budget: dict[str, float]) -> None:
    """Moved up to a budget that the original meets they would all become the original."""
    solver = Solver(_projection(table, **budget), _damages(0))
    drawn = [_drawn(solver, seed) for seed in range(4)]
    moved = [solver.fit(values) for values in drawn]
    for values, solution in zip(drawn, moved, strict=True):
        size, before = (solver.estimate(v)["size_bytes"] for v in (solution, values))
        assert size == pytest.approx(before, rel=0.15), "but for the numbers of the table"
    assert len({solver.space.decode(solution).fingerprint for solution in moved}) >= 3


def test_a_bound_of_another_metric_lets_no_width_grow(table: LayerTable) -> None:
    projection = _projection(table, macs=300_000)
    solver = Solver(projection, _damages(0))
    for seed in range(4):
        values = _drawn(solver, seed)
        solution = solver.fit(values)
        assert projection.fits(solver.space.decode(solution))
        assert solver.estimate(solution)["size_bytes"] <= 1.15 * solver.estimate(values)["size_bytes"]
