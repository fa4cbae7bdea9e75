"""Loading the network, its data and the bench they stand on: for a search, again for an export, and in workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch

from autocompress.backend.training.distill import Recipe
from autocompress.errors import EnvironmentFault, InputError
from autocompress.hardware.targets import load_targets
from autocompress.search.executors.base import Evaluate, Executor, Place, Workplace
from autocompress.search.executors.inline import Inline
from autocompress.search.executors.processes import Processes
from autocompress.space.spec import load_space
from autocompress.study.allocator import reuse_memory
from autocompress.study.chosen_format import chosen_format
from autocompress.study.folder import Description
from autocompress.study.options import PREPARATION, Options
from autocompress.study.workbench import Workbench
from autocompress.tasks.cache import cache_dir
from autocompress.tasks.data import load_data
from autocompress.tasks.default import default_task
from autocompress.tasks.factory import is_factory
from autocompress.tasks.models import LoadedModel, built_network, load_model, model_fingerprint
from autocompress.tasks.preparation import asked_preparation, preparation_of
from autocompress.tasks.splits import TaskData


def load_task(asked: Options) -> tuple[LoadedModel, TaskData]:
    """The network and data that the options name."""
    reuse_memory()
    if asked.model is None:
        net, task = default_task()
        return LoadedModel(net, "resnet18-digits", model_fingerprint(net), task), task
    built = None
    if isinstance(asked.model, str) and is_factory(asked.model):
        built = built_network(asked.model, trust_code=asked.trust_code)
    known = preparation_of(built if built is not None else asked.model, asked.weights)
    wished = asked_preparation(asked.image_size, asked.resize, asked.crop, asked.mean, asked.std)
    task = load_data(asked.data, root=asked.data_root, seed=asked.seed, trust_code=asked.trust_code,
                     preparation=wished.completed(known), reading=asked.inputs)
    loaded = load_model(asked.model, weights=asked.weights, weights_key=asked.weights_key, data=task,
                        trust_code=asked.trust_code, built=built)
    return loaded, loaded.data or task


def make_bench(loaded: LoadedModel, task: TaskData, asked: Options, folder: Path) -> Workbench:
    """The workbench in this process."""
    reuse_memory()
    device, present = asked.device, torch.cuda.is_available()
    if device == "auto":
        device = "cuda" if present else "cpu"
    if device != "cpu" and not present:
        raise EnvironmentFault(f"--device {device} needs a GPU that torch can use, but there is none here: use cpu")
    wished = load_space(asked.space).recovery
    return Workbench(loaded.model, task, load_targets(asked.profile), seed=asked.seed, folder=folder,
                     epochs=asked.epochs, device=device, threads=torch.get_num_threads(),
                     statistics=cache_dir() / "statistics", earlier=asked.from_study,
                     recovery=Recipe(**msgspec.structs.asdict(wished)) if wished else None,
                     file_format=chosen_format(asked.format, load_targets(asked.profile), asked.trust_code))


def reopen_bench(folder: Path, description: Description, model: Any, data: Any, trust_code: bool,
                 device: str) -> Workbench:
    """The workbench of a stored study. InputError when its network or data are not those of the study."""
    given = description.given
    if model is None and not given["default"] and None in (given["model"], given["data"]):
        raise InputError("this study was made from Python objects: use open_study(folder, model=…, data=…)")
    weights = Path(given["weights"]) if given["weights"] and model is None else None
    preparation: dict[str, Any] = {name: given.get(name) for name in PREPARATION}
    asked = Options(
        model=model or given["model"], data=data if data is not None else given["data"], trust_code=trust_code,
        weights=weights, weights_key=given.get("weights_key") if weights else None, seed=description.seed,
        data_root=Path(given["data_root"]) if given["data_root"] else None, **preparation,
        profile=description.profile, epochs=description.epochs, device=device)
    loaded, task = load_task(asked)
    require_same_task(description, loaded, task)
    return make_bench(loaded, task, asked, folder)


def require_same_task(description: Description, loaded: LoadedModel, task: TaskData) -> None:
    """InputError when network or data are not those of the study."""
    for what, now in (("model", loaded.fingerprint), ("data", task.fingerprint)):
        if now != description.fingerprints[what]:
            split = f", split with its seed {description.seed}" if what == "data" else ""
            raise InputError(f"the {what} must be the one that the study was made from (fingerprint "
                             f"{description.fingerprints[what]}), but is another ({now}): give the same one{split}")


def open_executor(bench: Workbench, loaded: LoadedModel, task: TaskData, asked: Options, folder: Path,
                  should_stop: Callable[[], bool]) -> Executor:
    """Where evaluations run: here, or in `jobs` processes that load the networks again."""
    executor: Executor = Inline() if asked.jobs == 1 else Processes(asked.jobs)
    if asked.model is None or isinstance(asked.model, str):
        # A class from a user's file cannot be unpickled elsewhere; the specs can be loaded again.
        make = partial(_reloaded, asked, folder)
    else:
        make = partial(_rebuilt, loaded, task, _without_objects(asked), folder)
    executor.open(Workplace(bench.evaluator.outcome, make, should_stop=should_stop))
    return executor


def _reloaded(asked: Options, folder: Path, place: Place) -> Evaluate:
    """The evaluation in a worker that loads network and data by their specs."""
    return _rebuilt(*load_task(asked), asked, folder, place)


def _rebuilt(loaded: LoadedModel, task: TaskData, asked: Options, folder: Path, place: Place) -> Evaluate:
    """The evaluation in a worker that was sent network and data."""
    if place.threads is not None:
        torch.set_num_threads(place.threads)
    asked = asked if place.device is None else replace(asked, device=place.device)
    return make_bench(loaded, task, asked, folder).evaluator.outcome_in_worker


def _without_objects(asked: Options) -> Options:
    """Options without the objects that travel beside them."""
    return replace(asked, model="given as an object", data="given as an object")
