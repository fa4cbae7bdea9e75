"""The stages of a search, in the order in which `study/run.py` calls them: each takes what the ones before it made."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from autocompress.core.allocator import release_memory
from autocompress.core.cancellation import controlled
from autocompress.core.front import objectives
from autocompress.core.metric import Reference
from autocompress.core.sensitivity import SensitivityTable
from autocompress.core.warnings import Warned, warn
from autocompress.errors import InfeasibleError, TrialError
from autocompress.search.clock import Settings
from autocompress.search.databases import storage_errors, storage_url
from autocompress.search.efforts import EFFORTS
from autocompress.search.engine import Engine, Event
from autocompress.search.publisher import Publisher
from autocompress.search.samplers.make import AUTO, asks_solver, make_sampler
from autocompress.search.storage import closed_trials
from autocompress.search.study_store import StudyStore
from autocompress.space.format_legality import floats_alone, offers_integers, space_of
from autocompress.space.projection import Projection
from autocompress.space.solver.solver import Solver
from autocompress.space.spec import SpaceSpec
from autocompress.study.built_files import Trimmer
from autocompress.study.folder import choose_folder, is_described, read_description, write_description
from autocompress.study.folder_claim import claimed
from autocompress.study.further_formats import in_format
from autocompress.study.identity import (
    default_name,
    described,
    fingerprints,
    former_identity,
    identity_of,
    kept_float,
    stored_name,
)
from autocompress.study.latency_prediction import predicted_metrics, predicting
from autocompress.study.least_time import FINALISTS, export_seconds, pass_seconds, require_time
from autocompress.study.loading import load_task, make_bench, open_executor, require_same_task
from autocompress.study.measuring_place import Stopwatch
from autocompress.study.model_soup import greedy_soup
from autocompress.study.original import PLAIN_EXPORTS
from autocompress.study.ownership import discard
from autocompress.study.quantization_payoff import unpaying_layers
from autocompress.study.racing import Sizes, finalist, part_of
from autocompress.study.request import Request
from autocompress.study.result import SearchResult
from autocompress.study.resume import PriorStudy, read_prior_study, seeds, take_answers
from autocompress.study.rounding_choices import settled_space
from autocompress.study.sensitivity import sensitivity
from autocompress.study.shortfalls import shortfalls, slower
from autocompress.study.signals import HANG_SECONDS, Stop
from autocompress.study.workbench import Workbench
from autocompress.tasks.base import Task, metric_of
from autocompress.tasks.models import LoadedModel, safe_name

log = logging.getLogger(__name__)

# Shares of a time limit, and of what is left of it when the table begins, that the sensitivity table may take: where
# that is too short, it is taken on fewer samples and then of fewer options.
SENSITIVITY_SHARE, MOST_OF_THE_REST = 0.3, 0.6
# Shares of a time limit that are left to averaging trained candidates, and to what the best plan's techniques buy.
AVERAGING_SHARE, ATTRIBUTION_SHARE = 0.01, 0.01
# The most finalists that are scored on more samples.
MOST_CONFIRMED = 8
# Shares of the time that is left, above which, as predicted, 8-bit activations are not compared with float ones on the
# original, and no plain export of it is made.
PAYOFF_SHARE, EXPORT_SHARE = 0.15, 0.25
# About what writing the report takes.
REPORT_SECONDS = 2.0
# What it may take where the time for trials is up before the first one, which should be the one that it finds.
LATE_SECONDS = 10.0


@dataclass
class Run:
    """One run of a search: what is asked, whom to tell, and its time.

    `stop` is asked now and then whether to go on, `stack` holds the claim on the study's folder; `started` is a
    `time.perf_counter()`, `timings` are seconds by stage. `is_cut_short`: the clock left something out beside trials.
    """

    request: Request
    notify: Callable[[Event], None]
    stop: Stop
    stack: ExitStack
    started: float
    timings: dict[str, float] = field(default_factory=dict)
    is_cut_short: bool = False

    def phase(self, text: str) -> None:
        """Tell what begins, without the memory that the phase before has freed."""
        release_memory()
        self.notify(Event(kind="phase", text=text))

    def publish(self, store: StudyStore) -> None:
        """Tell what begins and ends from here on to whoever watches the study, too."""
        publisher, notify = Publisher(store), self.notify
        self.stack.enter_context(publisher.present())

        def told(event: Event) -> None:
            publisher(event)
            notify(event)

        self.notify = told

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Note how long a stage takes."""
        before = time.perf_counter()
        yield
        self.timings[stage] = time.perf_counter() - before

    @property
    def elapsed(self) -> float:
        """Seconds since the search was called."""
        return time.perf_counter() - self.started

    def seconds_left(self, reserve: float) -> float:
        """Seconds of the time limit that are left when `reserve` is kept; infinite without a limit."""
        limit = self.request.settings.timeout
        return math.inf if limit is None else limit - reserve - self.elapsed


