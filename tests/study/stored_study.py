"""A stored study of trials whose metrics are drawn: nothing is trained."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import create_trial

from autocompress.core import wire
from autocompress.core.budget import Budget
from autocompress.core.evaluation import Candidate, Evaluation
from autocompress.core.front import objectives
from autocompress.core.plan import Plan, Receipt
from autocompress.hardware.profile import load_profile
from autocompress.search.databases import open_storage, storage_url
from autocompress.search.samplers.make import make_sampler
from autocompress.search.samplers.thompson_sampler import distributions
from autocompress.search.storage import CANDIDATE, create_study
from autocompress.space.projection import Projection
from autocompress.space.space import build_space
from autocompress.space.spec import load_space
from autocompress.study.folder import Description, write_description
from autocompress.study.settings import SearchSettings
from autocompress.tasks.classification.metric import ACCURACY
from autocompress.techniques.knobs import from_stored
from autocompress.testing.facts import small_table

BUDGET = Budget(size_bytes=20_000)
BASELINE = {"accuracy": 0.95, "size_bytes": 80_000.0, "latency_ms": 9.0, "macs": 1e6}


def drawn_metrics(rng: random.Random) -> dict[str, float]:
    size = rng.uniform(5_000, 19_000)
    return {"accuracy": 0.6 + size / 1e5 + rng.gauss(0, 0.01), "accuracy_error": 0.01, "cross_entropy": rng.random(),
            "size_bytes": size, "latency_ms": size / 1e4 + rng.random(), "macs": size * 10}


def filled(folder: Path, trials: int, url: str | None = None) -> tuple[optuna.Study, Projection]:
    """A study in `folder` with so many complete trials of a few plans."""
    table = small_table()
    projection = Projection(build_space(table, load_space("default"), load_profile("host")), BUDGET)
    knobs = distributions(projection.space)
    study = create_study(open_storage(storage_url(folder, url)), "large", make_sampler("random", 0), {},
                         objectives(ACCURACY))
    drawn, rng = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)), random.Random(0)
    plans: list[tuple[dict[str, Any], Plan]] = []
    for number in range(trials):
        if number < 20:
            params = drawn.ask(knobs).params
            plans.append((params, projection.project(from_stored(params)).plan))
        params, plan = plans[number % len(plans)]
        receipts = tuple(Receipt(step.site, step.technique, {"kept": list(range(16))}) for step in plan.steps)
        metrics = drawn_metrics(rng)
        candidate = Candidate(trial=number, status="complete", plan=plan, evaluations=(
            Evaluation(rung=0, metrics=metrics, sources={}, receipts=receipts, timings={"score": 1.0}),))
        values = [metrics[name] for name in objectives(ACCURACY)]
        study.add_trial(create_trial(params=params, distributions=knobs, values=values,
                                     user_attrs={CANDIDATE: wire.encode(candidate)}))
    sources = dict.fromkeys(BASELINE, "measured")
    write_description(folder, Description(
        name="large", settings=SearchSettings(image_size=224, storage=url), budget=BUDGET, baseline=BASELINE,
        sources=sources, table=table, refused={},
        fingerprints=dict.fromkeys(("model", "data", "space", "profile"), "x")))
    return study, projection
