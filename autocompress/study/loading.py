"""Loading the network, its data and the bench they stand on: for a search, again for an export, and in workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch

from autocompress.backend.training.recipe import Recipe
from autocompress.core.allocator import reuse_memory
from autocompress.core.store import STATISTICS, Store
from autocompress.errors import InputError
from autocompress.hardware.targets import load_targets
from autocompress.search.executors.base import Evaluate, Executor, Place, Workplace
from autocompress.space.spec import load_space
from autocompress.study.folder import Description
from autocompress.study.own_code import TECHNIQUE_CODE, technique_code
from autocompress.study.request import Request
from autocompress.study.settings import SearchSettings, read
from autocompress.study.workbench import Workbench, study_store
from autocompress.tasks.base import Task
from autocompress.tasks.cache import cache_dir
from autocompress.tasks.data import load_data
from autocompress.tasks.default import default_task
from autocompress.tasks.factory import is_factory, load_object
from autocompress.tasks.kinds.names import default_kind, is_kind, is_of_kind
from autocompress.tasks.models import (
    LoadedModel,
    OneScoreError,
    built_network,
    load_model,
    load_network,
    model_fingerprint,
)
from autocompress.tasks.preparation import preparation_of
from autocompress.techniques.table import TECHNIQUES

# Settings without which a stored study cannot be made a bench of again.
REOPENED = ("model", "data", "task", "metric", "decode", "format", "techniques")


def load_task(settings: SearchSettings) -> tuple[LoadedModel, Task]:
    """The network and the task that the settings name: a user's own, one of a kind, or classification of the data."""
    reuse_memory()
    if settings.task is not None and not is_kind(settings.task):
        user_task: Task = load_object(settings.task, what="task", trust_code=settings.trust_code)
        return load_network(settings.model, user_task, weights=settings.weights, weights_key=settings.weights_key,
                            trust_code=settings.trust_code), user_task
    if settings.model is None:
        net, task = default_task()
        return LoadedModel(net, "resnet18-digits", model_fingerprint(net), task), task
    kind = settings.task or default_kind(settings.data)
    if is_of_kind(kind, settings.model, settings.data, settings.metric):
        return _of_kind(kind, settings)
    try:
        return _classification(settings)
    except OneScoreError:
        return _of_kind(kind, settings)


def _of_kind(kind: str, settings: SearchSettings) -> tuple[LoadedModel, Task]:
    from autocompress.tasks.kinds.make import KindRequest, kind_task

    return kind_task(KindRequest(
        kind, settings.model, settings.data, settings.weights, settings.weights_key, settings.metric,
        settings.decode, settings.seed, settings.preparation, settings.inputs, settings.data_root,
        settings.trust_code, settings.cache_size, settings.augment))


def _classification(settings: SearchSettings) -> tuple[LoadedModel, Task]:
    """Of labelled classes, with a score for each. OneScoreError for a network with one number for two classes."""
    assert settings.model is not None
    built = None
    if isinstance(settings.model, str) and is_factory(settings.model):
        built = built_network(settings.model, trust_code=settings.trust_code)
    recorded = preparation_of(built if built is not None else settings.model, settings.weights)
    task = load_data(settings.data, root=settings.data_root, seed=settings.seed, trust_code=settings.trust_code,
                     preparation=settings.preparation.completed(recorded), reading=settings.inputs,
                     cache_bytes=settings.cache_size, augment=settings.augment)
    loaded = load_model(settings.model, weights=settings.weights, weights_key=settings.weights_key, data=task,
                        trust_code=settings.trust_code, built=built)
    return loaded, loaded.data or task


def check_device(device: str) -> None:
    """InputError, with what is there, for a device of torch that this process does not have."""
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if not device.startswith("cuda") or int(device.partition(":")[2] or 0) < len(names):
        return
    there = ", ".join(f"cuda:{i} ({name})" for i, name in enumerate(names)) or "no GPU that torch can use"
    raise InputError(f"device must be one that is here, but got {device!r}: there is cpu, and {there}")


def make_bench(loaded: LoadedModel, task: Task, request: Request, folder: Path,
               store: Store | None = None) -> Workbench:
    """Return the workbench of this process, over the store of the study in `folder`, or another. InputError where its
    device is not there."""
    reuse_memory()
    settings, recovery = request.settings, request.space.recovery
    device = settings.device
    if device == "auto" or (store is None and settings.workers is not None):  # the GPUs are those of the workers
        device = "cuda" if torch.cuda.is_available() else "cpu"
    check_device(device)
    return Workbench(loaded.model, task, request.profile, seed=settings.seed, epochs=settings.epochs,
                     store=store or study_store(folder, cache_dir() / "statistics", settings.from_study),
                     device=device, threads=torch.get_num_threads(),
                     recovery=Recipe(**msgspec.structs.asdict(recovery)) if recovery else None,
                     file_format=request.file_format, techniques=request.techniques)


