"""A measured profile that predicts: from two times of the original to proposals inside a bound."""

from __future__ import annotations

import msgspec
import pytest

from autocompress.core.budget import Budget
from autocompress.core.layer import LayerTable
from autocompress.core.plan import Plan, Step
from autocompress.core.sensitivity import SensitivityTable
from autocompress.estimate import estimate
from autocompress.hardware.calibration import calibrated
from autocompress.hardware.profile import HardwareProfile, load_profile
from autocompress.space.projection import Projection
from autocompress.space.solver.solver import Solver
from autocompress.space.space import build_space
from autocompress.space.spec import load_space
from autocompress.testing.facts import small_table

HOST = load_profile("host")
INTEGERS = Plan.of([Step(name, "quantize", {"weight_bits": 8, "activation_bits": 8}) for name in ("a", "b", "c", "fc")])


def ms(plan: Plan, profile: HardwareProfile, table: LayerTable | None = None) -> float:
    return estimate(table or small_table(), plan, profile)["latency_ms"]


def host(float_ms: float, integer_ms: float | None = None) -> HardwareProfile:
    return calibrated(HOST, float_ms, lambda p: ms(Plan(), p), integer_ms, lambda p: ms(INTEGERS, p))


@pytest.mark.parametrize(("float_ms", "ratio"), [(1.0, 0.9), (0.1, 0.5), (20.0, 1.3)])
def test_the_original_takes_what_it_took(float_ms: float, ratio: float) -> None:
    device = host(float_ms, ratio * float_ms)
    assert device.latency == "estimated" and device.id == "host"
    assert ms(Plan(), device) == pytest.approx(float_ms)
    assert ms(INTEGERS, device) == pytest.approx(ratio * float_ms, rel=1e-3)


def test_without_an_8_bit_file_the_ratio_is_the_profiles() -> None:
    plain = ms(INTEGERS, msgspec.structs.replace(HOST, latency="estimated"))
    whole = ms(Plan(), msgspec.structs.replace(HOST, latency="estimated"))
    assert ms(INTEGERS, host(5.0)) == pytest.approx(5.0 * plain / whole)


def _damages() -> SensitivityTable:
    return SensitivityTable.read({"prune": {"a": {24: 0.1, 16: 0.3, 8: 0.9}, "c": {32: 0.1, 16: 0.4, 8: 0.8}},
                   "bits": {name: {8: 0.01, 4: 0.2} for name in ("a", "b", "c", "fc")}})


@pytest.mark.parametrize("share", [0.9, 0.7, 0.55])
def test_a_bound_on_this_machine_steers_before_a_file_is_there(share: float) -> None:
    table = small_table()
    device = host(10.0, 9.0)
    budget = Budget(latency_ms=10.0 * share)
    blind = Projection(build_space(table, load_space("default"), HOST), budget)
    assert "latency_ms" not in blind.bounds
    seeing = Projection(build_space(table, load_space("default"), device), budget, frozenset({"latency_ms"}))
    plan = seeing.space.decode(Solver(seeing, _damages()).solve())
    assert ms(plan, device) <= 10.0 * share and plan.steps
    uniform = seeing.project(seeing.space.uniform(32)).plan
    assert ms(uniform, device) <= 10.0 * share


def test_a_prediction_refuses_nothing() -> None:
    """What no plan is predicted to reach is tried and measured."""
    table, bound = small_table(), Budget(latency_ms=1e-3)
    seeing = Projection(build_space(table, load_space("default"), host(10.0)), bound, frozenset({"latency_ms"}))
    seeing.require_feasible()
    assert "latency_ms" not in seeing.bounds
