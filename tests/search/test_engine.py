"""The engine with an evaluation that is a formula: no torch, every fault by its number in the fault list."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
import optuna
import pytest

from autocompress.core.budget import Budget
from autocompress.core.evaluation import Candidate, Evaluation
from autocompress.core.layer import LayerTable
from autocompress.core.plan import Plan
from autocompress.errors import EnvironmentFault, InfeasibleError, InputError, TrialError
from autocompress.hardware.profile import load_profile
from autocompress.search.engine import Engine, Event, Settings, describe_failure
from autocompress.search.fidelity import Schedule
from autocompress.search.samplers import SAMPLERS, make_sampler
from autocompress.search.storage import create_study
from autocompress.search.workers import Inline
from autocompress.space.projection import Projection
from autocompress.space.space import build_space
from autocompress.space.spec import load_space

BASELINE = 0.95
SIZE = 20_000
Damage = Callable[[int, dict[str, float]], dict[str, float]]


class Fake:
    """Accuracy from the plan's estimate; counts calls; `damage(call, metrics)` may change or raise."""

    def __init__(self, projection: Projection, damage: Damage = lambda call, metrics: metrics) -> None:
        self.projection, self.damage = projection, damage
        self.calls: list[tuple[str, int]] = []
        self.slices: dict[int, list[float | None]] = {}

    def __call__(self, plan: Plan, rung: int, seconds: float | None = None, should_stop: Any = None) -> Evaluation:
        self.calls.append((plan.fingerprint, rung))
        self.slices.setdefault(rung, []).append(seconds)
        known = self.projection.estimate(plan)
        accuracy = min(0.94, 0.3 + known["params"] / 40_000 + 0.2 * rung)
        metrics = {"accuracy": accuracy, "size_bytes": known["size_bytes"], "macs": known["macs"],
                   "latency_ms": known["macs"] / 1e6}
        return Evaluation(rung=rung, metrics=self.damage(len(self.calls), metrics), sources={})


class Bench:
    """An engine over an in-memory study, with what it evaluated and told."""

    def __init__(self, table: LayerTable, *, space: str = "low-bit", sampler: str = "random", seed: int = 0,
                 trials: int = 8, schedule: Schedule | None = None, damage: Damage | None = None,
                 study: optuna.Study | None = None, seconds: float | None = None, **budget: Any) -> None:
        self.budget = Budget(**({"size_bytes": SIZE} | budget))
        self.projection = Projection(build_space(table, load_space(space), load_profile("host")), self.budget)
        self.fake = Fake(self.projection, damage or (lambda call, metrics: metrics))
        self.study = study or create_study(optuna.storages.InMemoryStorage(), "s", make_sampler(sampler, seed), {})
        self.events: list[Event] = []
        self.engine = Engine(self.study, self.projection, self.budget, BASELINE,
                             Settings(trials=trials, schedule=schedule or Schedule(short=3, long=1), seconds=seconds),
                             time.perf_counter(), self.events.append, lambda: False)

    def run(self) -> list[Candidate]:
        """The candidates after a whole run."""
        self.engine.run(Inline(self.fake, lambda: False))
        return self.engine.candidates()


def test_every_plan_is_inside_the_budget_and_every_trial_is_stored(table: LayerTable) -> None:
    bench = Bench(table)
    everyone = bench.run()
    assert [c.trial for c in everyone] == list(range(8))
    assert {c.status for c in everyone} <= {"complete", "duplicate"}
    assert all(c.metrics["size_bytes"] <= SIZE for c in everyone)
    results = [e for e in bench.events if e.kind == "result"]
    assert [e.done for e in results[:8]] == list(range(1, 9))
    assert results[-1].best is not None


def test_uniform_plans_come_first_and_are_uniform(table: LayerTable) -> None:
    everyone = Bench(table).run()
    uniform = [c for c in everyone if c.origin == "uniform"]
    assert [c.trial for c in uniform] == [0, 1, 2]
    widths = []
    for candidate in uniform:
        assert candidate.plan is not None
        (width,) = {step.args["weight_bits"] for step in candidate.plan.find("quantize").values()}
        widths.append(width)
    assert widths == [4, 3, 2]


def test_promotion_goes_up_the_ladder_and_keeps_a_uniform_baseline(table: LayerTable) -> None:
    bench = Bench(table, trials=10, schedule=Schedule(short=4, long=2))
    everyone = bench.run()
    rungs = [rung for _, rung in bench.fake.calls]
    assert rungs == sorted(rungs)
    assert (rungs.count(1), rungs.count(2)) == (4, 2)
    short = [c for c in everyone if (c.rung or 0) >= 1]
    assert sum(c.origin == "uniform" for c in short) >= 2
    assert all([e.rung for e in c.evaluations] == list(range(len(c.evaluations))) for c in everyone)
    chosen = [c for c in everyone if c.rung == 2]
    assert min(c.evaluations[1].metrics["accuracy"] for c in chosen) >= max(
        c.metrics["accuracy"] for c in short if c.rung == 1)


def test_those_who_are_compared_get_equal_time_and_the_last_one_most_of_it(table: LayerTable) -> None:
    bench = Bench(table, trials=10, schedule=Schedule(short=4, long=1), seconds=1000.0)
    bench.run()
    assert set(bench.fake.slices[0]) == {None}
    short, (long,) = bench.fake.slices[1], bench.fake.slices[2]
    assert len(short) == 4 and len(set(short)) == 1
    assert short[0] is not None and long is not None
    assert long > 600 and sum(s or 0 for s in short) + long < 1400, "short runs ended early; long gets all that is left"


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


