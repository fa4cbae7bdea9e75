"""One search from arguments to artefact."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocompress.core.budget import Budget
from autocompress.core.cancellation import controlled
from autocompress.core.evaluation import Evaluation
from autocompress.core.front import Direction, objectives
from autocompress.core.metric import Reference
from autocompress.core.sensitivity import SensitivityTable
from autocompress.core.warnings import Warned, collecting, warn
from autocompress.errors import InfeasibleError, InputError, TrialError
from autocompress.hardware.profile import HardwareProfile
from autocompress.hardware.targets import load_targets
from autocompress.search.engine import Engine, Event, Settings
from autocompress.search.executors.base import Executor, Outcome
from autocompress.search.fidelity import EFFORTS
from autocompress.search.samplers.make import AUTO, check_sampler, make_sampler
from autocompress.search.storage import (
    create_study,
    delete_study,
    failures,
    load_study,
    open_storage,
    require_same,
    storage_errors,
    storage_url,
    store_rung,
)
from autocompress.search.storage_urls import check_storage, shown_url
from autocompress.space.format_legality import space_of
from autocompress.space.projection import Projection
from autocompress.space.solver.solver import Solver
from autocompress.space.spec import SpaceSpec, load_space
from autocompress.study.built_files import Trimmer
from autocompress.study.chosen_format import chosen_format
from autocompress.study.folder import choose_folder, is_described
from autocompress.study.folder_claim import claimed
from autocompress.study.identity import default_name, describe, identity_of, kept_float, older_identity, stored_name
from autocompress.study.latency_prediction import predicted_metrics, predicting
from autocompress.study.loading import load_task, make_bench, open_executor, require_same_task
from autocompress.study.model_soup import blend
from autocompress.study.options import Options
from autocompress.study.ownership import discard
from autocompress.study.process_state import kept_surroundings
from autocompress.study.quantization_payoff import unpaying_layers
from autocompress.study.result import SearchResult
from autocompress.study.resume import read_prior_study, seeds, take_answers, with_stored_arguments
from autocompress.study.sanity_checks import original_doubts
from autocompress.study.sensitivity import sensitivity
from autocompress.study.shortfalls import shortfalls, slower
from autocompress.study.signals import HANG_SECONDS, Stop, StoppedNow, stoppable
from autocompress.study.workbench import Workbench
from autocompress.tasks.models import safe_name

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)

SENSITIVITY_SHARE, MOST_OF_THE_REST = 0.3, 0.6
"""Shares of a time limit, and of what is left of it when the table begins, that the sensitivity table may take: where
that is too short, it is taken on fewer samples and then of fewer options."""
AVERAGING_SHARE, ATTRIBUTION_SHARE = 0.01, 0.01
"""Shares of a time limit that are left to averaging trained candidates, and to what the best plan's techniques buy."""
REPORT_SECONDS = 2.0
"""About what writing the report takes."""
LATE_SECONDS = 10.0
"""What it may take where the time for trials is up before the first one, which should be the one that it finds."""


def search(model: Any = None, data: Any = None, budget: str | float | None = None, *,
           on_event: Callable[[Event], None] | None = None, **options: Any) -> SearchResult:
    """Search for the best compressed versions of a network inside a budget, and export the best.

    `model`: an nn.Module, `torchvision:NAME`, `timm:NAME` or `path/to/file.py:factory`; `data`: arrays, Datasets, a
    TaskData, or a spec (`digits`, `fashion-mnist`, `cifar10`, `imagefolder:DIR`, `npz:FILE`, `file.py:factory`).
    Without both, the embedded ResNet-18 on handwritten digits. `budget`: bytes of the exported file, `"2MB"`.
    Further bounds: `latency="5ms"`, `macs="50M"`, `peak_memory="256KiB"`, `max_drop="1%"`. `weights`: a safetensors
    file or a checkpoint of torch.save; `weights_key`: which of its state dicts, where several fit.
    `profile`, `space`: names or TOML files; a list of profiles asks for plans that are legal on all of them, the
    latency on each an objective, and bounded on each by `latency="5ms"`, on some by
    `latency={"stm32h743": "80ms"}`. `sampler`: auto, tpe, nsga2, random or gp. `effort`: fast, normal or thorough,
    which sets how many are trained, and `trials` and `epochs` (of the long distillation) where they are not given.
    `timeout` ("15m"), `trial_timeout` (longest that one evaluation of a candidate may take, which fails then), `seed`,
    `jobs` (processes), `out` (the study's folder), `name`, `storage` (an Optuna URL), `resume`,
    `force_new_study`, `device` ("auto", "cpu", "cuda"), `data_root` (of downloaded data), `image_size`,
    `resize`, `crop`, `mean`, `std` (how pictures are brought to size and normalised; left out, as the weights of timm
    or torchvision say), `inputs` (pixels, values or tokens), `trust_code` (False: no Python file is run). With
    `from_study`, the folder of another study of the same network and data, the search starts where that ended, with its
    network, data, seed, space, profile, effort and epochs where they are not given; with `resume` and `out`, all but
    `timeout`, `trial_timeout`, `jobs` and `device` are the study's own. `on_event` is told of progress.

    Raises InputError, InfeasibleError, EnvironmentFault, AutocompressError where an exported file is not what was
    promised, or Interrupted after Ctrl-C; a study that has begun is kept in each case.
    """
    started = time.perf_counter()
    asked = Options.of(**with_stored_arguments({"model": model, "data": data, "budget": budget, **options}))
    profile, spec = load_targets(asked.profile), load_space(asked.space)
    constraints = asked.constraints([device.id for device in profile.latencies.values()])
    chosen_format(asked.format, profile, asked.trust_code)  # what is no format is said before anything is loaded
    check_sampler(asked.sampler)
    check_storage(asked.storage)
    notify = on_event or (lambda event: None)
    with stoppable() as stop:
        try:
            with kept_surroundings(), ExitStack() as stack:
                stack.enter_context(controlled(tell=lambda what, done, total: notify(
                    Event(kind="progress", text=what, done=done, total=total))))
                if asked.out is not None:
                    stack.enter_context(claimed(asked.out, resume=asked.resume, replace=asked.force_new_study))
                return _search(asked, spec, profile, constraints, notify, started, stop, stack)
        except StoppedNow:
            raise stop.interrupted() from None


