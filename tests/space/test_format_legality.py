"""What a format cannot hold is left out of a space, or refused, before anything is built."""

from __future__ import annotations

import pytest

from autocompress.core.format_facts import FormatFacts
from autocompress.core.layer import Layer
from autocompress.core.plan import Plan, Step
from autocompress.errors import InputError
from autocompress.formats.onnx.format import FORMAT
from autocompress.hardware.profile import load_profile
from autocompress.space.format_legality import check_format, offers_integers, space_of
from autocompress.space.space import build_space
from autocompress.space.spec import load_space, parse_space
from autocompress.testing.facts import small_table

HOST, TABLE = load_profile("host"), small_table()
LISTED = "schema = 1\nname = 'listed'\n[quantize]\nweight_bits = [{}]\n"


class _Narrow(FormatFacts):
    """Holds 8 and 32 bits, 4 bits outside depthwise layers, and integer activations beside 8 bits alone."""

    name = "narrow"

    def legal(self, step: Step, layer: Layer) -> str:
        bits = int(step.args.get("weight_bits", 32))
        if bits not in (4, 8, 32) or (bits == 4 and layer.groups > 1):
            return f"{bits} bits have no operator"
        return "integers need 8 bits" if bits == 4 and int(step.args.get("activation_bits", 32)) < 32 else ""


def test_widths_left_to_the_profile_are_those_that_the_format_holds() -> None:
    space = space_of(TABLE, load_space("default"), HOST, _Narrow())
    choices = {knob.key: knob.choices for knob in space.knobs}
    assert choices["bits", "a"] == (4, 8, 32) and choices["bits", "b"] == (8, 32), "b is depthwise"
    assert choices["act", "*"] == (8, 32), "legal beside 8 bits"
    whole = build_space(TABLE, load_space("default"), HOST)
    assert {key: options for key, options in choices.items() if key.kind != "bits"} == {
        knob.key: knob.choices for knob in whole.knobs if knob.kind != "bits"}


class _Whole(FormatFacts):
    """Holds integers of weights beside integers of activations alone."""

    name = "whole"

    def legal(self, step: Step, layer: Layer) -> str:
        integers = [int(step.args.get(key, 32)) <= 8 for key in ("weight_bits", "activation_bits")]
        return "integers read integers" if integers == [True, False] else ""


def test_activations_are_judged_beside_integer_weights() -> None:
    space = space_of(TABLE, load_space("default"), HOST, _Whole())
    choices = {knob.key: knob.choices for knob in space.knobs}
    assert choices["act", "*"] == (8,), "beside float weights any width is legal, and means nothing"
    assert 8 in choices["bits", "a"] and 32 in choices["bits", "a"]


def test_what_a_further_format_cannot_hold_is_left_out_too() -> None:
    space = space_of(TABLE, load_space("default"), HOST, FORMAT, further=[_Narrow()])
    assert {knob.key: knob.choices for knob in space.knobs} == {
        knob.key: knob.choices for knob in space_of(TABLE, load_space("default"), HOST, _Narrow()).knobs}


class _FloatsBeside(FormatFacts):
    """Holds integers of weights beside float activations alone."""

    name = "floats-beside"

    def legal(self, step: Step, layer: Layer) -> str:
        integers = [int(step.args.get(key, 32)) <= 8 for key in ("weight_bits", "activation_bits")]
        return "integers read floats" if integers == [True, True] else ""


@pytest.mark.parametrize("formats", [(_Whole(), _FloatsBeside()), (_FloatsBeside(), _Whole())])
def test_what_one_format_leaves_out_counts_for_the_others_in_any_order(formats: tuple[FormatFacts, ...]) -> None:
    first, second = formats
    space = space_of(TABLE, load_space("default"), HOST, first, further=[second])
    assert offers_integers(space_of(TABLE, load_space("default"), HOST, first)) and not offers_integers(space)
    narrowest = {knob.key: knob.choices[0] for knob in space.knobs if knob.kind in ("bits", "act")}
    for values in ({}, narrowest):
        plan = space.decode({**space.uniform(), **values})
        for each in formats:
            check_format(plan, TABLE, each)


def test_a_listed_width_that_the_format_holds_nowhere_is_refused() -> None:
    with pytest.raises(InputError, match=r"narrow files can hold, but of bits it lists 3: 3 bits have no operator"):
        space_of(TABLE, parse_space(LISTED.format("3, 8"), "a.toml"), HOST, _Narrow())
    space = space_of(TABLE, parse_space(LISTED.format("4, 8"), "a.toml"), HOST, _Narrow())
    choices = {knob.key: knob.choices for knob in space.knobs}
    assert choices["bits", "b"] == (8,) and choices["bits", "c"] == (4, 8)


def test_a_format_that_holds_everything_changes_nothing() -> None:
    for name in ("default", "all", "low-bit"):
        assert space_of(TABLE, load_space(name), HOST, FORMAT).knobs == build_space(TABLE, load_space(name), HOST).knobs


def test_a_plan_is_refused_with_the_formats_reason() -> None:
    step = Step("b", "quantize", {"weight_bits": 4, "activation_bits": 32})
    with pytest.raises(InputError, match=r"narrow files can hold, but quantize at b: 4 bits have no operator"):
        check_format(Plan.of([step]), TABLE, _Narrow())
    check_format(Plan.of([Step("a", "prune", {"keep": 8})]), TABLE, _Narrow())
