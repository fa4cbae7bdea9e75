"""Predicted sensitivity of a plan agrees with what the solver predicts of the setting that it was decoded from."""

from __future__ import annotations

import pytest

from autocompress.core.budget import Budget
from autocompress.core.layer import LayerTable
from autocompress.core.plan import Plan, Step
from autocompress.core.sensitivity import SensitivityTable
from autocompress.hardware.profile import load_profile
from autocompress.space.plan_sensitivity import plan_sensitivity, step_sensitivities
from autocompress.space.projection import Projection
from autocompress.space.solver.solver import Solver
from autocompress.space.space import Space, build_space
from autocompress.space.spec import load_space

DAMAGES = SensitivityTable.read({"prune": {"a": {24: 0.01, 16: 0.05, 8: 0.3}, "c": {36: 0.02, 24: 0.1, 12: 0.5}},
                  "bits": {layer: {6: 0.001, 5: 0.002, 4: 0.006, 3: 0.02, 2: 0.2} for layer in ("a", "b", "c", "fc")},
                  "share": {"c": {"channel-svd": {0.6: 0.03, 0.25: 0.2}, "tucker2": {0.4: 0.07}}}})


def _space(table: LayerTable, name: str) -> Space:
    return build_space(table, load_space(name), load_profile("host"))


@pytest.mark.parametrize("size", [4000, 8000, 12000])
def test_the_solver_and_the_plan_tell_the_same_harm(table: LayerTable, size: int) -> None:
    space = _space(table, "low-bit")
    solver = Solver(Projection(space, Budget(size_bytes=size)), DAMAGES)
    values = solver.solve()
    assert plan_sensitivity(space, space.decode(values), DAMAGES) == pytest.approx(
        sum(solver.sensitivities(values).values())
    )


def test_each_step_has_the_harm_of_the_nearest_option(table: LayerTable) -> None:
    plan = Plan.of([
        Step("a", "prune", {"keep": 21}), Step("c", "decompose", {"method": "tucker2", "rank_in": 8, "rank_out": 8}),
        Step("c", "quantize", {"weight_bits": 3, "activation_bits": 8}),
        Step("fc", "quantize", {"weight_bits": 16, "activation_bits": 32}),
        Step("fc", "sparsify", {"pattern": "2:4"})])
    space = _space(table, "all")
    assert step_sensitivities(space, plan, DAMAGES) == {
        ("prune", "a"): 0.01, ("decompose", "c"): 0.07, ("quantize", "c"): 0.02, ("quantize", "fc"): 0.0,
        ("sparsify", "fc"): None}
    assert plan_sensitivity(space, plan, DAMAGES) is None, "no table knows what zeros do"
    without_sparsity = Plan(tuple(step for step in plan.steps if step.technique != "sparsify"))
    assert plan_sensitivity(space, without_sparsity, DAMAGES) == pytest.approx(0.1)
    assert plan_sensitivity(space, Plan(), DAMAGES) == 0


def test_the_nearest_factors_are_those_of_the_nearest_size(table: LayerTable) -> None:
    space = _space(table, "low-rank")
    for share, sensitivity in ((0.6, 0.03), (0.55, 0.03), (0.28, 0.2), (0.25, 0.2)):
        values = space.uniform() | {("method", "c"): "channel-svd", ("share", "c"): share}
        assert step_sensitivities(space, space.decode(values), DAMAGES)["decompose", "c"] == sensitivity
