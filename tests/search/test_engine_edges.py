"""The engine where the space is tiny or empty, a metric says nothing, or the process ends at a bad moment."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
from engine_bench import BASELINE, Bench

from autocompress.core.evaluation import CALIBRATED, LONG, SHORT, Candidate
from autocompress.core.front import objectives
from autocompress.core.layer import LayerTable
from autocompress.core.sensitivity import SensitivityTable
from autocompress.errors import EnvironmentFault, InputError, TrialError
from autocompress.search.efforts import Schedule
from autocompress.search.engine import MAX_REPEATS
from autocompress.search.executors.base import Executor, Job, Outcome
from autocompress.search.executors.inline import Inline
from autocompress.search.samplers.make import SAMPLERS, make_sampler
from autocompress.search.samplers.thompson_sampler import SolverSampler
from autocompress.search.storage import create_study, failures
from autocompress.space.solver.solver import Solver
from autocompress.tasks.classification.metric import ACCURACY

LOCK = threading.Lock()
FIXED = '''schema = 1
name = "{name}"
description = "Nothing to choose."
[quantize]
weight_bits = [{bits}]
activation_bits = [{activation_bits}]
'''
DAMAGES = SensitivityTable.read({"prune": {"a": {24: 0.01, 16: 0.05, 8: 0.3}, "c": {36: 0.02, 24: 0.1, 12: 0.5}},
                  "bits": {layer: {6: 0.001, 5: 0.002, 4: 0.006, 3: 0.02, 2: 0.2} for layer in ("a", "b", "c", "fc")}})


def _fixed(folder: Path, bits: int, activation_bits: int) -> str:
    path = folder / "fixed.toml"
    path.write_text(FIXED.format(name="fixed", bits=bits, activation_bits=activation_bits))
    return str(path)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_a_space_with_one_point_is_tried_once(table: LayerTable, tmp_path: Path, sampler: str,
                                              caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(table, space=_fixed(tmp_path, 8, 8), sampler=sampler, trials=10_000)
    everyone = bench.run()
    assert [rung for _, rung in bench.fake.calls] == [0, 1, 2], "calibrated once, and trained"
    assert [c.status for c in everyone] == ["complete"] + ["duplicate"] * MAX_REPEATS
    assert f"tried no more than {MAX_REPEATS + 1} of 10000 trials" in caplog.text


def test_a_space_with_nothing_to_do_is_refused(table: LayerTable, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must leave something to decide on host.*odd: no technique for LSTM"):
        Bench(table, space=_fixed(tmp_path, 32, 32))


@pytest.mark.parametrize("trials", [1, 2, 5])
def test_with_more_choices_than_trials_there_are_as_many_trials_as_asked(table: LayerTable, trials: int,
                                                                         caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(table, trials=trials)
    everyone = bench.run()
    assert len(everyone) == trials and everyone[0].origin == "uniform"
    assert caplog.text == ""


def test_with_fewer_choices_than_trials_the_search_ends(table: LayerTable, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(table, space="int8", size_bytes=4000, trials=10_000)
    everyone = bench.run()
    assert {c.status for c in everyone[-MAX_REPEATS:]} == {"duplicate"}
    assert len(everyone) < 500 and "this space has few others" in caplog.text
    calibrated = [plan for plan, rung in bench.fake.calls if rung == 0]
    assert len(calibrated) == len(set(calibrated)) == sum(c.status != "duplicate" for c in everyone) >= 3
    again = Bench(table, space="int8", size_bytes=4000, trials=10_000, study=bench.study)
    assert again.run() == everyone and again.fake.calls == [], "a resumed search knows that it had ended"


def _same_accuracy(call: int, metrics: dict[str, float]) -> dict[str, float]:
    return metrics | {"accuracy": 0.5}


def _same_everything(call: int, metrics: dict[str, float]) -> dict[str, float]:
    return metrics | {"accuracy": 0.5, "size_bytes": 1000, "latency_ms": 1.0, "macs": 1000}


@pytest.mark.parametrize("damage", [_same_accuracy, _same_everything])
@pytest.mark.parametrize("sampler", ["nsga2", "random", "tpe", "auto"])
def test_a_metric_that_is_constant_chooses_by_the_others(table: LayerTable, sampler: str,
                                                         damage: Callable[[int, Any], Any]) -> None:
    study = None
    if sampler == "auto":
        probe = Bench(table, size_bytes=8000)
        study = create_study(optuna.storages.InMemoryStorage(), "s",
                             SolverSampler(Solver(probe.projection, DAMAGES), 0, BASELINE), {}, objectives(ACCURACY))
    bench = Bench(table, sampler="random" if study else sampler, study=study, size_bytes=8000, trials=18, damage=damage)
    everyone = bench.run()
    assert len(everyone) == 18 and {c.status for c in everyone} <= {"complete", "duplicate"}
    best = bench.events[-1].best
    assert best is not None
    assert best.metrics["size_bytes"] == min(c.metrics["size_bytes"] for c in everyone)


def test_where_no_training_succeeds_candidates_keep_what_they_reached(table: LayerTable) -> None:
    def damage(call: int, metrics: dict[str, float]) -> dict[str, float]:
        if bench.fake.calls[-1][1] > 0:
            raise TrialError("nan: the loss is not finite")
        return metrics

    bench = Bench(table, damage=damage, schedule=Schedule(short=3, long=1))
    everyone = bench.run()
    assert len([rung for _, rung in bench.fake.calls if rung > 0]) == 3
    assert {c.rung for c in everyone} == {0} and {c.status for c in everyone} <= {"complete", "duplicate"}
    assert set(failures(bench.study).values()) == {"nan: the loss is not finite"}
    assert {rung for _, rung in failures(bench.study)} == {1}


def _stored(everyone: list[Candidate]) -> dict[tuple[str, int], dict[str, float]]:
    return {(c.plan.fingerprint, e.rung): e.metrics for c in everyone if c.plan and c.duplicate_of is None
            for e in c.evaluations}


@pytest.mark.parametrize("kindly", [True, False], ids=["asked to stop", "killed"])
@pytest.mark.parametrize("moment", [1, 2, 5, 8, 9, 10, 11, 12], ids=lambda call: f"call {call}")
def test_interrupted_anywhere_and_resumed_nothing_is_lost_or_repeated(table: LayerTable, moment: int,
                                                                      kindly: bool) -> None:
    """Eight calibrations, three short trainings, a long one: the process ends in the middle of one of these."""
    def damage(call: int, metrics: dict[str, float]) -> dict[str, float]:
        if call == moment:
            raise TrialError("stopped") if kindly else KeyboardInterrupt
        return metrics

    first = Bench(table, damage=damage)
    first.engine._should_stop = lambda: kindly and len(first.fake.calls) >= moment
    pool = Inline.of(first.fake, first.engine._should_stop)
    if kindly:
        first.engine.run(pool)
    else:
        with pytest.raises(KeyboardInterrupt):
            first.engine.run(pool)
    before = _stored(first.engine.candidates())
    assert len(before) == moment - 1

    second = Bench(table, study=first.study)
    after = _stored(second.run())
    assert before.items() <= after.items(), "what was kept is as it was"
    assert not before.keys() & set(second.fake.calls), "and is not evaluated again"
    assert len(second.fake.calls) == len(set(second.fake.calls)) == len(after) - len(before)
    assert [rung for _, rung in after].count(0) == 8
    assert [sum(rung == level for _, rung in after) for level in (1, 2)] == [3, 1]
    assert optuna.trial.TrialState.RUNNING not in [t.state for t in second.study.trials]
    whole = Bench(table)
    assert _rows(second.engine.candidates()) == _rows(whole.run()), "as if it had never been interrupted"


def _rows(everyone: list[Candidate]) -> list[tuple[Any, ...]]:
    return [(c.trial, c.status, c.origin, c.plan, c.reason, [(e.rung, e.metrics) for e in c.evaluations])
            for c in everyone]


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
@pytest.mark.parametrize("moment", [5, 7, 14])
def test_every_sampler_draws_after_a_kill_what_it_would_have_drawn(table: LayerTable, sampler: str,
                                                                   moment: int) -> None:
    def damage(call: int, metrics: dict[str, float]) -> dict[str, float]:
        if call == moment:
            raise KeyboardInterrupt
        return metrics

    none = Schedule(short=0, long=0)
    first = Bench(table, damage=damage, sampler=sampler, trials=16, schedule=none)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    first.study.sampler = make_sampler(sampler, 0)
    second = Bench(table, study=first.study, trials=16, schedule=none)
    assert _rows(second.run()) == _rows(Bench(table, sampler=sampler, trials=16, schedule=none).run())


@pytest.mark.parametrize("broken", ["tell", "set_constraint"])
def test_a_kill_between_storing_and_closing_costs_no_trial(table: LayerTable, broken: str,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    first, calls = Bench(table, macs=10**7), 0
    owner = optuna.Study if broken == "tell" else optuna.Trial
    real = getattr(owner, broken)

    def killed(*args: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return real(*args, **named)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(owner, broken, killed)
        first.run()
    second = Bench(table, study=first.study, macs=10**7)
    assert _rows(second.run()) == _rows(Bench(table, macs=10**7).run())
    assert not set(first.fake.calls) & set(second.fake.calls)
    assert all(len(t.constraints) == 2 for t in second.study.trials if t.values)


def test_a_kill_while_the_first_trials_are_queued_loses_none(table: LayerTable,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    first, calls = Bench(table), 0
    real = optuna.Study.enqueue_trial

    def killed(*args: Any, **named: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        real(*args, **named)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(optuna.Study, "enqueue_trial", killed)
        first.run()
    assert _rows(Bench(table, study=first.study).run()) == _rows(Bench(table).run())


def test_failed_trainings_keep_their_traceback_and_are_not_tried_again(table: LayerTable) -> None:
    def damage(call: int, metrics: dict[str, float]) -> dict[str, float]:
        if bench.fake.calls[-1][1] == 1:
            raise SystemExit("the user's own augmentation gave up")
        return metrics

    bench = Bench(table, damage=damage)
    everyone = bench.run()
    assert all(c.reached == 0 for c in everyone if c.evaluations)
    stored = [text for key, text in bench.study.user_attrs.items() if key.startswith("traceback:")]
    assert len(stored) == 3 and all("in damage" in text and "SystemExit: the user's own" in text for text in stored)
    again = Bench(table, study=bench.study)
    again.run()
    assert again.fake.calls == []


def test_failed_trainings_count_in_the_failure_rate(table: LayerTable) -> None:
    def damage(call: int, metrics: dict[str, float]) -> dict[str, float]:
        if bench.fake.calls[-1][1] == 1:
            raise ValueError("no such colour")
        return metrics

    bench = Bench(table, damage=damage, trials=4, schedule=Schedule(short=4, long=1))
    bench.run()  # four of eight
    bench = Bench(table, damage=lambda call, m: damage(call, m) if call != 2 else damage(1, m | {"macs": math.nan}),
                  trials=4, schedule=Schedule(short=4, long=1))
    with pytest.raises(EnvironmentFault, match="4 of 7 failed, the last with: ValueError: no such colour"):
        bench.run()


class Slow(Executor):
    """Four workers at once, as far as the engine can see: results come when it waits for them."""

    jobs = 4

    def __init__(self, evaluate: Any) -> None:
        self._threads, self._evaluate = ThreadPoolExecutor(4), evaluate
        self.busy, self.submitted = 0, dict[int, set[tuple[int, int]]]()
        """Cores in use, and by rung how many were asked for while how many were in use."""

    def submit(self, job: Job) -> Future[Outcome]:
        with LOCK:
            self.submitted.setdefault(job.rung, set()).add((self.busy, job.threads))
            self.busy += job.threads

        def run() -> Outcome:
            time.sleep(0.02)
            with LOCK:
                self.busy -= job.threads
                return Outcome(evaluation=self._evaluate(job.plan, job.rung, job.seconds, None))

        return self._threads.submit(run)


def test_a_plan_under_way_is_not_begun_again(table: LayerTable) -> None:
    bench = Bench(table, space="int8", size_bytes=4000, trials=12)
    bench.engine.run(Slow(bench.fake))
    calibrated = [plan for plan, rung in bench.fake.calls if rung == 0]
    assert len(calibrated) == len(set(calibrated))
    everyone = bench.engine.candidates()
    assert len(everyone) == 12 and {c.status for c in everyone} == {"complete", "duplicate"}
    assert all(c.metrics for c in everyone)


@pytest.mark.parametrize("seconds", [None, 30.0])
def test_a_long_training_has_all_cores_to_itself(table: LayerTable, seconds: float | None) -> None:
    bench = Bench(table, space="int8", size_bytes=4000, trials=8, schedule=Schedule(short=3, long=2), seconds=seconds)
    pool = Slow(bench.fake)
    bench.engine.run(pool)
    assert {threads for _, threads in pool.submitted[CALIBRATED] | pool.submitted[SHORT]} == {1}
    assert pool.submitted[LONG] == {(0, 4)}
    assert sum(c.reached == LONG for c in bench.engine.candidates()) == 2
