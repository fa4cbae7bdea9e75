"""A study of thousands of trials: read once, and as cheap to go on with as a small one."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from plotly.offline import get_plotlyjs
from stored_study import BASELINE, BUDGET, drawn_metrics, filled

from autocompress.core.evaluation import Evaluation
from autocompress.core.metric import Reference
from autocompress.core.plan import Plan
from autocompress.search import engine, storage
from autocompress.search.clock import Settings
from autocompress.search.engine import Engine
from autocompress.search.executors.inline import Inline
from autocompress.search.samplers.thompson_sampler import MOST_TRIALS_READ, informative_trials
from autocompress.search.storage import CANDIDATE
from autocompress.search.stored_trials import stored_trials, trial_counts
from autocompress.search.study_store import StudyStore
from autocompress.study import open_study
from autocompress.study.folder import read_description, read_store
from autocompress.tasks.classification.metric import ACCURACY


def _look(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """How often all trials are read for the table, the page and the document of a study, and the bytes of the page."""
    reads: list[int] = []
    real = storage.stored_trials
    monkeypatch.setattr(storage, "stored_trials", lambda *names: (reads.append(1), real(*names))[1])
    monkeypatch.setattr(optuna.Study, "get_trials", lambda *_, **__: pytest.fail("parameters are not needed"))
    result = open_study(folder)
    result.view()
    result.candidate("best")
    page = result.report()
    result.to_dict()
    assert len(result.front) and len(result.trials) == len(result.candidates)
    monkeypatch.undo()
    return len(reads), page.stat().st_size


def test_what_is_selected_is_what_optuna_knows(tmp_path: Path) -> None:
    study, _ = filled(tmp_path, 6)
    study.enqueue_trial({}, user_attrs={"reason": "waits"})
    study.ask()
    memory = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    for trial in study.get_trials():
        memory.add_trial(trial)
    expected = stored_trials(memory, CANDIDATE, "reason")
    assert len(expected) == 7 and {len(trial.user_attrs) for trial in expected} == {1}
    assert stored_trials(study, CANDIDATE, "reason") == expected
    assert trial_counts(study) == trial_counts(memory) == {TrialState.COMPLETE: 6, TrialState.RUNNING: 1}


def test_counting_and_watching_build_no_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, 5)
    store = read_store(tmp_path, read_description(tmp_path))
    monkeypatch.setattr(optuna.storages.RDBStorage, "_build_frozen_trial_from_trial_model",
                        lambda *_: pytest.fail("no trial is needed"))
    assert len(store) == 5 and store.watched()[1] == {}


def test_a_study_is_read_once_however_much_is_asked_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, 24)
    assert _look(tmp_path, monkeypatch)[0] == 1


def test_showing_and_reporting_a_study_load_no_torch(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    code = (f"import sys; from autocompress.cli.main import main\nstudy = {str(tmp_path)!r}\n"
            "assert main(['show', study]) == 0 and main(['report', study]) == 0\nsys.exit('torch' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_two_thousand_trials_are_read_once_and_fit_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, 2000)
    reads, size = _look(tmp_path, monkeypatch)
    assert reads == 1 and size - len(get_plotlyjs()) < 2000 * 1000


@pytest.mark.parametrize("trials", [4, 12])
def test_a_run_reads_what_is_stored_once_however_many_it_tries(trials: int, tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    study, projection = filled(tmp_path, 8)
    reads: list[int] = []
    real = engine.candidates
    monkeypatch.setattr(engine, "candidates", lambda study: (reads.append(1), real(study))[1])
    rng = random.Random(1)

    def evaluate(plan: Plan, rung: int, *_: Any) -> Evaluation:
        return Evaluation(rung=rung, metrics=drawn_metrics(rng), sources={})

    run = Engine(StudyStore(study), projection, BUDGET, Reference(ACCURACY, BASELINE["accuracy"]),
                 Settings(trials=8 + trials), 0.0,
                 lambda event: None, lambda: False)
    run.run(Inline.of(evaluate))
    assert len(reads) == 1
    assert len(run.candidates()) == 8 + trials
    assert [c.evaluations for c in run.candidates()] == [c.evaluations for c in real(study)]


def test_a_proposal_is_learnt_from_a_bounded_number_of_trials() -> None:
    trials = [create_trial(params={}, distributions={}, values=[number % 997 / 997, 1.0, 1.0])
              for number in range(3 * MOST_TRIALS_READ)]
    for number, trial in enumerate(trials):
        trial.number = number
    read = informative_trials(trials)
    assert len(read) == MOST_TRIALS_READ and read == sorted(read, key=lambda t: t.number)
    assert read[-1] is trials[-1] and max(trials, key=lambda t: t.values[0]) in read
    assert informative_trials(trials[:MOST_TRIALS_READ]) == trials[:MOST_TRIALS_READ]
