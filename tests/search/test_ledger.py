"""Candidates in memory say what the whole list says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from autocompress.core.budget import Budget
from autocompress.core.evaluation import Candidate, Evaluation
from autocompress.core.front import best
from autocompress.core.metric import Reference
from autocompress.search.ledger import Ledger
from autocompress.search.storage import STOPPED
from autocompress.search.trial_status import judge
from autocompress.tasks.classification.metric import ACCURACY

BUDGET = Budget(size_bytes=1000, max_drop=0.2)
BASELINE = Reference(ACCURACY, 0.9)
METRICS = st.builds(
    lambda accuracy, size, entropy: {"accuracy": accuracy / 100, "accuracy_error": 0.02, "cross_entropy": entropy / 10,
                                     "size_bytes": float(size), "latency_ms": 1.0},
    st.integers(50, 100), st.integers(500, 1100), st.integers(1, 30))
STEP = st.tuples(st.integers(0, 9), st.sampled_from(["done", "failed", "stopped", "climbs"]), METRICS)


@given(st.lists(STEP, max_size=40))
def test_it_says_what_the_whole_list_says(steps: list[tuple[int, str, dict[str, float]]]) -> None:
    ledger, by_trial = Ledger(BUDGET, BASELINE), dict[int, Candidate]()
    for trial, kind, metrics in steps:
        evaluation = Evaluation(rung=0, metrics=metrics, sources={})
        if kind == "climbs" and trial in by_trial and by_trial[trial].evaluations:
            rung = len(by_trial[trial].evaluations)
            higher = Evaluation(rung=rung, metrics=metrics, sources={})
            grown = Candidate(trial=trial, status="complete", evaluations=(*by_trial[trial].evaluations, higher))
            by_trial[trial] = judge(grown, BUDGET, BASELINE)
            assert ledger.add(trial, higher).metrics == by_trial[trial].metrics
            continue
        if trial in by_trial:
            continue
        reason = STOPPED if kind == "stopped" else "it broke" if kind == "failed" else ""
        candidate = Candidate(trial=trial, status="failed" if reason else "complete", reason=reason,
                              evaluations=() if reason else (evaluation,))
        by_trial[trial] = ledger.put(candidate)
    everyone = [by_trial[trial] for trial in sorted(by_trial)]
    assert ledger.candidates == everyone and len(ledger) == len(everyone)
    assert ledger.best == best(everyone, BUDGET, BASELINE)
    assert ledger.feasible == sum(c.status == "complete" for c in everyone)
    assert ledger.failed == sum(c.status == "failed" and c.reason != STOPPED for c in everyone)
    assert ledger.judged == sum(c.reason != STOPPED for c in everyone)