def reopen_bench(folder: Path, description: Description, objects: Mapping[str, Any], trust_code: bool,
                 device: str) -> Workbench:
    """The workbench of a stored study, whose Python objects the caller gives again in `objects`. InputError when its
    network or data are not those of the study."""
    said = read(objects)
    if "model" not in said and {"model", "data"} & set(description.objects):
        raise InputError("this study was made from Python objects: use open_study(folder, model=…, data=…)")
    missing = [name for name in description.objects if name not in said and name in REOPENED]
    if missing:
        raise InputError(f"this study was made from Python objects: use open_study(folder, {missing[0]}=…) with the "
                         "same ones")
    without = {"weights": None, "weights_key": None} if "model" in said else {}
    settings = msgspec.structs.replace(description.settings, trust_code=trust_code, device=device, **without, **said)
    profile = load_targets(settings.profile)
    request = Request(settings, load_space("default"), profile, description.budget)  # nothing is searched
    loaded, task = load_task(settings)
    require_same_task(description, loaded, task)
    _require_same_techniques(description, request)
    return make_bench(loaded, task, request, folder)


def require_same_task(description: Description, loaded: LoadedModel, task: Task) -> None:
    """InputError when network or data are not those of the study."""
    for what, now in (("model", loaded.fingerprint), ("data", task.fingerprint)):
        if now != description.fingerprints[what]:
            split = f", split with its seed {description.settings.seed}" if what == "data" else ""
            raise InputError(f"the {what} must be the one that the study was made from (fingerprint "
                             f"{description.fingerprints[what]}), but is another ({now}): give the same one{split}")


def _require_same_techniques(description: Description, request: Request) -> None:
    """InputError when the code of a user's own techniques is not that of the study."""
    stored, now = description.fingerprints.get(TECHNIQUE_CODE), technique_code(request)
    if stored and now and now != stored:
        names = ", ".join(name for name in request.techniques if name not in TECHNIQUES)
        raise InputError(f"the code of the technique {names} must be the one that the study was made with (fingerprint "
                         f"{stored}), but is another ({now}): undo the change, or search anew")


def open_executor(bench: Workbench, loaded: LoadedModel, task: Task, request: Request, folder: Path,
                  should_stop: Callable[[], bool]) -> Executor:
    """Where evaluations run: where the user's own executor or `workers` say, else here, or in `jobs` processes that
    load the networks again."""
    model, executor = request.settings.model, request.executor
    if executor.elsewhere:
        added = {"techniques": tuple(request.techniques[name] for name in request.techniques if name not in TECHNIQUES),
                 "format": request.file_format if request.settings.first_format is not None else None}
        beside = portable(request, model="sent", data="sent", task=None, **added)
        make = partial(_rebuilt, loaded, task, beside, folder)
    elif model is None or isinstance(model, str):
        # A class from a user's file cannot be unpickled elsewhere; the specs can be loaded again.
        make = partial(_reloaded, portable(request), folder)
    else:
        beside = portable(request, model="given as an object", data="given as an object")
        make = partial(_rebuilt, loaded, task, beside, folder)
    executor.open(Workplace(bench.evaluator.outcome, make, bench.store, should_stop, bench.store.used(STATISTICS)))
    return executor


def _reloaded(request: Request, folder: Path, place: Place) -> Evaluate:
    """The evaluation in a worker that loads network and data by their specs."""
    return _rebuilt(*load_task(request.settings), request, folder, place)


def _rebuilt(loaded: LoadedModel, task: Task, request: Request, folder: Path, place: Place) -> Evaluate:
    """The evaluation in a worker that was sent network and data."""
    if place.threads is not None:
        torch.set_num_threads(place.threads)
    if 0 < place.gpus < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(place.gpus)
    if place.device is not None:
        request = replace(request, settings=msgspec.structs.replace(request.settings, device=place.device))
    return make_bench(loaded, task, request, folder, place.store).evaluator.outcome_in_worker


def portable(request: Request, **without: Any) -> Request:
    """The request without the objects that travel beside it, or stay where the search runs, such as the tables of a
    user's own techniques in the space: nothing is decided in a worker."""
    settings = msgspec.structs.replace(request.settings, executor=None, sampler="auto", **without)
    space = msgspec.structs.replace(request.space, extensions=msgspec.UNSET)
    return replace(request, settings=settings, space=space)
