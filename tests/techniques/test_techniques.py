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
from autocompress.space.space import build_space
from autocompress.space.spec import load_space
from autocompress.techniques import resolve, untouched
from autocompress.techniques.apply import check_plan
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
    ("a", "quantize", {"weight_bits": 4, "activation_bits": 8, "grid": "log"}, "`grid` at a must be one of"),
    ("a", "quantize", {"weight_bits": 8, "activation_bits": 8, "grid": "codebook"}, "with a codebook grid"),
    ("a", "quantize", {"weight_bits": 4, "activation_bits": 8, "group": 64}, "goes with float activations"),
    ("a", "quantize", {"weight_bits": 4, "activation_bits": 32, "group": 7}, "`group` at a must be one of"),
    ("a", "quantize", {"weight_bits": 16, "activation_bits": 32, "group": 32}, "for weights of 8 bits or less"),
    ("a", "quantize", {"weight_bits": 4, "activation_bits": 16}, "`activation_bits` must be one of .* but got 16 at a"),
    ("b", "decompose", {"method": "svd", "rank": 2}, "grouped convolutions are not decomposed"),
    ("a", "decompose", {"method": "svd", "rank": 2}, "`method` at a must be one of"),
    ("a", "decompose", {"method": "tucker2", "rank_in": 2, "rank_out": 0}, "`rank_out` at a"),
    ("fc", "decompose", {"method": "svd", "rank": "many"}, "`rank` at fc"),
    ("fc", "decompose", {"method": "svd", "rank": 30}, "svd at fc must leave fewer weights .*`rank` may be at most"),
    ("c", "decompose", {"method": "tucker2", "rank_in": 99, "rank_out": 2}, "`rank_in` at c may be at most 32"),
    ("a", "sparsify", {"pattern": "unstructured", "density": 1.0}, "`density` at a must be between 0 and 1, but got 1"),
    ("a", "sparsify", {"pattern": "unstructured", "density": float("nan")}, "`density` at a .* but got nan"),
    ("a", "sparsify", {"pattern": "unstructured"}, "`density` at a .* but got None"),
    ("a", "sparsify", {"pattern": "2:4"}, "2:4 at a must divide the input channels of a, but it has 3"),
    ("b", "sparsify", {"pattern": "2:4"}, "2:4 at b must divide the input channels of b, but it has 1"),
    ("c", "sparsify", {"pattern": "2:4", "density": 0.5}, "which has its own: leave it out"),
    ("c", "sparsify", {"pattern": "4:2"}, "pattern must be 'unstructured' or n:m .* but got '4:2'"),
    ("c", "sparsify", {"pattern": "8:16"}, "at most 256 arrangements"),
    ("c", "sparsify", {}, "but got 'None'"),
    ("c", "sparsify", {"pattern": "2:4", "criterion": "luck"}, "`criterion` at c must be one of"),
    ("odd", "sparsify", {"pattern": "2:4"}, "odd cannot be sparse: no technique for LSTM"),
    ("a", "distort", {}, "a technique must be one of drop, prune, decompose, sparsify, quantize, but got 'distort'"),
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


def test_every_factor_is_sparse_and_keeps_its_shape() -> None:
    steps = [Step("c", "decompose", {"method": "tucker2", "rank_in": 8, "rank_out": 8}),
             Step("c", "sparsify", {"pattern": "2:4"}),
             Step("fc", "sparsify", {"pattern": "unstructured", "density": 0.1})]
    parts = resolve(TABLE, Plan.of(steps))
    assert [(p.weights, p.kept, p.pattern) for p in parts["c"]] == [
        (256, 128, "2:4"), (576, 288, "2:4"), (384, 192, "2:4")]
    assert [(p.weights, p.kept, p.macs) for p in parts["fc"]] == [(480, 48, 480)]
    assert (parts["a"][0].pattern, parts["a"][0].kept) == ("", 0)


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


@pytest.mark.parametrize(("bits", "legal", "illegal"), [(4, 32, 16), (8, 16, 24), (16, 24, 20), (32, 20, 18)])
def test_channels_come_in_the_multiple_of_the_widths_of_the_layers_that_share_them(bits: int, legal: int,
                                                                                   illegal: int) -> None:
    """nvidia-t4 likes 32, 16, 8 and 4 channels at 4, 8, 16 and 32 bits; the widest multiple of a group decides."""
    card = load_profile("nvidia-t4")
    activation_bits = 8 if bits <= 8 else 32
    quantize = [] if bits == 32 else [
        Step("c", "quantize", {"weight_bits": bits, "activation_bits": activation_bits})]
    for keep, fine in ((legal, True), (illegal, False)):
        plan = Plan.of([Step("c", "prune", {"keep": keep}), *quantize])
        if fine:
            check_plan(TABLE, plan, card)
        else:
            with pytest.raises(InputError, match=rf"channel multiple of nvidia-t4 at .*{bits}.*-bit .* got {illegal}"):
                check_plan(TABLE, plan, card)
    space = build_space(TABLE, load_space("default"), card)
    values = {**space.uniform(32), ("prune", "c"): 1 - illegal / 48, ("bits", "c"): bits}
    check_plan(TABLE, space.decode(values), card)
