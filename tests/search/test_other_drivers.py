"""Two drivers on one study: nothing is evaluated twice, nothing of a living driver is touched, what a dead one left is
taken over."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from engine_bench import Bench
from optuna.trial import TrialState

from autocompress.core.front import objectives
from autocompress.core.layer import LayerTable
from autocompress.search import other_drivers
from autocompress.search.databases import open_storage, storage_url
from autocompress.search.efforts import Schedule
from autocompress.search.other_drivers import LEASE, NOBODY, Drivers
from autocompress.search.samplers.make import make_sampler
from autocompress.search.storage import create_study, load_study, queue_interrupted
from autocompress.tasks.classification.metric import ACCURACY

# Seconds between renewals of leases where a driver is seen to die, and where both live: a busy disk must not look like
# death.
SOON, LATER, TRIALS = 0.3, 10.0, 8


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a second takes a moment."""
    monkeypatch.setattr(other_drivers, "SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(other_drivers, "NEWS_SECONDS", 0.05)


@pytest.fixture(params=["sqlite", pytest.param("journal", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A storage that several processes can reach."""
    return storage_url(tmp_path, None) if request.param == "sqlite" else str(tmp_path / "study.log")


def _driver(table: LayerTable, url: str, seed: int = 0, pause: float = 0.02, renew: float = SOON) -> Bench:
    """A driver with a connection of its own, whose evaluations take a moment."""
    def damage(call: int, metrics: dict[str, float]) -> dict[str, float]:
        time.sleep(pause)
        return metrics

    storage, sampler = open_storage(url), make_sampler("random", seed)
    study = load_study(storage, "s", sampler) or create_study(storage, "s", sampler, {}, objectives(ACCURACY))
    bench = Bench(table, study=study, trials=TRIALS, schedule=Schedule(short=3, long=2), damage=damage)
    bench.engine._drivers = Drivers(study, renew)
    return bench


def _together(*benches: Bench) -> list[BaseException]:
    errors: list[BaseException] = []

    def run(bench: Bench) -> None:
        try:
            bench.run()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(bench,)) for bench in benches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return errors


def test_two_drivers_share_the_trials_and_the_trainings(table: LayerTable, url: str) -> None:
    first, second = _driver(table, url, renew=LATER), _driver(table, url, seed=1, renew=LATER)
    assert _together(first, second) == []
    trials = first.study.get_trials(deepcopy=False)
    assert [trial.number for trial in trials] == list(range(TRIALS)) and all(t.state.is_finished() for t in trials)
    calls = Counter([*first.fake.calls, *second.fake.calls])
    assert max(calls.values()) == 1, "nothing was evaluated twice"
    assert first.fake.calls and second.fake.calls, "both worked"
    assert [rung for _, rung in calls].count(1) == 3 and [rung for _, rung in calls].count(2) == 2
    assert not {"failed", "running"} & {c.status for c in _driver(table, url).engine.candidates()}


def test_what_a_living_driver_is_at_is_left_alone(table: LayerTable, url: str) -> None:
    first = _driver(table, url, renew=2.0)
    with first.engine._drivers.present():
        trial, candidate = first.engine._ask()
        assert candidate.plan is not None
        first.engine._drivers.begin(trial, candidate.plan.fingerprint)
        second = _driver(table, url, seed=1, renew=10 * SOON)
        second.run()  # ends by itself: the other is known to be alive
        assert first.engine._drivers.holds(trial)
        assert first.study._storage.get_trial(trial._trial_id).state is TrialState.RUNNING
    others = [t for t in first.study.get_trials(deepcopy=False) if t.number != trial.number]
    assert len(others) == TRIALS - 1 and all(t.state.is_finished() for t in others)


def _leave(table: LayerTable, url: str, **lease: Any) -> int:
    """Leave a trial open, as a driver does that is killed, and return its number."""
    bench = _driver(table, url)
    trial, _ = bench.engine._ask()
    if lease:
        bench.study._storage.set_trial_user_attr(trial._trial_id, LEASE, lease)
    return trial.number


@pytest.mark.parametrize("lease", [
    {"by": "gone", "host": "elsewhere", "process": 1, "beat": 5},
    *(pytest.param(lease, marks=pytest.mark.slow) for lease in (
        {}, {"by": NOBODY}, {"by": "gone", "host": socket.gethostname(), "process": 2**22 + 1, "beat": 5}))])
def test_what_a_dead_driver_left_is_taken_over(table: LayerTable, url: str, lease: dict[str, Any]) -> None:
    number = _leave(table, url, **lease)
    bench = _driver(table, url, seed=1, pause=0)
    everyone = bench.run()
    assert [c.trial for c in everyone] == list(range(TRIALS))
    assert not {"failed", "running"} & {c.status for c in everyone}
    assert bench.study.trials[number].user_attrs["tries"] == 1


def test_a_driver_that_slept_does_not_close_what_another_has_taken(table: LayerTable, url: str) -> None:
    first = _driver(table, url)
    trial, candidate = first.engine._ask()
    assert candidate.plan is not None
    first.engine._drivers.begin(trial, candidate.plan.fingerprint)
    second = _driver(table, url, seed=1)
    assert queue_interrupted(second.study) == ([], [trial.number])
    second.run()
    taken = second.study.trials[trial.number]
    assert taken.state is TrialState.COMPLETE
    first.engine._ledger = first.engine._read()
    first.engine._close(trial, candidate)
    assert second.study.trials[trial.number] == taken


def test_a_claim_is_one_drivers_until_it_is_left(table: LayerTable, url: str) -> None:
    first, second = (_driver(table, url).engine._drivers for _ in range(2))
    got: list[bool] = []
    threads = [threading.Thread(target=lambda each=each: got.append(each.claim("7:1"))) for each in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [False, True]
    winner, loser = (first, second) if first.claim("7:1") else (second, first)
    assert not loser.claim("7:1") and loser.claimed() == {"7:1"} and winner.claimed() == set()
    winner.leave("7:1")
    assert loser.claim("7:1")
    loser.done("7:1")
    assert not winner.claim("7:1") and not loser.claim("7:1")
