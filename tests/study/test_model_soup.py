"""The soup at the end of a search: only relatives, only a gain on validation data, only inside the budget."""

from __future__ import annotations

import math
import time
from pathlib import Path

import msgspec
import pytest

from autocompress.backend.network.checkpoint import encode_weights
from autocompress.core.budget import Budget
from autocompress.core.cancellation import controlled
from autocompress.core.evaluation import AVERAGED, Candidate
from autocompress.core.metric import Reference
from autocompress.core.plan import Plan, Step
from autocompress.core.store import weights_key
from autocompress.hardware.profile import load_profile
from autocompress.study.model_soup import Soup, _relatives, greedy_soup
from autocompress.study.workbench import Workbench
from autocompress.tasks.classification.metric import ACCURACY
from autocompress.testing.exporters import integers
from autocompress.testing.networks import NETWORKS, task_data
from autocompress.testing.techniques import state_hash

ORIGINAL = Reference(ACCURACY, 1.0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workbench, list[Candidate]]:
    """Two plans of one structure, the first trained twice, and one of another structure."""
    chain = NETWORKS["chain"]
    bench = Workbench(chain.make(), task_data(chain.input_shape), load_profile("host"), seed=0,
                      folder=tmp_path_factory.mktemp("study"), epochs=1)
    pruned = Step(bench.network.table.groups[0].name, "prune", {"keep": 8})
    plans = [Plan.of((pruned, *integers(bench, bits, 8).steps)) for bits in ((3,), (4,))] + [integers(bench, (3,), 8)]
    candidates = [
        Candidate(
            trial=number,
            status="complete",
            plan=plan,
            evaluations=tuple(bench.evaluator.evaluate(plan, rung) for rung in range(3 if number == 0 else 2)),
        )
        for number, plan in enumerate(plans)
    ]
    return bench, candidates


def _scored(candidate: Candidate, *accuracies: float) -> Candidate:
    return msgspec.structs.replace(candidate, reference=ORIGINAL, evaluations=tuple(
        msgspec.structs.replace(e, metrics=e.metrics | {"accuracy": accuracy})
        for e, accuracy in zip(candidate.evaluations, accuracies, strict=True)))


def _never() -> bool:
    return False


def test_a_gain_is_kept_and_can_be_rebuilt(trained: tuple[Workbench, list[Candidate]]) -> None:
    bench, candidates = trained
    start = _scored(candidates[0], 0.0, 0.0, 0.0)
    soup = greedy_soup(bench, candidates, start, Budget(), ORIGINAL, math.inf, _never).evaluation
    assert soup is not None and soup.rung == AVERAGED and start.plan is not None
    receipt = next(r for r in soup.receipts if r.technique == "soup")
    members = receipt.facts["members"]
    plans = [c.plan.fingerprint for c in candidates if c.plan is not None]
    assert members[0] == plans[0] and len(members) > 1 and plans[2] not in members
    again = bench.trainer.rebuild(start.plan, AVERAGED)
    assert bench.evaluator.measured(again, AVERAGED, {}).metrics["accuracy"] == soup.metrics["accuracy"]
    assert state_hash(again.model) == state_hash(bench.trainer.rebuild(start.plan, AVERAGED).model)


def test_without_a_gain_budget_relatives_or_time_there_is_none(trained: tuple[Workbench, list[Candidate]],
                                                               tmp_path: Path) -> None:
    bench, candidates = trained
    best, worst = _scored(candidates[0], 0.0, 0.5, 1.0), _scored(candidates[0], 0.0, 0.0, 0.0)
    assert greedy_soup(bench, candidates, best, Budget(), ORIGINAL, math.inf, _never) == Soup()
    assert greedy_soup(bench, candidates, worst, Budget(size_bytes=10), ORIGINAL, math.inf, _never) == Soup()
    assert greedy_soup(bench, candidates, worst, Budget(), ORIGINAL, 0.0, _never) == Soup(is_cut_short=True)
    alone = _scored(candidates[2], 0.0, 0.0)
    assert greedy_soup(bench, candidates, alone, Budget(), ORIGINAL, math.inf, _never) == Soup()
    calibrated = _scored(candidates[0], 1.0, 0.0, 0.0)
    assert greedy_soup(bench, candidates, calibrated, Budget(), ORIGINAL, math.inf, _never) == Soup()


def test_none_is_begun_when_the_time_is_up(trained: tuple[Workbench, list[Candidate]]) -> None:
    """However the time was overrun before, the search goes on to what it has."""
    bench, candidates = trained
    with controlled(deadline=time.perf_counter() - 1):
        assert greedy_soup(bench, candidates, _scored(candidates[0], 0.0, 0.0, 0.0), Budget(), ORIGINAL, -1.0,
                           _never) == Soup(is_cut_short=True)


def test_networks_that_are_rescaled_in_other_ways_are_no_relatives(trained: tuple[Workbench, list[Candidate]]) -> None:
    bench, candidates = trained
    assert candidates[1].plan is not None and len(_relatives(bench, candidates, candidates[0], ACCURACY)) == 2
    rescaled = Plan(tuple(
        msgspec.structs.replace(step, args={**step.args, "equalize": "weights"}) if step.site == "1.0" and
        step.technique == "quantize" else step for step in candidates[1].plan.steps))
    other = msgspec.structs.replace(candidates[1], plan=rescaled)
    bench.store.put(weights_key(rescaled, 1), encode_weights(bench.trainer.rebuild(candidates[1].plan, 1)))
    assert rescaled not in [plan for plan, _ in _relatives(bench, [candidates[0], other], candidates[0], ACCURACY)]
