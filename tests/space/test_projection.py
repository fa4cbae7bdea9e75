"""Projection: into the budget, by as little as it takes."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.core.budget import Budget
from autocompress.core.layer import Layer, LayerTable
from autocompress.core.plan import Plan
from autocompress.errors import InfeasibleError
from autocompress.hardware.profile import load_profile
from autocompress.space.projection import MARGIN, STEPS, Projection
from autocompress.space.space import Space, build_space
from autocompress.space.spec import list_spaces, load_space
from autocompress.techniques.apply import check_plan

HOST = load_profile("host")


def _space(table: LayerTable, name: str) -> Space:
    return build_space(table, load_space(name), HOST)


def _values(space: Space, data: st.DataObject) -> dict[str, Any]:
    return {knob.key: data.draw(st.sampled_from(knob.choices) if knob.choices else st.floats(knob.low, knob.high))
            for knob in space.knobs}


@pytest.mark.parametrize("name", list_spaces())
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_never_above_the_budget_and_no_step_further_than_needed(table: LayerTable, name: str,
                                                               data: st.DataObject) -> None:
    space = _space(table, name)
    bounds = {"size_bytes": data.draw(st.integers(1_000, 90_000)),
              "macs": data.draw(st.none() | st.integers(50_000, 3_000_000)),
              "peak_memory_bytes": data.draw(st.none() | st.integers(5_000, 80_000))}
    projection = Projection(space, Budget(**bounds))
    values = _values(space, data)
    try:
        projection.require_feasible()
        got = projection.project(values)
    except InfeasibleError as error:
        assert re.search("must be at most|meets them together", str(error))
        assert not any(map(projection.fits, projection.extremes))
        return
    check_plan(table, got.plan, HOST)
    for bound, limit in bounds.items():
        if limit is not None:
            assert got.metrics[bound] <= limit * MARGIN
    whole = space.decode(values)
    if projection.fits(whole):
        assert got.plan == whole
        assert (got.squeeze, got.bits_cap) == (0.0, 32)
    if got.plan in projection.extremes:
        return  # nothing else fits
    assert got.plan == space.decode(values, got.squeeze, got.bits_cap)
    if got.squeeze > 0:
        assert not projection.fits(space.decode(values, got.squeeze - 1 / STEPS, got.bits_cap))
    if got.bits_cap < 32:
        looser = min((b for b in (32, *space.weight_bits) if b > got.bits_cap), default=32)
        assert not projection.fits(space.decode(values, 1.0, looser))


def test_the_smallest_plan_is_legal_and_reported_when_it_does_not_fit(table: LayerTable) -> None:
    space = _space(table, "low-bit")
    projection = Projection(space, Budget(size_bytes=1000))
    least = projection.estimate(projection.smallest())["size_bytes"]
    with pytest.raises(InfeasibleError) as caught:
        projection.require_feasible()
    text = str(caught.value)
    assert "size must be at most 1.00 kB" in text
    assert f"({least:.0f} bytes)" in text
    assert "on host" in text
    assert "Raise the bound" in text
    with pytest.raises(InfeasibleError):
        projection.project(space.uniform(2))
    Projection(space, Budget(size_bytes=int(least / MARGIN) + 2)).require_feasible()


def test_all_bounds_that_fail_are_named(table: LayerTable) -> None:
    with pytest.raises(InfeasibleError, match=r"size must be.*MACs must be.*peak memory must be"):
        Projection(_space(table, "prune-only"),
                   Budget(size_bytes=10, macs=10, peak_memory_bytes=10)).require_feasible()


def test_bounds_that_exclude_each_other_are_told_before_the_search(table: LayerTable) -> None:
    space = _space(table, "default")
    free = Projection(space, Budget(size_bytes=10**9, macs=10**9))
    least = {name: min(free.estimate(plan)[name] for plan in free.extremes) for name in ("size_bytes", "macs")}
    budget = Budget(size_bytes=int(least["size_bytes"] / MARGIN) + 2, macs=int(least["macs"] / MARGIN) + 2)
    projection = Projection(space, budget)
    assert not any(map(projection.fits, projection.extremes))
    for attempt in (projection.require_feasible, lambda: projection.project(space.uniform(2))):
        with pytest.raises(InfeasibleError, match=r"size of .* and MACs of .* can each be met .* together"):
            attempt()


def test_a_device_with_little_memory_bounds_without_being_asked(table: LayerTable) -> None:
    space = build_space(table, load_space("int8"), load_profile("stm32h743"))
    projection = Projection(space, Budget())
    assert projection.bounds["size_bytes"] == pytest.approx(2 * 2**20 * MARGIN, rel=0.5)
    assert projection.bounds["peak_memory_bytes"] > 0


def test_an_unbounded_plan_is_left_alone(table: LayerTable) -> None:
    space = _space(table, "default")
    got = Projection(space, Budget()).project(space.uniform(8))
    assert got.squeeze == 0.0
    assert got.plan == space.decode(space.uniform(8))
    assert Plan().fingerprint != got.plan.fingerprint


def test_layers_that_stay_whole_are_named_where_a_budget_cannot_be_met() -> None:
    layers = (Layer(name="own", kind="other", params=9_000, not_compressible_reason="no technique for Own"),
              Layer(name="open", kind="linear", in_channels=40, out_channels=50, params=2_050, bias=True,
                    in_shape=(40,), out_shape=(50,)),
              Layer(name="small", kind="other", params=4, not_compressible_reason="no technique for LayerNorm"))
    space = _space(LayerTable(input_shape=(40,), outputs=50, layers=layers, skeleton_bytes=500), "default")
    with pytest.raises(InfeasibleError, match=r"of weights 36\.00 kB stay as they are: own \(36\.00 kB: no technique "
                                              r"for Own\)\. They can be compressed once") as caught:
        Projection(space, Budget(size_bytes=30_000)).require_feasible()
    assert "LayerNorm" not in str(caught.value)
    with pytest.raises(InfeasibleError) as caught:
        Projection(_space(LayerTable(input_shape=(40,), outputs=50, layers=layers[1:], skeleton_bytes=500), "default"),
                   Budget(size_bytes=300)).require_feasible()
    assert "stay as they are" not in str(caught.value)
