"""The engine when something fails: each fault by its number in the fault list."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from engine_bench import Bench

from autocompress.core.front import objectives
from autocompress.core.layer import LayerTable
from autocompress.errors import EnvironmentFault, InfeasibleError, InputError, TrialError
from autocompress.search.databases import open_storage
from autocompress.search.efforts import Schedule
from autocompress.search.samplers.make import make_sampler
from autocompress.search.storage import create_study, load_study, queue_interrupted
from autocompress.search.trial_status import describe_failure
from autocompress.space.space import Values
from autocompress.tasks.classification.metric import ACCURACY


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("metric", ["accuracy", "latency_ms", "macs"])
def test_a_metric_that_is_not_finite_fails_the_trial(table: LayerTable, metric: str, value: float) -> None:
    """Faults 17, 18 and 25."""
    bench = Bench(table, damage=lambda call, metrics: metrics | ({metric: value} if call == 2 else {}), macs=10**7)
    everyone = bench.run()
    failed = [c for c in everyone if c.status == "failed"]
    assert [(c.trial, c.metrics) for c in failed] == [(1, {})]
    assert failed[0].reason == f"nan: {metric} is not finite"
    assert bench.study.trials[1].state is optuna.trial.TrialState.FAIL


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_distilled_candidate_that_is_not_finite_keeps_what_it_reached(table: LayerTable, value: float) -> None:
    def damage(call: int, metrics: dict[str, float]) -> dict[str, float]:
        return metrics | ({"accuracy": value} if bench.fake.calls[-1][1] == 1 else {})

    bench = Bench(table, trials=4, damage=damage, schedule=Schedule(short=1, long=0))
    everyone = bench.run()
    assert [rung for _, rung in bench.fake.calls].count(1) == 1
    assert all(c.rung == 0 for c in everyone if c.evaluations)
    assert all(c.status in ("complete", "duplicate") for c in everyone)
    (reason,) = [v for k, v in bench.study.user_attrs.items() if k.startswith("failure:")]
    assert reason == "nan: accuracy is not finite"


def test_an_exception_fails_the_trial_and_the_search_goes_on(table: LayerTable) -> None:
    """Fault 19."""
    def damage(call: int, metrics: dict[str, float]) -> dict[str, float]:
        if call == 3:
            raise KeyError("layer3")
        return metrics

    bench = Bench(table, damage=damage)
    everyone = bench.run()
    assert len(everyone) == 8
    (failed,) = [c for c in everyone if c.status == "failed"]
    assert failed.reason == "KeyError: 'layer3'"
    stored = bench.study.trials[failed.trial].user_attrs["traceback"]
    assert "Traceback" in stored
    assert "KeyError: 'layer3'" in stored


def test_too_many_failures_stop_the_search(table: LayerTable) -> None:
    """Fault 19: over half of at least five."""
    def damage(call: int, metrics: dict[str, float]) -> dict[str, float]:
        raise TrialError("nan: the loss is not finite")

    bench = Bench(table, damage=damage, trials=30)
    with pytest.raises(EnvironmentFault, match="5 of 5 failed, the last with: nan: the loss"):
        bench.run()
    assert len(bench.fake.calls) == 5


def test_half_of_the_trials_may_fail(table: LayerTable) -> None:
    def damage(call: int, metrics: dict[str, float]) -> dict[str, float]:
        if call % 2 == 0 and call <= 10:
            raise TrialError("unlucky")
        return metrics

    everyone = Bench(table, space="prune-only", trials=10, damage=damage, seed=3).run()
    assert sum(c.status == "failed" for c in everyone) in range(3, 6)


def test_a_fault_of_the_surroundings_or_the_user_ends_the_search(table: LayerTable) -> None:
    for error in (EnvironmentFault("disk full"), InputError("bad"), KeyboardInterrupt()):
        def damage(call: int, metrics: dict[str, float], error: BaseException = error) -> dict[str, float]:
            raise error

        with pytest.raises(type(error)):
            Bench(table, damage=damage).run()


def test_nothing_feasible_names_the_nearest_and_what_blocks_it(table: LayerTable) -> None:
    """Fault 23."""
    bench = Bench(table, max_drop=0.01, damage=lambda call, m: m | {"accuracy": 0.5 + 0.01 * (call == 4)},
                  schedule=Schedule(short=0, long=0))
    with pytest.raises(InfeasibleError) as caught:
        bench.run()
    text = str(caught.value)
    assert "no candidate meets size ≤ 20.00 kB, accuracy drop ≤ 1.00%" in text
    assert "nearest is trial 3: max_drop over by 43.00 points" in text
    assert {c.status for c in bench.engine.candidates()} <= {"infeasible", "duplicate"}


def test_a_bound_on_resources_that_only_measuring_can_judge(table: LayerTable) -> None:
    bench = Bench(table, latency_ms=1.0, damage=lambda call, metrics: metrics | {"latency_ms": 1.5 + call})
    with pytest.raises(InfeasibleError, match=r"nearest is trial 0: latency_ms over by 150\.0%"):
        bench.run()
    assert all(rung == 0 for _, rung in bench.fake.calls), "what is too slow is not worth training"
    assert bench.study.trials[0].constraints["latency_ms"] == pytest.approx(1.5)


def test_a_run_that_was_killed_goes_on(table: LayerTable, tmp_path: Path) -> None:
    """Fault 1: no trial stays open, the interrupted setting is tried again under its number, and the count holds."""
    place, sampler = str(tmp_path / "study.log"), make_sampler("random", 0)
    bench = Bench(table, trials=8, study=create_study(open_storage(place), "s", sampler, {}, objectives(ACCURACY)))
    bench.engine._enqueue_first()
    for _ in range(2):
        bench.engine._ask()  # the process dies here
    states = [t.state for t in bench.study.trials if t.state is not optuna.trial.TrialState.WAITING]
    assert states == [optuna.trial.TrialState.RUNNING] * 2
    again = Bench(table, trials=8, study=load_study(open_storage(place), "s", sampler))
    everyone = again.run()
    assert optuna.trial.TrialState.RUNNING not in [t.state for t in again.study.trials]
    assert [c.trial for c in everyone] == list(range(8))
    assert not any("process was stopped" in c.reason for c in everyone)
    plans = [c.plan.fingerprint for c in everyone if c.plan and c.origin == "uniform"]
    assert len(plans) == len(set(plans)) == 4, "the interrupted baselines are tried again"


def test_what_was_drawn_before_a_kill_is_moved_into_the_budget_as_then(table: LayerTable) -> None:
    def fit(values: Values) -> Values:
        return {**values, **{key: 2 for key in values if key.kind == "bits"}}

    bench = Bench(table, fit=fit)
    _, lost = bench.engine._ask()  # the process dies here
    queue_interrupted(bench.study)
    _, again = Bench(table, study=bench.study, fit=fit).engine._ask()
    assert again.plan == lost.plan and again.origin == lost.origin == "RandomSampler"
    assert {step.args["weight_bits"] for step in again.plan.find("quantize").values()} == {2}  # type: ignore[union-attr]


def test_repeats_after_a_resume_name_the_trial_that_was_measured(table: LayerTable) -> None:
    bench = Bench(table, trials=1)
    bench.run()
    params = bench.study.trials[0].params
    for number in (1, 2):
        bench.study.enqueue_trial(params, user_attrs={"origin": "again"})
        everyone = Bench(table, trials=number + 1, study=bench.study).run()
    assert [(c.status, c.duplicate_of) for c in everyone[1:]] == [("duplicate", 0)] * 2


def test_a_setting_that_keeps_killing_the_process_is_given_up(table: LayerTable) -> None:
    bench = Bench(table)
    bench.study.enqueue_trial(bench.projection.space.uniform(4), user_attrs={"origin": "uniform"})
    attempts = 0
    while any(t.state is optuna.trial.TrialState.WAITING for t in bench.study.trials):
        bench.engine._ask()
        attempts += 1
        assert queue_interrupted(bench.study)[0] == []
        assert attempts < 10
    assert attempts == 3


def test_an_estimate_that_is_no_number_is_our_fault(table: LayerTable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault 31."""
    from autocompress.errors import AutocompressError
    from autocompress.space import projection

    for bad in (float("nan"), float("inf"), 0.0, -1.0):
        monkeypatch.setattr(projection, "estimate",
                            lambda *args, bad=bad: {"size_bytes": 10.0, "macs": 1.0, "latency_ms": bad})
        with pytest.raises(AutocompressError, match=r"latency_ms.*report") as caught:
            Bench(table, latency_ms=1.0)
        assert caught.value.exit_code == 1


def test_reasons_for_failure() -> None:
    assert describe_failure(TrialError("nan: loss\nmore")) == "nan: loss"
    assert describe_failure(MemoryError()) == "oom: MemoryError"
    assert describe_failure(RuntimeError("CUDA out of memory. Tried")) == "oom: CUDA out of memory. Tried"
    assert describe_failure(RuntimeError("\n    Tensors share memory")) == "RuntimeError: Tensors share memory"
    assert describe_failure(ValueError("")) == "ValueError: ValueError"
