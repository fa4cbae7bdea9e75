"""Studies with nothing left to do. Resuming one loads its network and data, to see that they are the study's, and
compares its exported file with what was verified; nothing is traced, measured or tried again."""

from __future__ import annotations

from autocompress import __version__
from autocompress.errors import InfeasibleError
from autocompress.report.files import is_report
from autocompress.search.efforts import EFFORTS
from autocompress.search.engine import Event
from autocompress.search.left_to_try import is_any_left
from autocompress.search.study_store import StudyStore
from autocompress.study.folder import REPORT, is_described, read_description
from autocompress.study.loading import make_bench
from autocompress.study.result import SearchResult
from autocompress.study.stages import Loaded, Measured, Run, open_store


def without_work(run: Run, loaded: Loaded) -> SearchResult | None:
    """The study that is resumed, where an earlier run with the same settings has left nothing to do; else None.

    StudyMismatchError when the network, the data or what decides about trials are not those of the study.
    """
    request, folder = run.request, loaded.folder
    if not request.settings.resume or not is_described(folder):
        return None
    description = read_description(folder)
    settings = request.settings.storable()
    if not description.finished or settings != description.settings:
        return None
    store = open_store(request, loaded)
    result = SearchResult(folder, description, store=store, techniques=request.techniques,
                          make_bench=lambda: make_bench(loaded.network, loaded.data, request, folder))
    if description.finished != _mark(store) or not result.is_exported:
        return None
    run.notify(Event(kind="phase", text="nothing is left to do"))
    if not is_report(folder / REPORT):
        result.report()
    result.seconds = run.elapsed
    return result


def mark_of(run: Run, measured: Measured, infeasible: InfeasibleError | None) -> str:
    """What a study is known by that a run has left with nothing to do; empty where another run would do more: where
    the user, the clock or an error ended this one. Drivers of a shared storage add trials at any time.
    """
    settings, store, result = run.request.settings, measured.store, measured.result
    is_cut_short = run.stop() or run.is_cut_short or infeasible is not None or settings.storage is not None
    if is_cut_short or result.attribution is None or not result.attribution.finished:
        return ""
    everyone, failures = result.candidates, store.failures()
    is_open = any(candidate.status == "running" for candidate in everyone)
    is_tried_again = any(reason.startswith("timeout") for reason in failures.values())
    if is_open or is_tried_again or is_any_left(everyone, failures, run.request.budget, measured.reference,
                                                settings.trials, EFFORTS[settings.effort].schedule):
        return ""
    return _mark(store)


def _mark(store: StudyStore) -> str:
    """The release, and how many trials and evaluations are stored."""
    return f"{__version__} {store.watched()[0]}"
