"""Spaces, projection and solver for several devices: legal on each, inside every bound."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.core.budget import Budget
from autocompress.core.layer import LayerTable
from autocompress.core.plan import Plan, Step
from autocompress.core.sensitivity import SensitivityTable
from autocompress.errors import InfeasibleError, InputError
from autocompress.estimate import estimate
from autocompress.hardware.profile import HardwareProfile, load_profile
from autocompress.hardware.targets import together
from autocompress.space.projection import Projection
from autocompress.space.solver.costs import LayerCosts, LayerOption, additive_metrics
from autocompress.space.solver.solver import Solver
from autocompress.space.space import Space, build_space
from autocompress.space.spec import load_space
from autocompress.techniques.apply import check_plan

PI, BOARD, SERVER = load_profile("raspberry-pi-4"), load_profile("stm32h743"), load_profile("x86-avx2")


def _space(table: LayerTable, *devices: HardwareProfile, name: str = "default") -> Space:
    return build_space(table, load_space(name), together(devices))


def _values(space: Space, data: st.DataObject) -> dict[str, Any]:
    return {knob.key: data.draw(st.sampled_from(knob.choices) if knob.choices else st.floats(knob.low, knob.high))
            for knob in space.knobs}


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_every_plan_is_legal_on_each_device(table: LayerTable, data: st.DataObject) -> None:
    odd = msgspec.structs.replace(SERVER, id="odd", weight_bits=(8, 16), channel_multiple={8: 6, 16: 6},
                                  rank_multiple=3)
    space = _space(table, PI, odd)
    assert space.weight_bits == (8, 16)
    plan = space.decode(_values(space, data))
    for device in (PI, odd, space.profile):
        check_plan(table, plan, device)
    for step in plan.find("decompose").values():
        assert all(rank % 12 == 0 or rank < 24 for name, rank in step.args.items() if name.startswith("rank"))


def test_widths_that_a_space_asks_for_must_be_legal_on_each(table: LayerTable) -> None:
    with pytest.raises(InputError, match="on raspberry-pi-4 and stm32h743, but the space asks for"):
        _space(table, PI, BOARD, name="low-bit")


def test_estimates_are_those_of_each_device(table: LayerTable) -> None:
    plan = Plan.of([Step("c", "quantize", {"weight_bits": 8, "activation_bits": 8})])
    both = estimate(table, plan, together([PI, BOARD]))
    assert both["latency_ms"] == estimate(table, plan, PI)["latency_ms"]
    assert both["latency_ms@stm32h743"] == estimate(table, plan, BOARD)["latency_ms"]
    measured = estimate(table, plan, together([BOARD, load_profile("host")]))
    assert "latency_ms@host" not in measured and measured["latency_ms"] == both["latency_ms@stm32h743"]


def _bounds(space: Space, shares: dict[str, float]) -> Budget:
    whole = Projection(space, Budget()).estimate(Plan())
    pi, board = whole["latency_ms"] * shares["pi"], whole["latency_ms@stm32h743"] * shares["board"]
    return Budget(latency_ms=pi, further_latency_ms={"stm32h743": board})


@settings(deadline=None, max_examples=25)
@given(data=st.data(), shares=st.fixed_dictionaries({"pi": st.floats(0.2, 1.2), "board": st.floats(0.2, 1.2)}))
def test_what_is_projected_meets_the_bound_on_each(table: LayerTable, data: st.DataObject,
                                                   shares: dict[str, float]) -> None:
    space = _space(table, PI, BOARD)
    budget = _bounds(space, shares)
    projection = Projection(space, budget)
    assert {"latency_ms", "latency_ms@stm32h743"} <= set(projection.bounds)
    projected = projection.project(_values(space, data))
    assert budget.allows(projected.metrics)
    assert set(budget.excess(projected.metrics)) == {"latency_ms", "latency_ms@stm32h743"}


def _damages(space: Space) -> SensitivityTable:
    draw = random.Random(0)
    return SensitivityTable.read({"prune": {"a": {24: 0.1, 16: 0.3, 8: 0.9}, "c": {36: 0.1, 24: 0.2, 12: 0.7}},
                   "bits": {layer: {bits: draw.random() / bits for bits in space.weight_bits if bits < 16}
                         for layer in ("a", "b", "c", "fc")}})


@pytest.mark.parametrize(("shares", "tight"), [
    ({"pi": 2.0, "board": 0.5}, "latency_ms@stm32h743"), ({"pi": 0.25, "board": 2.0}, "latency_ms"),
    ({"pi": 0.4, "board": 0.15}, "latency_ms@stm32h743")])
def test_what_is_solved_meets_the_bound_on_each(table: LayerTable, shares: dict[str, float], tight: str) -> None:
    space = _space(table, PI, BOARD)
    projection = Projection(space, _bounds(space, shares))
    solver = Solver(projection, _damages(space))
    solved = solver.solve()
    plan = space.decode(solved)
    metrics = projection.estimate(plan)
    assert all(metrics[name] <= bound for name, bound in projection.bounds.items())
    assert plan.find("prune")
    assert metrics[tight] > 0.6 * projection.bounds[tight]
    assert sum(solver.sensitivities(solved).values()) < sum(solver.sensitivities(
        space.uniform() | {("prune", "a"): 0.75, ("prune", "c"): 0.75}).values())


def test_columns_of_costs_are_the_latencies_of_each(table: LayerTable) -> None:
    joint, layer = together([PI, load_profile("host"), BOARD]), table.by_name["c"]
    assert additive_metrics(joint) == ("size_bytes", "macs", "latency_ms", "latency_ms@host", "latency_ms@stm32h743")
    options = [LayerOption((), 8), LayerOption((("decompose", ("svd", 0.4)),), 8)]

    def costs(profile: HardwareProfile) -> np.ndarray:
        return LayerCosts(layer, options, build_space(table, load_space("default"), profile), 8).at(32, 48)

    both = costs(joint)
    for column, device in ((2, PI), (4, BOARD)):
        alone = msgspec.structs.replace(device, rank_multiple=joint.rank_multiple)
        assert np.array_equal(both[:, column], costs(alone)[:, 2])
    assert not both[:, 3].any()  # measured: unknown here


def test_what_cannot_be_reached_is_named_with_its_device(table: LayerTable) -> None:
    budget = Budget(further_latency_ms={"stm32h743": 1e-3})
    with pytest.raises(InfeasibleError, match=r"estimated latency on stm32h743 must be at most 0\.001 ms, but the "
                                              "smallest reachable on raspberry-pi-4 and stm32h743"):
        Projection(_space(table, PI, BOARD), budget).require_feasible()
    with pytest.raises(InfeasibleError, match="estimated latency on raspberry-pi-4 must be at most"):
        Projection(_space(table, PI, BOARD), Budget(latency_ms=1e-6)).require_feasible()


@pytest.mark.parametrize(("memory", "told"), [
    ("flash_bytes", r"size must be at most 500 B \(the flash of tiny that its runtime leaves\), but"),
    ("ram_bytes", r"peak memory must be at most 500 B \(the largest block of RAM of tiny that its runtime leaves\)")])
def test_the_memory_that_is_too_small_is_named(table: LayerTable, memory: str, told: str) -> None:
    tiny = msgspec.structs.replace(PI, id="tiny", **{memory: 500})
    projection = Projection(_space(table, BOARD, tiny), Budget(size_bytes=10**6))
    with pytest.raises(InfeasibleError, match=told):
        projection.require_feasible()
    alone = Projection(_space(table, tiny), Budget(size_bytes=10**6))
    with pytest.raises(InfeasibleError, match=told):
        alone.require_feasible()
    too_small = Projection(_space(table, PI), Budget(size_bytes=500, peak_memory_bytes=500))
    with pytest.raises(InfeasibleError, match=r"at most (?!.*the flash)(?!.*of RAM).*smallest reachable on raspberry"):
        too_small.require_feasible()