def test_equal_plans_are_evaluated_once(table: LayerTable) -> None:
    """Fault 22: a space in which nothing but one width is left repeats itself."""
    bench = Bench(table, space="int8", size_bytes=4000, trials=12)
    everyone = bench.run()
    again = [c for c in everyone if c.status == "duplicate"]
    assert again
    for candidate in again:
        assert candidate.duplicate_of is not None
        twin = everyone[candidate.duplicate_of]
        assert candidate.plan == twin.plan
        assert candidate.metrics == twin.evaluations[0].metrics
        assert candidate.reason == f"same plan as trial {twin.trial}"
        assert len(candidate.evaluations) == 1
    calibrated = [plan for plan, rung in bench.fake.calls if rung == 0]
    assert len(calibrated) == len(set(calibrated)) == len(everyone) - len(again)


def test_nothing_feasible_names_the_nearest_and_what_blocks_it(table: LayerTable) -> None:
    """Fault 23."""
    bench = Bench(table, max_drop=0.01, damage=lambda call, m: m | {"accuracy": 0.5 + 0.01 * (call == 4)},
                  schedule=Schedule(short=0, long=0))
    with pytest.raises(InfeasibleError) as caught:
        bench.run()
    text = str(caught.value)
    assert "no candidate meets size ≤ 20.00 kB, accuracy drop ≤ 1.00%" in text
    assert "nearest is trial 3: max_drop over by 43.0 points" in text
    assert {c.status for c in bench.engine.candidates()} <= {"infeasible", "duplicate"}


def test_a_bound_on_resources_that_only_measuring_can_judge(table: LayerTable) -> None:
    bench = Bench(table, latency_ms=1.0, damage=lambda call, metrics: metrics | {"latency_ms": 1.5 + call})
    with pytest.raises(InfeasibleError, match=r"nearest is trial 0: latency_ms over by 150\.0%"):
        bench.run()
    assert all(rung == 0 for _, rung in bench.fake.calls), "what is too slow is not worth training"
    assert bench.study.trials[0].constraints["latency_ms"] == pytest.approx(1.5)


def test_training_may_mend_accuracy(table: LayerTable) -> None:
    bench = Bench(table, max_drop=0.3, damage=lambda call, m: m | {"accuracy": 0.5 if call <= 8 else 0.9})
    everyone = bench.run()
    assert {c.status for c in everyone if (c.rung or 0) >= 1} == {"complete"}


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_same_seed_same_trials(table: LayerTable, sampler: str) -> None:
    """Fault 32, for the search's share of it."""
    trials = {"gp": 11, "tpe": 16, "nsga2": 20, "random": 8}[sampler]

    def rows(seed: int) -> list[dict[str, Any]]:
        space = "prune-only" if sampler == "gp" else "low-bit"  # the Gaussian process takes its time
        return [msgspec.to_builtins(c)
                for c in Bench(table, space=space, sampler=sampler, seed=seed, trials=trials).run()]

    first = rows(1)
    assert rows(1) == first
    assert sampler == "gp" or rows(2) != first


def test_a_run_that_was_killed_goes_on(table: LayerTable) -> None:
    """Fault 1: no trial stays open, the interrupted setting is tried again, and the count of trials holds."""
    bench = Bench(table, trials=8)
    bench.engine._enqueue_baselines()
    for _ in range(2):
        bench.engine._ask()  # the process dies here
    states = [t.state for t in bench.study.trials if t.state is not optuna.trial.TrialState.WAITING]
    assert states == [optuna.trial.TrialState.RUNNING] * 2
    again = Bench(table, trials=8, study=bench.study)
    everyone = again.run()
    assert optuna.trial.TrialState.RUNNING not in [t.state for t in again.study.trials]
    stopped = [c for c in everyone if "process was stopped" in c.reason]
    assert [c.trial for c in stopped] == [0, 1]
    assert len(everyone) - len(stopped) == 8
    plans = [c.plan.fingerprint for c in everyone if c.plan and c.origin == "uniform"]
    assert len(plans) == len(set(plans)) == 3, "the interrupted baselines are tried again"


def test_a_setting_that_keeps_killing_the_process_is_given_up(table: LayerTable) -> None:
    bench = Bench(table)
    bench.study.enqueue_trial(bench.projection.space.uniform(4), user_attrs={"origin": "uniform"})
    asked = 0
    while any(t.state is optuna.trial.TrialState.WAITING for t in bench.study.trials):
        bench.engine._ask()
        asked += 1
        from autocompress.search.storage import close_interrupted

        assert close_interrupted(bench.study) == 1
        assert asked < 10
    assert asked == 3


def test_a_finished_search_has_nothing_left_to_do(table: LayerTable) -> None:
    """Fault 33."""
    bench = Bench(table)
    first = bench.run()
    again = Bench(table, study=bench.study)
    assert again.run() == first
    assert again.fake.calls == []


def test_stopping_leaves_the_rest_undone(table: LayerTable) -> None:
    bench = Bench(table, trials=20)
    bench.engine._should_stop = lambda: len(bench.fake.calls) >= 3
    everyone = bench.run()
    assert len(bench.fake.calls) == 3
    assert len([c for c in everyone if c.evaluations and c.status != "duplicate"]) == 3


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
    assert describe_failure(ValueError("")) == "ValueError: ValueError"


def test_samplers_by_name() -> None:
    with pytest.raises(InputError, match="did you mean 'tpe'"):
        make_sampler("tpee", 0)
