"""Studies with the latency on further devices: samplers take them, and resuming checks them."""

from __future__ import annotations

import optuna
import pytest
from engine_bench import BASELINE, Bench

from autocompress.core.front import objectives
from autocompress.core.layer import LayerTable
from autocompress.errors import StudyMismatchError
from autocompress.search.samplers.make import make_sampler
from autocompress.search.storage import create_study, require_same
from autocompress.tasks.classification.metric import ACCURACY

OBJECTIVES = objectives(ACCURACY, ["latency_ms@board", "latency_ms@card"])


def _on_both(call: int, metrics: dict[str, float]) -> dict[str, float]:
    return {"latency_ms@card": metrics["macs"] / 1e3, **metrics, "latency_ms@board": metrics["size_bytes"] / 1e3}


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])  # gp too, but it takes minutes with five objectives
def test_each_latency_is_told_and_bounded(table: LayerTable, sampler: str) -> None:
    study = create_study(optuna.storages.InMemoryStorage(), "s", make_sampler(sampler, 0), {}, OBJECTIVES)
    bench = Bench(table, study=study, trials=16, damage=_on_both, further_latency_ms={"board": 12.0})
    everyone = bench.run()
    assert len(everyone) == 16 and not any(c.status == "failed" for c in everyone)
    for candidate, trial in zip(everyone, study.trials, strict=True):
        told = candidate.evaluations[0].metrics
        assert trial.values == [told[n] for n in (
            "accuracy", "size_bytes", "latency_ms", "latency_ms@board", "latency_ms@card")]
        if candidate.status == "infeasible":
            assert "latency_ms@board over by" in candidate.reason
        assert bench.budget.allows(candidate.metrics, BASELINE) is (candidate.metrics["latency_ms@board"] <= 12.0)
    assert any(c.status == "infeasible" for c in everyone) and any(c.status == "complete" for c in everyone)


def test_another_number_of_devices_is_another_study() -> None:
    study = create_study(optuna.storages.InMemoryStorage(), "s", make_sampler("random", 0), {}, OBJECTIVES)
    require_same(study, {}, OBJECTIVES)
    with pytest.raises(StudyMismatchError, match="directions: stored"):
        require_same(study, {}, objectives(ACCURACY))
