"""The plan of a finished study on retrained weights of the same network: recovered, written, verified, no search."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import msgspec

from autocompress.artifact.options import ExportOptions
from autocompress.core.budget import Budget, shown_excess
from autocompress.core.evaluation import LONG, Candidate
from autocompress.core.metric import Metric, Reference
from autocompress.errors import InfeasibleError, InputError, TrialError
from autocompress.study.export_candidate import ship
from autocompress.study.folder import Description, read_description
from autocompress.study.identity import described, fingerprints
from autocompress.study.loading import load_task, make_bench
from autocompress.study.process_state import kept_surroundings
from autocompress.study.request import Request
from autocompress.study.result import open_study
from autocompress.study.settings import SETTINGS, SearchSettings
from autocompress.study.workbench import study_store
from autocompress.tasks.cache import cache_dir
from autocompress.techniques.apply import check_plan


@dataclass(frozen=True)
class Applied:
    """What came of applying a plan to other weights.

    Args:
        facts: what was verified of the file.
        metric: the task's.
        original: the metric of the original with the new weights, on the validation split.
    """

    facts: dict[str, Any]
    metric: Metric
    original: float


def apply_plan(study: Path, trial: int | str, weights: Path, out: Path, *, data: str | None = None,
               rung: int | None = None, seconds: float | None = None, device: str = "auto", trust_code: bool = False,
               options: ExportOptions | None = None) -> Applied:
    """Carry out the plan of a trial on other weights of the study's network, and export it.

    Training starts from the weights that the study trained for the plan, where these answer more like the network with
    its new weights than what the plan makes of it does.

    Args:
        study: folder of the study.
        trial: its number, or `best`.
        weights: file of the new weights.
        out: folder for the artefact.
        data: what to train and verify with, in place of the study's data.
        rung: how long to train, 0 not at all, 1 briefly, 2 for the study's epochs; by default as the trial was.
        seconds: that the training may take.
        device: a torch device.
        trust_code: run the Python files that the study was made from.
        options: who signs the artefact, and the key that encrypts it.

    Raises:
        InputError: for a study without such a trial, a trial that has no plan, and weights or data that do not fit.
        InfeasibleError: when the file is not inside the study's bounds; nothing is written.
    """
    description = read_description(study)
    candidate = open_study(study).candidate(trial)
    if candidate.plan is None or candidate.best is None:
        raise InputError(f"a trial must have been scored for its plan to be applied, but trial {candidate.trial} is "
                         f"{candidate.status} ({candidate.reason}); `autocompress report` lists the others")
    request = _request(description, weights, data, device, trust_code)
    rung = min(candidate.best.rung, LONG) if rung is None else rung
    folder = Path(mkdtemp(prefix="autocompress-"))
    try:
        with kept_surroundings():
            loaded, task = load_task(request.settings)
            if data is None and task.fingerprint != description.fingerprints["data"]:
                raise InputError(f"the data must be those that the study was made from (fingerprint "
                                 f"{description.fingerprints['data']}), but are others ({task.fingerprint}): name the "
                                 "new ones with --data")
            store = study_store(folder, cache_dir() / "statistics", study)
            bench = make_bench(loaded, task, request, folder, store)
            check_plan(bench.network.table, candidate.plan, request.profile, request.techniques)
            baseline = bench.evaluator.baseline()
            try:
                evaluation = bench.evaluator.evaluate(candidate.plan, rung, seconds)
            except TrialError as error:
                raise InputError(f"the plan of trial {candidate.trial} must be carried out with weights of the study's "
                                 f"network, but with these: {error}") from None
            result = Candidate(trial=candidate.trial, status="complete", plan=candidate.plan, evaluations=(evaluation,))
            hashes = fingerprints(loaded, task, request)
            told = described(description.name, request, hashes, bench, baseline, timings={})
            _require_inside(description.budget, result, told.reference)
            facts = ship(bench, result, out, told, options)
        return Applied(facts, told.metric, baseline[told.metric.name])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _request(description: Description, weights: Path, data: str | None, device: str, trust_code: bool) -> Request:
    """The study's settings with other weights. InputError where the network cannot be made of them."""
    stored, device = description.settings, SETTINGS["device"].kind.parse(device, "--device")
    if description.objects:
        raise InputError(f"a study must name its {description.objects[0]} for its plans to be applied, but this one "
                         "was made from Python objects: use autocompress.trace(model=…, data=…).export(plan, folder)")
    if not isinstance(stored.model, str):
        raise InputError("a study must name its network for its plans to be applied to other weights, but this one is "
                         "of the embedded example")
    if not weights.is_file():
        raise InputError(f"--weights must be a file of weights, but there is none at {weights}")
    changed: dict[str, Any] = {} if data is None else {"data": data}
    settings: SearchSettings = msgspec.structs.replace(stored, weights=weights, weights_key=None, device=device,
                                                       trust_code=trust_code, from_study=None, **changed)
    request = Request.of(settings)
    return Request(settings, request.space, request.profile, description.budget)


def _require_inside(budget: Budget, candidate: Candidate, reference: Reference) -> None:
    missed = {name: excess for name, excess in budget.excess(candidate.metrics, reference).items() if excess > 1e-12}
    if missed:
        told = ", ".join(f"{name} by {shown_excess(name, excess, reference.metric)}" for name, excess in missed.items())
        raise InfeasibleError(f"with these weights the plan must keep the study's bounds, "
                              f"{budget.describe(reference.metric)}, but misses {told}; nothing was written. Search "
                              "anew, or train it longer with --rung 2")
