"""One search from arguments to artefact."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from autocompress.core.budget import Budget
from autocompress.core.evaluation import Metrics
from autocompress.errors import InfeasibleError, InputError, Interrupted, TrialError
from autocompress.hardware.profile import load_profile
from autocompress.search.engine import Engine, Event, Settings
from autocompress.search.samplers import AUTO, check_sampler, make_sampler
from autocompress.search.storage import (
    create_study,
    delete_study,
    load_study,
    open_storage,
    require_same,
    storage_errors,
    storage_url,
    store_rung,
)
from autocompress.search.workers import Inline, Processes
from autocompress.space.projection import Projection
from autocompress.space.solver import Solver
from autocompress.space.space import build_space
from autocompress.space.spec import SpaceSpec, load_space
from autocompress.study.blending import blend
from autocompress.study.earlier import completed, read_earlier, seeds, take_answers
from autocompress.study.folder import (
    DESCRIPTION,
    Description,
    absolute,
    choose_folder,
    is_study,
    nothing_left_behind,
    prepare_folder,
    read_description,
    write_description,
)
from autocompress.study.loading import load_task, make_bench, make_pool, require_same_task
from autocompress.study.options import Options
from autocompress.study.result import SearchResult
from autocompress.study.sensitivity import sensitivity
from autocompress.study.workbench import Workbench
from autocompress.tasks.models import LoadedModel, safe_name
from autocompress.tasks.splits import TaskData

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)

SENSITIVITY_PASSES, SENSITIVITY_SHARE = 50, 0.3
"""About what the sensitivity table costs, in passes of the calibration data through the original's file; and the share
of a time limit above which the search goes without it."""
AVERAGING_SHARE = 0.01
"""Share of a time limit that is left to averaging trained candidates."""


def search(model: Any = None, data: Any = None, budget: str | float | None = None, *,
           on_event: Callable[[Event], None] | None = None, **options: Any) -> SearchResult:
    """Search for the most accurate compressed versions of a network inside a budget, and export the best.

    `model`: an nn.Module, `torchvision:NAME`, `timm:NAME` or `path/to/file.py:factory`; `data`: arrays, Datasets, a
    TaskData, or a spec (`digits`, `fashion-mnist`, `cifar10`, `imagefolder:DIR`, `npz:FILE`, `file.py:factory`).
    Without both, the embedded ResNet-18 on handwritten digits. `budget`: bytes of the exported file, `"2MB"`.
    Further bounds: `latency="5ms"`, `macs="50M"`, `peak_memory="256KiB"`, `max_drop="1%"`. `weights`: a safetensors
    or state-dict file. `profile`, `space`: names or TOML files. `sampler`: auto, tpe, nsga2, random or gp. `trials`,
    `epochs` (of the long distillation), `timeout` ("15m"), `seed`, `jobs` (processes), `out` (the study's folder),
    `storage` (an Optuna URL), `resume`, `force_new_study`, `device` ("auto", "cpu", "cuda"). With `from_study`, the
    folder of another study of the same network and data, the search starts where that ended, and takes from it what is
    not given, bounds excepted; with `resume` and `out` everything that the study knows is taken from it.

    Raises InputError, InfeasibleError, EnvironmentFault, or Interrupted after Ctrl-C; the study is kept in each case.
    """
    started = time.perf_counter()
    asked = Options.of(**completed({"model": model, "data": data, "budget": budget, **options}))
    constraints, profile, spec = asked.constraints(), load_profile(asked.profile), load_space(asked.space)
    check_sampler(asked.sampler)
    notify = on_event or (lambda event: None)
    if asked.out is not None:
        _guard(asked, Path(asked.out))
    with nothing_left_behind(asked.out):
        earlier = read_earlier(asked.from_study, asked.resume)
    notify(Event(kind="phase", text="loading the network and its data"))
    with nothing_left_behind(asked.out):
        loaded, task = load_task(asked)
        if earlier is not None:
            require_same_task(earlier.description, loaded, task)
    name = safe_name(asked.name or (asked.out.resolve().name if asked.out else _default_name(loaded, task, asked)))
    folder = choose_folder(asked.out, name, asked.resume)
    _guard(asked, folder)
    name = _stored_name(asked, folder, name)
    notify(Event(kind="phase", text="tracing and measuring the original"))
    with nothing_left_behind(folder):
        bench = make_bench(loaded, task, asked, folder)
        projection = Projection(build_space(bench.table, spec, profile), constraints)
        projection.require_feasible()
    if asked.force_new_study:
        _discard(folder)
    identity = _identity(loaded, task, spec, profile.fingerprint, asked.seed, constraints)
    timings = {"set-up": time.perf_counter() - started}
    study = _open(folder, name, asked, identity)
    take_answers(earlier, folder, asked.seed)
    baseline = bench.baseline()
    timings["original"] = time.perf_counter() - started - timings["set-up"]
    description = _describe(folder, name, asked, constraints, bench, baseline, identity, timings)
    # At the end the original runs on the test split, the file on both: a bound from what was just measured.
    reserve = 5 + timings["original"] * (0.5 + len(task.test) / len(task.validation))
    averaging = AVERAGING_SHARE * (asked.seconds or 0.0)
    settings = Settings(trials=asked.trials, seconds=asked.seconds, reserve_seconds=reserve + averaging)
    if asked.sampler == AUTO:
        notify(Event(kind="phase", text="predicting what each option would cost"))
        before = time.perf_counter()
        passes = timings["original"] * len(bench.calibration) / len(task.validation)
        affordable = asked.seconds is None or SENSITIVITY_PASSES * passes < SENSITIVITY_SHARE * asked.seconds
        solver = _solver(bench, projection) if affordable else None
        if not affordable:
            log.warning("searching with TPE, because predicting what options cost would take too much of %g s",
                        asked.seconds)
        study.sampler = make_sampler(AUTO, _fresh_seed(asked, study), solver)
        timings["sensitivity"] = time.perf_counter() - before
    with _stoppable() as should_stop:
        engine = Engine(study, projection, constraints, baseline["accuracy"], settings, started, notify, should_stop,
                        seeds(earlier, projection))
        failure = _search(engine, make_pool(bench, loaded, task, asked, folder, should_stop))
        timings["sampling and storage"] = engine.overhead_seconds
        result = SearchResult(folder, description, study=study, bench=bench)
        if failure is None and result.best is not None:
            before = time.perf_counter()
            left = math.inf if asked.seconds is None else started + asked.seconds - reserve - before
            evaluation = blend(bench, result.candidates, result.best, constraints, baseline["accuracy"], left,
                               should_stop)
            if evaluation is not None:
                store_rung(study, result.best.trial, evaluation)
            timings["averaging"] = time.perf_counter() - before
        if failure is None and result.best is not None and not result.is_exported:
            notify(Event(kind="phase", text=f"exporting and verifying trial {result.best.trial}"))
            before = time.perf_counter()
            result.export()
            timings["verify"] = time.perf_counter() - before
        result.conclude(timings, time.perf_counter() - started)
        stopped = Interrupted(f"stopped by the user; everything is kept in {folder}, go on with --resume")
        if failure is not None or should_stop():
            ending = failure or stopped
            ending.study = folder
            raise ending
    return result


def _stored_name(asked: Options, folder: Path, name: str) -> str:
    """The name under which a study to be resumed is stored. InputError when another is asked for."""
    if not asked.resume or not (folder / DESCRIPTION).exists():
        return name
    stored = read_description(folder).name
    if asked.name is not None and name != stored:
        raise InputError(f"{folder} holds study {stored!r}: resume it without --name, or choose another --out")
    return stored


def _open(folder: Path, name: str, asked: Options, identity: dict[str, Any]) -> optuna.Study:
    """The stored study to go on with, or a new one. StudyMismatchError when it is of something else."""
    storage = open_storage(storage_url(folder, asked.storage))
    if asked.force_new_study:
        delete_study(storage, name)
    study = load_study(storage, name)
    if study is None:
        return create_study(storage, name, make_sampler(asked.sampler, asked.seed), identity)
    require_same(study, identity)
    if not asked.resume:
        raise InputError(f"study {name!r} is already in {asked.storage or folder}: add --resume to go on with it, "
                         "or choose another --out")
    study.sampler = make_sampler(asked.sampler, _fresh_seed(asked, study))
    return study


def _fresh_seed(asked: Options, study: optuna.Study) -> int:
    """A resumed sampler must not draw again what it drew in its first run."""
    return asked.seed + len(study.get_trials(deepcopy=False))


def _solver(bench: Workbench, projection: Projection) -> Solver | None:
    """None where the sensitivity table cannot be measured: the search goes on without it."""
    try:
        return Solver(projection, sensitivity(bench, projection.space))
    except TrialError as error:
        log.warning("searching with TPE, because what options would cost could not be predicted: %s", error)
        return None


def _describe(folder: Path, name: str, asked: Options, constraints: Budget, bench: Workbench, baseline: Metrics,
              identity: dict[str, Any], timings: dict[str, float]) -> Description:
    """Write `study.json`; a resumed study keeps what it exported."""
    before = read_description(folder) if (folder / DESCRIPTION).exists() else None
    description = Description(
        name=name, storage=asked.storage or "", seed=asked.seed, space=absolute(asked.space),
        profile=absolute(asked.profile), epochs=asked.epochs, budget=constraints,
        baseline=before.baseline if before else baseline,
        sources=dict(bench.sources), table=bench.table, refused=bench.refused, given=_given(asked), timings=timings,
        fingerprints={k: str(identity[k]) for k in ("model", "data", "space", "profile")},
        artifact=before.artifact if before else None,
        from_study=str(asked.from_study.absolute()) if asked.from_study else "")
    write_description(folder, description)
    return description


def _search(engine: Engine, pool: Inline | Processes) -> InfeasibleError | None:
    """Run the engine; that nothing is feasible is reported only after the report was written."""
    try:
        with storage_errors("the study's storage"):
            engine.run(pool)
    except InfeasibleError as error:
        return error
    finally:
        pool.close()
    return None


def _guard(asked: Options, folder: Path) -> None:
    """Refuse a folder that is taken or cannot be written before any work is done."""
    if is_study(folder) and not asked.resume and not asked.force_new_study:
        raise InputError(f"{folder} holds a study already: add --resume to go on with it, --force-new-study to "
                         "replace it, or choose another --out")
    prepare_folder(folder)


def _discard(folder: Path) -> None:
    """Remove a study's own files, and nothing else in its folder."""
    for pattern in ("study.db*", "study.json", "weights", "teacher", "artifact", "report"):
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _default_name(loaded: LoadedModel, task: TaskData, asked: Options) -> str:
    stem = loaded.name if loaded.name.endswith(task.name) else f"{loaded.name}-{task.name}"
    return f"{stem}-{asked.budget}" if asked.budget is not None else stem


def _identity(loaded: LoadedModel, task: TaskData, spec: SpaceSpec, profile: str, seed: int,
              budget: Budget) -> dict[str, Any]:
    return {
        "model": loaded.fingerprint, "data": task.fingerprint, "profile": profile, "seed": seed,
        "space": hashlib.sha256(msgspec.json.encode(spec, order="sorted")).hexdigest()[:16],
        "budget": budget.describe(),
    }


def _given(asked: Options) -> dict[str, Any]:
    def spec(value: Any) -> str | None:
        return absolute(value) if isinstance(value, str) else None

    def path(value: os.PathLike[str] | None) -> str | None:
        return None if value is None else str(Path(value).absolute())

    return {"default": asked.model is None, "model": spec(asked.model), "data": spec(asked.data),
            "weights": path(asked.weights), "data_root": path(asked.data_root), "image_size": asked.image_size}


@contextmanager
def _stoppable() -> Iterator[Callable[[], bool]]:
    """SIGINT or SIGTERM once asks to stop, a second SIGINT stops now. Elsewhere than the main thread: never."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def handle(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        # The signal may have come in the middle of a write to the stream that this goes to: another thread waits.
        threading.Thread(target=log.warning, args=("stopping after the current step; press Ctrl-C again to stop now",),
                         daemon=True).start()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