@dataclass(frozen=True)
class Loaded:
    """The network and its data, the study's name and folder, and the study to start from, if any."""

    network: LoadedModel
    data: Task
    name: str
    folder: Path
    prior: PriorStudy | None


@dataclass(frozen=True)
class Traced:
    """The network on its bench, the layers whose activations stay float, the space file with what was measured, and
    what may be done within the bounds."""

    bench: Workbench
    unpaying: frozenset[str]
    space: SpaceSpec
    projection: Projection


@dataclass(frozen=True)
class Measured:
    """What the original reaches in the task's metric, what may be done with latencies predicted from its own, and the
    study that was opened. `trimmer` removes files that no candidate of the front needs; `reserve` is the seconds that
    verifying and attribution take at the end; `sizes` are the validation samples of each rung, where they are not all.
    """

    reference: Reference
    projection: Projection
    store: StudyStore
    result: SearchResult
    trimmer: Trimmer
    reserve: float
    sizes: Sizes | None


def load(run: Run) -> Loaded:
    """Load the network and its data, and claim the study's folder."""
    settings = run.request.settings
    prior = read_prior_study(settings.from_study, settings.resume)
    run.phase("loading the network and its data")
    network, data = load_task(settings)
    run.request = replace(run.request, budget=run.request.budget.of_metric(metric_of(data)))
    if prior is not None:
        require_same_task(prior.description, network, data)
    title = settings.name or (settings.out.resolve().name if settings.out else default_name(network, data, settings))
    name = safe_name(title)
    folder = choose_folder(settings.out, name, settings.resume)
    if settings.out is None:
        run.stack.enter_context(claimed(folder, resume=settings.resume, replace=settings.force_new_study))
    if settings.resume and is_described(folder):
        run.stop.folder = folder
    return Loaded(network, data, stored_name(settings, folder, name), folder, prior)


def trace(run: Run, loaded: Loaded) -> Traced:
    """Trace the network and build the space of what may be done. InfeasibleError where nothing fits the bounds."""
    request = run.request
    run.phase("tracing and measuring the original")
    limit = math.inf if request.settings.timeout is None else request.settings.timeout
    each = pass_seconds(loaded.network.model, loaded.data)
    if not request.settings.resume:
        require_time(each, loaded.data, limit, run.elapsed)
    bench = make_bench(loaded.network, loaded.data, request, loaded.folder)
    bench.evaluator.limit = limit
    bench.evaluator.exports_plainly = (
        PLAIN_EXPORTS * bench.network.writer.export_seconds <= EXPORT_SHARE * run.seconds_left(0.0))
    bench.evaluator.measuring = request.executor.measuring_place(Stopwatch)
    release_memory()
    for note in bench.network.notes:
        log.warning(note)
    unpaying = kept_float(request.settings, loaded.folder,
                          lambda: unpaying_layers(bench, request.space, each,
                                                  PAYOFF_SHARE * run.seconds_left(0.0)))
    for further in request.further_formats:
        in_format(bench, further)  # what one cannot hold is said before anything is searched
    spec = settled_space(bench, request.space, request.settings, loaded.folder, unpaying, each, run.seconds_left(0.0))
    subject = bench.network.table, spec, request.profile, bench.network.writer.format, unpaying
    space = space_of(*subject, request.techniques, request.further_formats)
    if not offers_integers(space) and offers_integers(space_of(*subject, request.techniques)):
        warn(log, floats_alone([bench.network.writer.format, *request.further_formats]))
    projection = Projection(space, request.budget)
    projection.require_feasible()
    return Traced(bench, unpaying, spec, projection)


