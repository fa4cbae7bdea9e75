"""Plans on the wire: canonical, versioned, and read back with the place of every fault."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.core import wire
from autocompress.core.budget import Budget
from autocompress.core.evaluation import Candidate, Evaluation
from autocompress.core.layer import LayerTable
from autocompress.core.plan import Plan, Receipt, Step
from autocompress.errors import InputError

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
SCALARS = st.integers(-2**53, 2**53) | st.floats(allow_nan=False, allow_infinity=False) | NAMES
STEPS = st.lists(st.builds(Step, NAMES, st.sampled_from(["prune", "decompose", "quantize"]),
                           st.dictionaries(NAMES, SCALARS, max_size=3)),
                 max_size=8, unique_by=lambda step: (step.technique, step.site))


@given(STEPS)
def test_a_plan_round_trips(steps: list[Step]) -> None:
    plan = Plan.of(steps)
    text = wire.encode(plan)
    again = wire.decode(text, Plan)
    assert again == plan
    assert again.fingerprint == plan.fingerprint
    assert wire.encode(again) == text


@given(STEPS, st.randoms(use_true_random=False))
def test_the_order_of_steps_and_arguments_does_not_matter(steps: list[Step], order: random.Random) -> None:
    shuffled = [Step(s.site, s.technique, dict(order.sample(list(s.args.items()), len(s.args)))) for s in steps]
    order.shuffle(shuffled)
    assert Plan.of(shuffled).fingerprint == Plan.of(steps).fingerprint
    assert wire.encode(Plan.of(shuffled)) == wire.encode(Plan.of(steps))
    document = json.loads(wire.encode(Plan.of(steps)))
    order.shuffle(document["data"]["steps"])
    assert wire.decode(json.dumps(document), Plan) == Plan.of(steps)


@given(STEPS.filter(bool))
def test_another_plan_has_another_fingerprint(steps: list[Step]) -> None:
    assert Plan.of(steps[1:]).fingerprint != Plan.of(steps).fingerprint


def _document(**changes: Any) -> str:
    step = {"site": "conv1", "technique": "prune", "args": {"keep": 8}}
    return json.dumps({"schema": "autocompress/plan", "version": 1, "data": {"steps": [step]}} | changes)


@pytest.mark.parametrize(("data", "place"), [
    ({"steps": [{"site": "a", "technique": "prune", "args": {"keep": []}}]}, r"\$\.data\.steps\[0\]\.args"),
    ({"steps": [{"site": "a", "technique": "prune", "args": {}}, {"site": 3, "technique": "prune", "args": {}}]},
     r"\$\.data\.steps\[1\]\.site"),
    ({"steps": [{"site": "a", "args": {}}]}, r"\$\.data\.steps\[0\]"),
    ({"steps": {}}, r"\$\.data\.steps"),
    ([], "object"),
])
def test_a_fault_is_named_with_its_place(data: Any, place: str) -> None:
    with pytest.raises(InputError, match=place) as caught:
        wire.decode(_document(data=data), Plan, "plan.json")
    assert "plan.json" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "\x00", '{"schema": 3}', b"\xff\xfe", '{"version": 1}'])
def test_what_is_no_document_is_refused(text: str | bytes) -> None:
    with pytest.raises(InputError):
        wire.decode(text, Plan)


def test_newer_foreign_and_unknown_documents_are_refused() -> None:
    with pytest.raises(InputError, match="newer than 1: update"):
        wire.decode(_document(version=2, data={"anything": 1}), Plan, "plan.json")
    with pytest.raises(InputError, match="autocompress/budget"):
        wire.decode(_document(schema="autocompress/budget"), Plan)
    with pytest.raises(InputError, match="extra"):
        wire.decode(_document(extra=1), Plan)


def test_two_steps_of_one_technique_at_one_site_are_refused() -> None:
    step = {"site": "conv1", "technique": "prune", "args": {"keep": 8}}
    with pytest.raises(ValueError, match="'conv1' has two of 'prune'"):
        Plan.of([Step("conv1", "prune", {"keep": 8}), Step("conv1", "prune", {"keep": 16})])
    with pytest.raises(InputError, match=r"plan\.json.*'conv1' has two of 'prune'"):
        wire.decode(_document(data={"steps": [step, step]}), Plan, "plan.json")


def test_a_plan_finds_its_steps() -> None:
    prune, quantize = Step("a", "prune", {"keep": 8}), Step("a", "quantize", {"weight_bits": 4})
    plan = Plan.of([quantize, prune])
    assert plan.steps == (prune, quantize)
    assert plan.find("quantize") == {"a": quantize}
    assert plan.find("decompose") == {}


def test_every_document_type_round_trips() -> None:
    evaluation = Evaluation(rung=1, metrics={"accuracy": 0.5}, sources={"accuracy": "measured"},
                            receipts=(Receipt("a", "prune", {"kept": [0, 2]}),), timings={"export": 0.1})
    values: list[Any] = [
        Budget(size_bytes=5, max_drop=0.1), Budget(further_latency_ms={"board": 2.5}), evaluation,
        LayerTable(input_shape=(1, 2), outputs=3, layers=()),
        Candidate(trial=3, status="complete", plan=Plan.of([Step("a", "prune", {"keep": 8})]),
                  evaluations=(evaluation,)),
    ]
    for value in values:
        assert wire.decode(wire.encode(value), type(value)) == value


def test_the_golden_plan_still_reads_and_writes_the_same() -> None:
    text = (Path(__file__).parents[1] / "golden" / "plan.json").read_text("utf-8").strip()
    plan = wire.decode(text, Plan, "plan.json")
    assert wire.encode(plan) == text
    assert plan.fingerprint == "5fe71be4109255ae"
    assert [(s.technique, s.site) for s in plan.steps] == [
        ("decompose", "layer1.0.conv1"), ("prune", "layer1.0.conv1"), ("quantize", "fc"),
        ("quantize", "layer1.0.conv1")]


def test_a_budget_without_further_devices_is_as_it_was() -> None:
    text = wire.encode(Budget(latency_ms=5.0))
    assert "further" not in text
    assert wire.decode(text, Budget).bounds == {"latency_ms": 5.0}