def _search(asked: Options, spec: SpaceSpec, profile: HardwareProfile, constraints: Budget,
            notify: Callable[[Event], None], started: float, stop: Stop, stack: ExitStack) -> SearchResult:
    """`search` with what it was asked, checked; `stop` is asked now and then whether to go on, `stack` holds the claim
    on the study's folder."""
    collector = stack.enter_context(collecting())
    earlier = read_prior_study(asked.from_study, asked.resume)
    notify(Event(kind="phase", text="loading the network and its data"))
    loaded, task = load_task(asked)
    constraints = constraints.of_metric(task.metric)
    if earlier is not None:
        require_same_task(earlier.description, loaded, task)
    name = safe_name(asked.name or (asked.out.resolve().name if asked.out else default_name(loaded, task, asked)))
    folder = choose_folder(asked.out, name, asked.resume)
    if asked.out is None:
        stack.enter_context(claimed(folder, resume=asked.resume, replace=asked.force_new_study))
    name = stored_name(asked, folder, name)
    if asked.resume and is_described(folder):
        stop.folder = folder
    notify(Event(kind="phase", text="tracing and measuring the original"))
    bench = make_bench(loaded, task, asked, folder)
    for note in bench.network.notes:
        log.warning(note)
    kept = kept_float(asked, folder, lambda: unpaying_layers(bench, spec))
    space = space_of(bench.network.table, spec, profile, bench.network.writer.format, kept)
    projection = Projection(space, constraints)
    projection.require_feasible()
    bench.evaluator.prepare()
    before = time.perf_counter()
    timings = {"set-up": before - started}
    baseline = bench.evaluator.baseline()
    reference = Reference(task.metric, baseline[task.metric.name])
    timings["original"] = time.perf_counter() - before
    predicted = predicted_metrics(profile, constraints)
    if predicted:
        space = space_of(bench.network.table, spec, predicting(bench, baseline, constraints),
                         bench.network.writer.format, kept)
        projection = Projection(space, constraints, predicted)
    if bench.evaluator.original_answers is not None:
        for doubt in original_doubts(bench.evaluator.original_answers, loaded.claimed, task.described):
            warn(log, doubt)
    if asked.force_new_study:
        discard(folder)
    identity = identity_of(loaded, task, spec, profile.fingerprint, asked.seed, constraints)
    storage = open_storage(storage_url(folder, asked.storage))
    stored = _stored_study(storage, name, folder, asked, identity, objectives(reference.metric, profile.latencies),
                           older_identity(identity, folder, constraints))
    description = describe(folder, name, asked, constraints, bench, baseline, identity, timings, kept)
    study = stored or create_study(storage, name, make_sampler(asked.sampler, asked.seed), identity,
                                   objectives(reference.metric, profile.latencies))
    stop.folder = folder
    if asked.seconds is not None:
        stop.end_after(2 * asked.seconds + HANG_SECONDS - (time.perf_counter() - started))
    take_answers(earlier, folder, asked.seed)
    # At the end the original runs on the test split, the file on both: a bound from what was just measured.
    reserve = 5 + timings["original"] * (0.5 + len(task.test) / len(task.validation))
    reserve += ATTRIBUTION_SHARE * (asked.seconds or 0.0)
    averaging = AVERAGING_SHARE * (asked.seconds or 0.0)
    settings = Settings(trials=asked.trials, seconds=asked.seconds, reserve_seconds=reserve + averaging,
                        trial_seconds=asked.trial_seconds, schedule=EFFORTS[asked.effort].schedule)
    sensitivity_table: SensitivityTable | None = None
    solver: Solver | None = None
    if asked.sampler == AUTO or projection.bounds:
        notify(Event(kind="phase", text="predicting what each option would cost"))
        before = time.perf_counter()
        sensitivity_table = _damages(bench, projection, asked, _table_seconds(asked, settings, started))
        solver = Solver(projection, sensitivity_table) if sensitivity_table else None
        timings["sensitivity"] = time.perf_counter() - before
    if asked.sampler == AUTO:
        study.sampler = make_sampler(AUTO, asked.seed, solver, reference)
    fit = None if solver is None or asked.sampler == AUTO else solver.fit
    trimmer = Trimmer(folder, constraints, reference)

    def told(event: Event) -> None:
        notify(event)
        if event.kind == "result":
            trimmer.look(engine.candidates)

    engine = Engine(study, projection, constraints, reference, settings, started, told, stop,
                    seeds(earlier, projection), fit)
    result = SearchResult(folder, description, study=study, bench=bench)
    failure: InfeasibleError | None = None
    with stop.patiently():
        executor = open_executor(bench, loaded, task, asked, folder, stop)
        failure = _run(engine, executor, lambda outcome: bench.evaluator.completed(outcome, executor.quiet))
        timings["sampling and storage"] = engine.overhead_seconds
        if failure is None and not stop():
            for sentence in shortfalls(engine.candidates(), failures(study), _late(settings, started)):
                warn(log, Warned("search-fell-short", sentence))
        if failure is None and result.best is not None:
            before = time.perf_counter()
            left = math.inf if asked.seconds is None else started + asked.seconds - reserve - before
            with controlled(deadline=before + left):
                evaluation = blend(bench, result.candidates, result.best, constraints, reference, left, stop)
            if evaluation is not None:
                store_rung(study, result.best.trial, evaluation)
                result.refresh()
            timings["averaging"] = time.perf_counter() - before
        if failure is None and result.best is not None and not result.is_exported:
            notify(Event(kind="phase", text=f"exporting and verifying trial {result.best.trial}"))
            before = time.perf_counter()
            if result.artifact_fault:
                log.warning("%s: it is exported anew", result.artifact_fault)
            result.ship()
            for sentence in slower(result.artifact):
                log.warning(sentence)
            timings["verify"] = time.perf_counter() - before
        if not stop():
            before = time.perf_counter()
            left = math.inf if asked.seconds is None else started + asked.seconds - REPORT_SECONDS - before
            with controlled(deadline=before + left):
                result.explain(projection, sensitivity_table, left, stop)
            timings["attribution"] = time.perf_counter() - before
    if stop():
        result.refresh()  # it may have been read before what was cut off was stored
    trimmer.end(result.candidates)
    result.conclude(timings, time.perf_counter() - started, collector.found)
    if failure is not None and not stop():
        failure.study = folder
        raise failure
    if stop():
        raise stop.interrupted()
    return result