def measure(run: Run, loaded: Loaded, traced: Traced) -> Measured:
    """Measure the original, open the study, and describe it in `study.json`."""
    request, bench, folder = run.request, traced.bench, loaded.folder
    release_memory()
    bench.evaluator.prepare()
    run.timings["set-up"] = run.elapsed
    before = read_description(folder) if is_described(folder) and request.settings.resume else None
    with run.timed("original"):
        last = part_of(before.baseline) if before else None
        bench.evaluator.settle_sizes(request.settings.timeout, last, before is not None and last is None)
        baseline = bench.evaluator.baseline()
    projection, predicted = traced.projection, predicted_metrics(request.profile, request.budget)
    if predicted:
        device = predicting(bench, baseline, request.budget)
        space = space_of(bench.network.table, traced.space, device, bench.network.writer.format, traced.unpaying,
                         request.techniques, request.further_formats)
        projection = Projection(space, request.budget, predicted)
    for doubt in loaded.data.doubts(bench.evaluator.original_score, loaded.network.claimed):
        warn(log, doubt)
    if request.settings.force_new_study:
        discard(folder)
    reference = Reference(metric_of(loaded.data), baseline[loaded.data.metric.name])
    store = open_store(request, loaded)
    before = read_description(folder) if is_described(folder) else None
    description = described(loaded.name, request, fingerprints(loaded.network, loaded.data, request), bench, baseline,
                            timings=run.timings, space=traced.space, unpaying=traced.unpaying, before=before)
    write_description(folder, description)
    result = SearchResult(folder, description, store=store, bench=bench)
    run.stop.folder = folder
    limit = request.settings.timeout
    if limit is not None:
        run.stop.end_after(2 * limit + HANG_SECONDS - run.elapsed)
    take_answers(loaded.prior, bench.store, request.settings.seed)
    reserve = export_seconds(bench, baseline["macs"]) + ATTRIBUTION_SHARE * (limit or 0.0)
    return Measured(reference, projection, store, result, Trimmer(bench.store, request.budget, reference), reserve,
                    bench.evaluator.sizes)


def open_store(request: Request, loaded: Loaded) -> StudyStore:
    """The stored study to go on with, or a new one. StudyMismatchError when what is stored is of something else."""
    settings = request.settings
    return StudyStore.open(
        storage_url(loaded.folder, settings.storage), loaded.name, identity_of(loaded.network, loaded.data, request),
        objectives(loaded.data.metric, request.profile.latencies), make_sampler(AUTO, settings.seed),
        resume=settings.resume, replace=settings.force_new_study, shared=settings.storage is not None,
        former=former_identity(request, loaded.folder))


def limits(run: Run, measured: Measured) -> Settings:
    """How long and how to search."""
    settings = run.request.settings
    averaging = AVERAGING_SHARE * (settings.timeout or 0.0)
    return Settings(trials=settings.trials, seconds=settings.timeout, reserve_seconds=measured.reserve + averaging,
                    trial_seconds=settings.trial_timeout, schedule=EFFORTS[settings.effort].schedule,
                    samples={} if measured.sizes is None else measured.sizes.by_rung)


def predict(run: Run, traced: Traced, measured: Measured, limit: Settings) -> SensitivityTable | None:
    """The sensitivity table, where the sampler or a bound asks for one. None, with a warning, where it cannot be
    measured or takes too long."""
    auto = asks_solver(run.request.sampler)
    if not auto and not measured.projection.bounds:
        return None
    run.phase("predicting what each option would cost")
    without = "searching with TPE" if auto else "moving every layer of a plan alike into the budget"
    with run.timed("sensitivity"):
        try:
            return sensitivity(traced.bench, measured.projection.space, _table_seconds(run, limit))
        except Exception as error:  # a table is a help, not a condition
            cause = next(iter(str(error).strip().splitlines()), "") or "no message"
            log.warning("%s, because what options would cost could not be predicted: %s", without,
                        cause if isinstance(error, TrialError) else f"{type(error).__name__}: {cause}")
            log.debug("the cause", exc_info=error)
            run.is_cut_short |= limit.seconds is not None
            return None
        finally:  # changes of weights, of which searching needs none
            release_memory()


def _table_seconds(run: Run, limit: Settings) -> float:
    """Seconds that the sensitivity table may take."""
    if limit.seconds is None:
        return math.inf
    if is_late(run, limit):
        return LATE_SECONDS if asks_solver(run.request.sampler) else 0.0  # other first plans need no table
    return min(SENSITIVITY_SHARE * limit.seconds, MOST_OF_THE_REST * run.seconds_left(limit.reserve_seconds))


