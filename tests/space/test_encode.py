"""From a plan back to knobs: exactly where the space can say the plan, near it where it cannot."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.core.layer import LayerTable
from autocompress.core.plan import Plan, Step
from autocompress.hardware.profile import load_profile
from autocompress.space.encode import encode
from autocompress.space.space import build_space
from autocompress.space.spec import list_spaces, load_space
from autocompress.techniques.apply import check_plan

HOST = load_profile("host")


@pytest.mark.parametrize("name", list_spaces())
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_a_plan_of_the_space_comes_back(table: LayerTable, name: str, data: st.DataObject) -> None:
    space = build_space(table, load_space(name), HOST)
    values = {knob.key: data.draw(st.sampled_from(knob.choices) if knob.choices else st.floats(knob.low, knob.high))
              for knob in space.knobs}
    squeeze, cap = data.draw(st.sampled_from((0.0, 0.3, 1.0))), data.draw(st.sampled_from((32, 4)))
    plan = space.decode(values, squeeze, cap)
    assert space.decode(encode(space, plan)) == plan


def test_what_the_space_cannot_say_becomes_what_is_near(table: LayerTable) -> None:
    plan = Plan.of([
        Step("a", "prune", {"keep": 4}), Step("c", "decompose", {"method": "cp", "rank": 4}),
        Step("fc", "quantize", {"weight_bits": 2, "activation_bits": 16}),
        Step("b", "sparsify", {"pattern": "unstructured", "density": 0.3})])
    space = build_space(table, load_space("int8"), load_profile("stm32h743"))
    values = encode(space, plan)
    assert set(values) == set(space.by_key)
    for knob in space.knobs:
        assert values[knob.key] in knob.choices if knob.choices else knob.low <= values[knob.key] <= knob.high
    near = space.decode(values)
    check_plan(table, near, load_profile("stm32h743"))
    assert {step.args["weight_bits"] for step in near.find("quantize").values()} == {8}
