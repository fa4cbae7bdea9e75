"""One search from arguments to artefact: load → trace → measure → predict → search → ship → report."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from autocompress.core.cancellation import controlled
from autocompress.core.warnings import Warned, collecting
from autocompress.errors import InfeasibleError
from autocompress.search.engine import Event
from autocompress.search.storage_urls import check_storage
from autocompress.study import finished, stages
from autocompress.study.folder_claim import claimed
from autocompress.study.loading import check_device
from autocompress.study.process_state import kept_surroundings
from autocompress.study.request import Request
from autocompress.study.result import SearchResult
from autocompress.study.resume import with_stored
from autocompress.study.settings import SearchSettings, python_table, read
from autocompress.study.signals import StoppedNow, stoppable


def search(model: Any = None, data: Any = None, budget: str | float | None = None, *,
           on_event: Callable[[Event], None] | None = None, started: float | None = None,
           **options: Any) -> SearchResult:
    """Search for the best compressed versions of a network inside a budget, and export the best.

    Args:
        model: an nn.Module, `torchvision:NAME`, `timm:NAME` or `path/to/file.py:factory`.
        data: arrays, Datasets, a TaskData, or a spec (`digits`, `imagefolder:DIR`, `npz:FILE`, `file.py:factory` …).
            Without both, the embedded ResNet-18 on handwritten digits.
        budget: bytes of the exported file, `"2MB"`.
        on_event: is told of progress.
        started: the `time.perf_counter()` from which `timeout` counts, where that is not the call.
        options: the further settings, listed below. A list of profiles asks for plans that are legal on all of them,
            the latency on each an objective, and bounded on each by `latency="5ms"`, on some by
            `latency={"stm32h743": "80ms"}`. `task`, `format`, `techniques`, `executor` and `sampler` may be objects of
            your own. With `from_study`, what another study started with is taken where it is not given; with `resume`
            and `out`, all but `timeout`, `trial_timeout`, `jobs`, `workers`, `device` and
            `executor` are the study's own.

    Returns:
        The study: its front, trials, best candidate and exported file.

    Raises:
        InputError, InfeasibleError, EnvironmentFault, AutocompressError where an exported file is not what was
        promised, or Interrupted after Ctrl-C; a study that has begun is kept in each case.
    """
    started = time.perf_counter() if started is None else started
    values = read({"model": model, "data": data, "budget": budget, **options})
    settings = SearchSettings.completed(with_stored(values))
    request = Request.of(settings)
    check_storage(settings.storage)
    if settings.workers is None and settings.executor is None:
        check_device(settings.device)
    notify = on_event or (lambda event: None)
    with stoppable() as stop:
        try:
            with kept_surroundings(), ExitStack() as stack:
                stack.enter_context(controlled(tell=lambda what, done, total: notify(
                    Event(kind="progress", text=what, done=done, total=total))))
                if settings.out is not None:
                    stack.enter_context(claimed(settings.out, resume=settings.resume, replace=settings.force_new_study))
                stack.callback(request.executor.close)
                request.executor.connect()
                return _search(stages.Run(request, notify, stop, stack, started))
        except StoppedNow:
            raise stop.interrupted() from None


def _search(run: stages.Run) -> SearchResult:
    """The stages of one search, one after the other."""
    collector = run.stack.enter_context(collecting())
    loaded = stages.load(run)
    if (result := finished.without_work(run, loaded)) is not None:
        return result
    traced = stages.trace(run, loaded)
    measured = stages.measure(run, loaded, traced)
    limit = stages.limits(run, measured)
    table = stages.predict(run, traced, measured, limit)
    infeasible: InfeasibleError | None = None
    with run.stop.patiently():  # what is cut off in there ends in the report as well
        infeasible = stages.try_candidates(run, loaded, traced, measured, limit, table)
        if infeasible is None:
            stages.average(run, traced, measured)
            stages.confirm(run, traced, measured)
            stages.ship(run, measured)
        if not run.stop():
            stages.explain(run, measured, table)
    return _report(run, measured, infeasible, collector.warnings)


def _report(run: stages.Run, measured: stages.Measured, infeasible: InfeasibleError | None,
            warnings: Sequence[Warned]) -> SearchResult:
    """Write the report. Interrupted where the search was stopped, InfeasibleError where nothing is feasible."""
    result = measured.result
    if run.stop():
        result.refresh()  # it may have been read before what was cut off was stored
    measured.trimmer.end(result.candidates)
    result.conclude(run.timings, run.elapsed, warnings, finished.mark_of(run, measured, infeasible))
    if run.stop():
        raise run.stop.interrupted()
    if infeasible is not None:
        infeasible.study = result.folder
        raise infeasible
    return result


search.__doc__ = f"{search.__doc__}\n    Settings, with defaults:\n\n{python_table()}\n"
