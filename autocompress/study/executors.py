"""What a search hands to its executor and its sampler, and how a user's own are found."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor as FuturesExecutor
from dataclasses import replace
from functools import partial

import torch

from autocompress.errors import InputError
from autocompress.search.executors.base import Evaluate, Executor, Place, Workplace
from autocompress.search.executors.inline import Inline
from autocompress.search.executors.pool import Pool, size_of
from autocompress.search.executors.processes import Processes
from autocompress.search.samplers.make import Sampler, check_sampler
from autocompress.study.loading import load_task, make_bench
from autocompress.study.options import Options
from autocompress.study.workbench import Workbench
from autocompress.tasks.factory import is_factory, load_object
from autocompress.tasks.models import LoadedModel
from autocompress.tasks.splits import TaskData

METHODS = ("open", "submit", "quiet", "stop", "close")
"""Of an executor; `jobs` may be known only when it is open."""


def load_sampler(asked: Options) -> Sampler:
    """Return the sampler that the options name or hold. InputError where there is none such."""
    sampler: Sampler = asked.sampler
    if isinstance(sampler, str) and is_factory(sampler):
        sampler = load_object(sampler, what="--sampler", trust_code=asked.trust_code, called=False)
    check_sampler(sampler)
    return sampler


def make_executor(asked: Options) -> Executor:
    """Return the executor that the options name or hold, not open yet; without one, that of `jobs` processes, or of
    this thread. InputError for what is no executor."""
    given = load_object(asked.executor, what="--executor", trust_code=asked.trust_code)
    if given is None:
        return Inline() if asked.jobs == 1 else Processes(asked.jobs)
    if isinstance(given, FuturesExecutor):
        return Pool(given, asked.jobs if asked.jobs > 1 else size_of(given))
    if not isinstance(given, type) and all(callable(getattr(given, name, None)) for name in METHODS):
        executor: Executor = given
        return executor
    raise InputError("executor must be a concurrent.futures.Executor, or an object with what "
                     f"autocompress.search.executors.base.Executor asks for, but got {given!r}")


def workplace(bench: Workbench, loaded: LoadedModel, task: TaskData, asked: Options,
              should_stop: Callable[[], bool]) -> Workplace:
    """Return what the executor of a search needs: the evaluation of `bench`, and how another process makes one."""
    asked = replace(asked, executor=None, sampler="auto")
    if asked.model is None or isinstance(asked.model, str):
        # A class from a user's file cannot be unpickled elsewhere; the specs can be loaded again.
        make = partial(_reloaded, asked)
    else:
        asked = replace(asked, model="given as an object", data="given as an object")
        make = partial(_rebuilt, loaded, task, asked)
    return Workplace(bench.evaluator.outcome, make, bench.store, should_stop)


def _reloaded(asked: Options, place: Place) -> Evaluate:
    """Make the evaluation in a worker that loads network and data by their specs."""
    return _rebuilt(*load_task(asked), asked, place)


def _rebuilt(loaded: LoadedModel, task: TaskData, asked: Options, place: Place) -> Evaluate:
    """Make the evaluation in a worker that was sent network and data."""
    if place.threads is not None:
        torch.set_num_threads(place.threads)
    asked = asked if place.device is None else replace(asked, device=place.device)
    return make_bench(loaded, task, asked, place.store).evaluator.outcome
