"""What is tried first."""

from __future__ import annotations

import pytest

from autocompress.core.budget import Budget
from autocompress.core.layer import LayerTable
from autocompress.core.plan import Plan
from autocompress.hardware.profile import load_profile
from autocompress.search.samplers.initial_trials import initial_trials
from autocompress.search.samplers.make import make_sampler
from autocompress.space.projection import Projection
from autocompress.space.space import build_space
from autocompress.space.spec import load_space


@pytest.mark.parametrize("share", [0.95, 0.75, 0.55, 0.45])
def test_without_a_table_the_gentlest_uniform_plan_that_fits_comes_first(share: float, table: LayerTable) -> None:
    space = build_space(table, load_space("default"), load_profile("host"))
    whole = Projection(space, Budget(size_bytes=10**9))
    plan = space.decode(space.uniform(8), 0.0)
    bound = round(share * whole.estimate(plan)["size_bytes"])
    projection = Projection(space, Budget(size_bytes=bound))
    first = initial_trials(make_sampler("tpe", 0), projection, 24, [])
    tried = [projection.project(values) for _, values in first]

    def width(plan: Plan) -> int:
        return max(int(step.args["weight_bits"]) for step in plan.find("quantize").values())

    fitting = [bits for bits in space.weight_bits if bits < 16
               and whole.estimate(space.decode(space.uniform(bits)))["size_bytes"] <= bound * 0.995]
    assert not tried[0].squeeze and not tried[0].plan.find("prune")
    assert width(tried[0].plan) == max(fitting)
