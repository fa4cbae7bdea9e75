"""The pure half: what is legal, why not, and what a step does to the facts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.core.layer import Part
from autocompress.core.plan import Plan, Step
from autocompress.errors import InputError
from autocompress.hardware.profile import load_profile
from autocompress.techniques import resolve, untouched
from autocompress.techniques.base import check_plan
from autocompress.techniques.decompose import METHODS, rank_args, split
from autocompress.testing.facts import small_table

TABLE = small_table()
HOST = load_profile("host")
SIZES = st.integers(1, 96)


@pytest.mark.parametrize(("site", "technique", "args", "message"), [
    ("b", "prune", {"keep": 8}, "must name a coupling group, but 'b' is none"),
    ("a", "prune", {"keep": 0}, "from 1 to 32 at a, but got 0"),
    ("a", "prune", {"keep": 33}, "from 1 to 32"),
    ("a", "prune", {"keep": 13}, "nearest legal value is 16"),
    ("ghost", "quantize", {"weight_bits": 8, "activation_bits": 8}, "'ghost' is none"),
    ("odd", "quantize", {"weight_bits": 8, "activation_bits": 8}, "no technique for LSTM"),
    ("a", "quantize", {"weight_bits": 9, "activation_bits": 8}, "but got 9 and 8"),
    ("a", "quantize", {"weight_bits": 16, "activation_bits": 8}, "set `activation_bits` to 32"),
    ("b", "decompose", {"method": "svd", "rank": 2}, "grouped convolutions are not decomposed"),
    ("a", "decompose", {"method": "svd", "rank": 2}, "`method` at a must be one of"),
    ("a", "decompose", {"method": "tucker2", "rank_in": 2, "rank_out": 0}, "`rank_out` at a"),
    ("fc", "decompose", {"method": "svd", "rank": "many"}, "`rank` at fc"),
    ("fc", "decompose", {"method": "svd", "rank": 30}, "svd at fc must leave fewer weights .*`rank` may be at most"),
    ("c", "decompose", {"method": "tucker2", "rank_in": 99, "rank_out": 2}, "`rank_in` at c may be at most 32"),
    ("a", "distort", {}, "a technique must be one of drop, prune, decompose, quantize, but got 'distort'"),
])
def test_a_step_that_is_not_legal_says_what_is(site: str, technique: str, args: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_plan(TABLE, Plan.of([Step(site, technique, args)]), HOST)


def test_widths_that_the_device_lacks_are_refused() -> None:
    plan = Plan.of([Step("a", "quantize", {"weight_bits": 3, "activation_bits": 8})])
    with pytest.raises(InputError, match="stm32h743"):
        check_plan(TABLE, plan, load_profile("stm32h743"))


def test_steps_apply_in_their_own_order_whatever_the_plan_says() -> None:
    steps = [Step("c", "quantize", {"weight_bits": 4, "activation_bits": 8}),
             Step("c", "decompose", {"method": "tucker2", "rank_in": 8, "rank_out": 8}),
             Step("c", "prune", {"keep": 24}), Step("a", "prune", {"keep": 16})]
    parts = resolve(TABLE, Plan(tuple(steps)))
    assert parts == resolve(TABLE, Plan.of(steps))
    assert [(p.in_channels, p.out_channels, p.kernel, p.weight_bits) for p in parts["c"]] == [
        (16, 8, (1, 1), 4), (8, 8, (3, 3), 4), (8, 24, (1, 1), 4)]
    assert [(p.reads, p.writes) for p in parts["c"]] == [
        ("before c", "c.0"), ("c.0", "c.1"), ("c.1", "after c")]
    assert (parts["b"][0].groups, parts["b"][0].in_channels, parts["b"][0].out_channels) == (16, 16, 16)
    assert parts["fc"][0].in_channels == 24
    assert untouched(TABLE) == {"odd": "no technique for LSTM"}


@given(SIZES, SIZES, st.sampled_from(METHODS), st.floats(0.01, 0.99),
       st.sampled_from([1, 2, 8]))
def test_ranks_that_are_offered_save_weights(n_in: int, n_out: int, method: str, share: float, multiple: int) -> None:
    kernel = (1, 1) if method == "svd" else (3, 3)
    part = Part(name="x", layer="x", kind="conv", in_channels=n_in, out_channels=n_out, kernel=kernel, positions=36,
                in_positions=144, bias=True)
    args = rank_args(part, method, share, multiple)
    if args is None:
        return
    factors = split(part, method, args)
    assert sum(f.weights for f in factors) < part.weights
    assert min(args.values()) >= 1
    assert [f.in_channels for f in factors[1:]] == [f.out_channels for f in factors[:-1]]
    assert (factors[0].in_channels, factors[-1].out_channels) == (n_in, n_out)
    assert [f.bias for f in factors] == [False] * (len(factors) - 1) + [True]
    assert factors[-1].positions == part.positions
