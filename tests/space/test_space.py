"""Spaces: knobs for what can be decided, plans that are always legal, faults in files named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.core.budget import Budget
from autocompress.core.layer import LayerTable
from autocompress.core.plan import Plan, Step
from autocompress.core.sparsity import saves
from autocompress.errors import InputError
from autocompress.hardware.profile import list_profiles, load_profile
from autocompress.space.projection import Projection
from autocompress.space.space import build_space
from autocompress.space.spec import list_spaces, load_space, parse_space
from autocompress.techniques import resolve
from autocompress.techniques.apply import check_plan


@pytest.mark.parametrize("name", list_spaces())
@pytest.mark.parametrize("profile", list_profiles())
@settings(deadline=None, max_examples=10)
@given(data=st.data())
def test_every_setting_of_every_space_is_a_legal_plan(table: LayerTable, name: str, profile: str,
                                                      data: st.DataObject) -> None:
    device = load_profile(profile)
    try:
        space = build_space(table, load_space(name), device)
    except InputError as error:
        assert "must be taken from" in str(error)  # the space asks for widths that the device does not have
        return
    values: dict[str, Any] = {
        knob.key: data.draw(st.sampled_from(knob.choices) if knob.choices else st.floats(knob.low, knob.high))
        for knob in space.knobs}
    plan = space.decode(values, data.draw(st.floats(0, 1)), data.draw(st.sampled_from([2, 4, 8, 32])))
    check_plan(table, plan, device)
    for part in (part for parts in resolve(table, plan).values() for part in parts):
        assert part.out_channels >= 1
        assert part.in_channels >= 1


def test_knobs_of_the_default_space(table: LayerTable) -> None:
    space = build_space(table, load_space("default"), load_profile("host"))
    names = {knob.key for knob in space.knobs}
    assert names == {
        ("prune", "a"), ("prune", "c"), ("act", "*"), ("bits", "a"), ("bits", "b"), ("bits", "c"), ("bits", "fc"),
        ("method", "a"), ("share", "a"), ("method", "c"), ("share", "c"), ("method", "fc"), ("share", "fc")}
    assert space.by_key["method", "c"].choices == ("none", "channel-svd", "spatial-svd", "tucker2")
    assert space.by_key["bits", "a"].choices == (1, 2, 3, 4, 5, 6, 7, 8, 16, 32)


def test_uniform_settings_differ_in_width_alone(table: LayerTable) -> None:
    space = build_space(table, load_space("low-bit"), load_profile("host"))
    plan = space.decode(space.uniform(4))
    assert {step.technique for step in plan.steps} == {"quantize"}
    assert {step.args["weight_bits"] for step in plan.steps} == {4}
    assert {s.args["weight_bits"] for s in space.decode(space.uniform(8)).steps} == {6}  # the nearest there is


def test_settings_of_quantisation_hold_wherever_they_are_legal(table: LayerTable) -> None:
    text = 'schema = 1\nname = "m"\n[quantize]\nweight_bits = [1, 4, 8, 16]\nactivation_bits = [8, 32]\n' \
        'grids = ["codebook", "pow2"]\ngroups = [64]\nroundings = ["nearest"]\nranges = ["entropy", "minmax"]\n'
    space = build_space(table, parse_space(text, "m.toml"), load_profile("host"))
    assert {knob.key for knob in space.knobs} == {
        ("grid", "*"), ("range", "*"), ("act", "*"), ("bits", "a"), ("bits", "b"), ("bits", "c"), ("bits", "fc")}

    def args(bits: int, activation: int, **model: str) -> dict[str, Any]:
        values = {**space.uniform(bits), ("act", "*"): activation} | {
            (name, "*"): value for name, value in model.items()}
        plan = space.decode(values)
        check_plan(table, plan, space.profile)
        return plan.find("quantize")["c"].args

    assert args(4, 8) == {"weight_bits": 4, "activation_bits": 8, "grid": "codebook", "rounding": "nearest",
                          "range": "entropy"}
    assert args(4, 32, grid="pow2") == {"weight_bits": 4, "activation_bits": 32, "grid": "pow2", "group": 64,
                                        "rounding": "nearest"}
    assert args(8, 8, range="minmax") == {"weight_bits": 8, "activation_bits": 8, "rounding": "nearest"}
    assert args(8, 32) == {"weight_bits": 8, "activation_bits": 32, "group": 64}
    assert args(16, 8) == {"weight_bits": 16, "activation_bits": 32}
    assert args(1, 32) == {"weight_bits": 1, "activation_bits": 32, "group": 64, "rounding": "nearest"}


def test_channels_are_rescaled_only_where_they_can_be(table: LayerTable) -> None:
    text = 'schema = 1\nname = "m"\n[quantize]\nweight_bits = [4, 16]\nequalizes = ["activations", "none"]\n'
    space = build_space(table, parse_space(text, "m.toml"), load_profile("host"))
    assert space.by_key["equalize", "*"].choices == ("activations", "none")
    values = {**space.uniform(4), ("bits", "c"): 16}
    plan = space.decode(values)
    check_plan(table, plan, space.profile)
    assert {site: step.args.get("equalize") for site, step in plan.find("quantize").items()} == {
        "a": None, "b": "activations", "c": None, "fc": "activations"}
    assert not any("equalize" in step.args for step in space.decode({**values, ("equalize", "*"): "none"}).steps)
    alone = msgspec.structs.replace(
        table, layers=tuple(msgspec.structs.replace(layer, scales_with="") for layer in table.layers))
    without = build_space(alone, parse_space(text, "m.toml"), load_profile("host"))
    assert ("equalize", "*") not in without.by_key
    assert not any("equalize" in step.args for step in without.decode(without.uniform(4)).steps)
    with pytest.raises(InputError, match=r"`equalize` at c must be left out.*it cannot at any layer"):
        check_plan(alone, Plan((Step("c", "quantize", {"weight_bits": 4, "activation_bits": 8,
                                                       "equalize": "weights"}),)), space.profile)


def test_the_smallest_plan_does_without_groups(table: LayerTable) -> None:
    text = 'schema = 1\nname = "m"\n[quantize]\nweight_bits = [4]\nactivation_bits = [32]\ngroups = [32, 0]\n'
    space = build_space(table, parse_space(text, "m.toml"), load_profile("host"))
    plan = Projection(space, Budget(size_bytes=1e9)).smallest()
    assert not any("group" in step.args for step in plan.steps)


SPARSE = """schema = 1
name = "mine"
[prune]
[decompose]
[sparsify]
patterns = ["unstructured", "2:4"]
criteria = ["wanda", "magnitude"]
min_density = 0.05
skip = ["fc"]
[quantize]
"""


def test_sparsity_is_offered_where_it_fits_and_taken_where_it_saves(table: LayerTable) -> None:
    space = build_space(table, parse_space(SPARSE, "mine.toml"), load_profile("host"))
    knobs = space.by_key
    assert knobs[("pattern", "a")].choices == knobs[("pattern", "b")].choices == ("none", "unstructured")  # few inputs
    assert knobs[("pattern", "c")].choices == ("none", "unstructured", "2:4")
    assert (knobs[("density", "c")].low, knobs[("density", "c")].high) == (0.05, 0.9)
    assert ("pattern", "fc") not in knobs
    plain = space.uniform(4)
    assert not space.decode(plain).find("sparsify")
    loose = {**plain, ("pattern", "c"): "unstructured", ("density", "c"): 0.4, ("sparse-criterion", "*"): "wanda"}
    assert space.decode(loose).find("sparsify") == {
        "c": Step("c", "sparsify", {"pattern": "unstructured", "density": 0.4, "criterion": "wanda"})}
    assert space.decode(loose, 0.5).find("sparsify")["c"].args["density"] == pytest.approx(0.225)
    assert space.decode(loose, 1.0).find("sparsify")["c"].args["density"] == 0.05
    assert not space.decode(loose, bits_cap=1).find("sparsify"), "a mask of one bit saves nothing there"
    fixed = {**plain, ("pattern", "c"): "2:4", ("sparse-criterion", "*"): "magnitude"}
    assert space.decode(fixed, 0.3).find("sparsify")["c"].args["pattern"] == "2:4"
    odd = {**fixed, ("method", "c"): "tucker2", ("share", "c"): 0.02}
    plan = space.decode(odd)
    channels = {part.in_channels for part in resolve(table, plan)["c"]}
    assert ("sparsify" in {step.technique for step in plan.steps}) == all(c % 4 == 0 for c in channels)
    alone = parse_space('schema = 1\nname = "m"\n[sparsify]\npatterns = ["2:4"]\n', "m.toml")
    assert {knob.key for knob in build_space(table, alone, load_profile("host")).knobs} == {
        ("pattern", "c"), ("pattern", "fc")}


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_every_sparse_setting_is_a_legal_plan(table: LayerTable, data: st.DataObject) -> None:
    device = load_profile("host")
    space = build_space(table, parse_space(SPARSE, "mine.toml"), device)
    values: dict[str, Any] = {
        knob.key: data.draw(st.sampled_from(knob.choices) if knob.choices else st.floats(knob.low, knob.high))
        for knob in space.knobs}
    squeeze, cap = data.draw(st.floats(0, 1)), data.draw(st.sampled_from([2, 4, 8, 32]))
    plan = space.decode(values, squeeze, cap)
    check_plan(table, plan, device)
    dense = Plan.of([step for step in plan.steps if step.technique != "sparsify"])
    for name, parts in resolve(table, plan).items():
        for part, before in zip(parts, resolve(table, dense)[name], strict=True):
            assert part.weights == before.weights
            if part.pattern:
                assert saves(part.pattern, part.weights, part.kept, part.weight_bits)


def test_nothing_to_decide_is_an_input_error_with_the_reasons(table: LayerTable) -> None:
    """Fault 27."""
    spec = parse_space('schema = 1\nname = "mine"\n[prune]\nskip = ["*"]\n', "mine.toml")
    with pytest.raises(InputError, match=r"'mine'.*odd: no technique for LSTM\. They can be compressed once"):
        build_space(table, spec, load_profile("host"))
    locked = msgspec.structs.replace(
        table,
        groups=(),
        layers=tuple(
            msgspec.structs.replace(layer, not_compressible_reason="its weights are used more than once")
            for layer in table.layers
        ),
    )
    with pytest.raises(InputError, match=r"a: its weights are used more than once; b: its weights"):
        build_space(locked, load_space("default"), load_profile("host"))


def test_widths_that_the_device_does_not_have_are_refused_at_load(table: LayerTable) -> None:
    """Fault 29."""
    spec = parse_space('schema = 1\nname = "m"\n[quantize]\nweight_bits = [3]\n', "m.toml")
    with pytest.raises(InputError, match=r"`weight_bits` must be taken from .* on stm32h743.*\[3\]"):
        build_space(table, spec, load_profile("stm32h743"))


@pytest.mark.parametrize(("text", "message"), [
    ("schema = 1", "name"), ("schema = 2\nname = 'a'\n[prune]", "schema must be 1"),
    ("schema = 1\nname = 'a'", "at least one"),
    ("schema = 1\nname = 'a'\n[prune]\nmax_ratio = 1.0", "max_ratio"), ("schema = 1\nname = 'a'\n[prnue]", "prnue"),
    ("schema = 1\nname = 'a'\n[prune]\nmax_ratio = 'x'", r"\$\.prune\.max_ratio"), ("schema = ", "TOML"),
    ("schema = 1\nname = 'a'\n[quantize]\nweight_bits = [9]", "weight_bits"),
    ("schema = 1\nname = 'a'\n[quantize]\nweight_bits = []", "empty"),
    ("schema = 1\nname = 'a'\n[quantize]\ngrids = ['log']", r"quantize\.grids must be taken from .*'log'"),
    ("schema = 1\nname = 'a'\n[quantize]\ngroups = [48]", r"quantize\.groups"),
    ("schema = 1\nname = 'a'\n[quantize]\nranges = []", r"quantize\.ranges must not be empty"),
    ("schema = 1\nname = 'a'\n[decompose]\nmethods = ['tt']", "tt"),
    ("schema = 1\nname = 'a'\n[decompose]\nmin_share = 0", "min_share"),
    ("schema = 1\nname = 'a'\nname = 'b'", "TOML"),
    ("schema = 1\nname = 'a'\n[dorp]\n", "unknown field `dorp`; did you mean `drop`"),
    ("schema = 1\nname = 'a'\n[quantize]\ngrid = ['pow2']", "did you mean `grids`"),
    ("schema = 1\nname = 'a'\n[drop]\nxyz = 1", "legal here are skip"),
    ("schema = 1\nname = 'a'\n[sparsify]\npatterns = ['2:2']", r"sparsify\.patterns: .* but got '2:2'"),
    ("schema = 1\nname = 'a'\n[sparsify]\npatterns = []", "patterns must not be empty"),
    ("schema = 1\nname = 'a'\n[drop]\n[recovery]\nmixup = nan", "recovery.mixup must be 0 or more"),
    ("schema = 1\nname = 'a'\n[drop]\n[recovery]\nblock_steps = -1", "recovery.block_steps must be 0 or more"),
    ("schema = 1\nname = 'a'\n[drop]\n[recovery]\nblock_step = 1", "did you mean `block_steps`"),
    ("schema = 1\nname = 'a'\n[recovery]\nmixup = 0.2", "it allows nothing"),
    ("schema = 1\nname = 'a'\n[sparsify]\nmin_density = 0", "min_density must be from 0.001 to below 0.9"),
    ("schema = 1\nname = 'a'\n[sparsify]\ncriteria = ['luck']", "sparsify.criteria"),
])
def test_faults_in_a_space_file_are_named(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse_space(text, "mine.toml")
    assert "mine.toml" in str(caught.value)


def test_a_former_name_is_read_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    spec = parse_space('schema = 1\nname = "old"\n[quantize]\nroundings = ["feedback", "nearest"]', "old.toml")
    assert spec == parse_space('schema = 1\nname = "old"\n[quantize]\nroundings = ["gptq", "nearest"]', "new.toml")
    (record,) = caplog.records
    assert "old.toml: quantize.roundings: 'feedback' is now called 'gptq'" in record.getMessage()


def test_unknown_and_unreadable_spaces(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'default'"):
        load_space("defualt")
    with pytest.raises(InputError, match="readable"):
        load_space(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="readable"):
        load_space(tmp_path / "bytes.toml")