def is_late(run: Run, limit: Settings) -> bool:
    """Whether the time for trials is up."""
    return run.seconds_left(limit.reserve_seconds) <= 0


def try_candidates(run: Run, loaded: Loaded, traced: Traced, measured: Measured, limit: Settings,
                   table: SensitivityTable | None) -> InfeasibleError | None:
    """Run the trials. Returns the error where nothing is feasible: it is raised once the report is written."""
    request, store, projection = run.request, measured.store, measured.projection
    # A study whose trials are done asks no solver, which takes seconds to make; other drivers may leave some open.
    is_done = request.settings.storage is None and closed_trials(store.candidates()) >= limit.trials
    solver = Solver(projection, table) if table and not is_done else None
    store.use(make_sampler(request.sampler, request.settings.seed, solver, measured.reference, projection,
                           trials=len(store)))
    run.publish(store)

    def told(event: Event) -> None:
        run.notify(event)
        if event.kind == "result":
            measured.trimmer.look(engine.candidates)

    fit = None if solver is None or asks_solver(request.sampler) else solver.fit
    engine = Engine(store, projection, request.budget, measured.reference, limit, run.started, told, run.stop,
                    seeds(loaded.prior, projection), fit)
    executor = open_executor(traced.bench, loaded.network, loaded.data, request, loaded.folder, run.stop)
    failure: InfeasibleError | None = None
    try:
        with storage_errors("the study's storage"):
            engine.run(executor, lambda outcome: traced.bench.evaluator.completed(outcome, executor.quiet))
    except InfeasibleError as error:
        failure = error
    finally:
        if traced.bench.evaluator.measuring is None:  # else its cluster still times what ships; `search` closes it
            executor.close()
    run.timings["sampling and storage"] = engine.overhead_seconds
    if failure is None and not run.stop():
        for sentence in shortfalls(engine.candidates(), store.failures(), is_late(run, limit)):
            warn(log, Warned("search-fell-short", sentence))
    return failure


def average(run: Run, traced: Traced, measured: Measured) -> None:
    """Average trained relatives of the best candidate, and keep the average where it is better."""
    result, best, left = measured.result, measured.result.best, run.seconds_left(measured.reserve)
    if best is None:
        return
    with run.timed("averaging"), controlled(deadline=time.perf_counter() + left):
        soup = greedy_soup(traced.bench, result.candidates, best, run.request.budget, measured.reference, left,
                           run.stop)
    run.is_cut_short |= soup.is_cut_short
    if soup.evaluation is not None:
        measured.store.keep(best.trial, soup.evaluation)
        result.refresh()


def confirm(run: Run, traced: Traced, measured: Measured) -> None:
    """Score the finalists on as many validation samples as the original, until the best is one that was: those that
    were not are compared by a part of the samples."""
    result, sizes, took = measured.result, measured.sizes, traced.bench.evaluator.scoring_seconds
    if sizes is None:
        return
    for _ in range(MOST_CONFIRMED):
        candidate = finalist(result.candidates, result.best, measured.reference.metric, sizes.last)
        if candidate is None or run.stop() or run.seconds_left(measured.reserve - FINALISTS * took) < took:
            run.is_cut_short |= candidate is not None
            return
        assert candidate.plan is not None and candidate.best is not None
        run.phase(f"scoring trial {candidate.trial} on more samples")
        with run.timed("confirm"):
            measured.store.keep(candidate.trial, traced.bench.evaluator.rescored(candidate.plan, candidate.best))
        result.refresh()


def ship(run: Run, measured: Measured) -> None:
    """Export the best candidate and verify its file, unless that was done."""
    result = measured.result
    if result.best is None or result.is_exported:
        return
    run.phase(f"exporting and verifying trial {result.best.trial}")
    with run.timed("verify"):
        if result.artifact_fault:
            log.warning("%s: it is exported anew", result.artifact_fault)
        result.ship()
        for sentence in slower(result.artifact):
            log.warning(sentence)


def explain(run: Run, measured: Measured, table: SensitivityTable | None) -> None:
    """Find out what each technique of the best plan bought and cost."""
    left = run.seconds_left(REPORT_SECONDS)
    with run.timed("attribution"), controlled(deadline=time.perf_counter() + left):
        measured.result.explain(measured.projection, table, left, run.stop)