def _stored_study(storage: optuna.storages.BaseStorage, name: str, folder: Path, asked: Options,
                  identity: dict[str, Any], directions: Mapping[str, Direction],
                  older: dict[str, Any] | None) -> optuna.Study | None:
    """The stored study to go on with, if there is one. StudyMismatchError when it is of something else. `older`: how an
    earlier release stored the identity."""
    if asked.force_new_study:
        delete_study(storage, name)
    study = load_study(storage, name)
    if study is None:
        return None
    require_same(study, identity, directions, older)
    if not asked.resume:
        place = shown_url(asked.storage or str(folder))
        raise InputError(f"study {name!r} is already in {place}: add --resume to go on with it, or choose another "
                         "--out")
    study.sampler = make_sampler(asked.sampler, asked.seed)
    return study


def _late(settings: Settings, started: float) -> bool:
    """Whether the time for trials is up."""
    return settings.seconds is not None and time.perf_counter() - started >= settings.seconds - settings.reserve_seconds


def _table_seconds(asked: Options, settings: Settings, started: float) -> float:
    """What the sensitivity table may take."""
    if asked.seconds is None:
        return math.inf
    if _late(settings, started):
        return LATE_SECONDS if asked.sampler == AUTO else 0.0  # the others' first plans need no table
    left = started + asked.seconds - settings.reserve_seconds - time.perf_counter()
    return min(SENSITIVITY_SHARE * asked.seconds, MOST_OF_THE_REST * left)


def _damages(bench: Workbench, projection: Projection, asked: Options, seconds: float) -> SensitivityTable | None:
    """None, with a warning, where the sensitivity table cannot be measured or takes too long."""
    without = "searching with TPE" if asked.sampler == AUTO else "moving every layer of a plan alike into the budget"
    try:
        return sensitivity(bench, projection.space, seconds)
    except Exception as error:  # a table is a help, not a condition
        cause = next(iter(str(error).strip().splitlines()), "") or "no message"
        log.warning("%s, because what options would cost could not be predicted: %s", without,
                    cause if isinstance(error, TrialError) else f"{type(error).__name__}: {cause}")
        log.debug("the cause", exc_info=error)
        return None


def _run(engine: Engine, executor: Executor, receive: Callable[[Outcome], Evaluation]) -> InfeasibleError | None:
    """Run the engine; that nothing is feasible is reported only after the report was written."""
    try:
        with storage_errors("the study's storage"):
            engine.run(executor, receive)
    except InfeasibleError as error:
        return error
    finally:
        executor.close()
    return None
