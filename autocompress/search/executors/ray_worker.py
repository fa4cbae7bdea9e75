"""What runs in an actor of Ray: it is sent how to evaluate, then one job after the other."""

from __future__ import annotations

import importlib
import os
import socket
import threading
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from autocompress.core.store import STATISTICS, MemoryStore, Reference
from autocompress.errors import AutocompressError, EnvironmentFault, InputError, reason_of
from autocompress.search.executors.base import Evaluate, Job, Outcome, Place, work
from autocompress.search.executors.worker_process import portable

# What a job may read of the store: the header of a file of weights, empty for others, and a reference to the bytes.
Lent = tuple[Mapping[str, str], Any]


class Answer(msgspec.Struct, frozen=True):
    """What an actor answers to a job: the outcome, or the error with its traceback as text."""

    outcome: Outcome | None = None
    error: BaseException | None = None
    traceback: str = ""


class Whereabouts(msgspec.Struct, frozen=True):
    """Where an actor lives: the name of its host, `machine`, which tells hosts and containers apart, and its process;
    `error` is why it cannot evaluate."""

    host: str
    machine: str
    process: int
    error: AutocompressError | None = None


class RayWorker:
    """Evaluates in an actor. Jobs run in one thread, `stop` is heard in another."""

    def __init__(self) -> None:
        self._store, self._stop = MemoryStore(), threading.Event()
        self._evaluate: Evaluate | None = None

    def prepare(self, make: Callable[[Place], Evaluate], lent: Mapping[str, Lent], threads: int,
                gpus: float = 0.0) -> Whereabouts:
        """Make the evaluation.

        Args:
            make: see `Workplace`.
            lent: statistics of the original, by key.
            threads: CPU threads of the actor.
            gpus: GPUs of the actor, or the share of one.
        """
        error: AutocompressError | None = None
        self._lend(lent)
        try:
            self._evaluate = make(Place(self._store, threads=threads, gpus=gpus))
        except FileNotFoundError as missing:
            error = InputError(f"the worker on {socket.gethostname()} must find every file that network and data read "
                               f"later, but there is no {missing.filename or missing}: put it at the same place on "
                               "every host, or give data that are held in memory")
        except AutocompressError as fault:
            error = type(fault)(f"the worker on {socket.gethostname()} cannot begin: {fault}")
        except (Exception, SystemExit) as failed:  # the user's code: anything can come
            error = EnvironmentFault(f"the worker on {socket.gethostname()} cannot begin: {type(failed).__name__}: "
                                     f"{reason_of(failed)}")
        self._forget(lent)
        return Whereabouts(socket.gethostname(), this_machine(), os.getpid(), error)

    def run(self, job: Job, lent: Mapping[str, Lent], threads: int) -> Answer:
        """Evaluate a job, which has all `threads` of the actor; `lent` is what it may read of the driver's store."""
        assert self._evaluate is not None, "prepare comes first"
        self._lend(lent)
        try:
            return Answer(work(self._evaluate, msgspec.structs.replace(job, threads=max(threads, job.threads)),
                               self._stop.is_set, self._store, interrupt=False))
        except (Exception, SystemExit) as error:  # a user's own code may call sys.exit
            return Answer(error=portable(error), traceback="".join(traceback.format_exception(error)))
        finally:
            self._forget(lent)

    def stop(self) -> None:
        """Tell the job that runs to end."""
        self._stop.set()

    def _lend(self, lent: Mapping[str, Lent]) -> None:
        self._store.lend({key: Reference(header, partial(_fetched, reference))
                          for key, (header, reference) in lent.items()})

    def _forget(self, lent: Mapping[str, Lent]) -> None:
        """Hold nothing between jobs but what the evaluation itself holds."""
        for key in (*lent, *self._store.keys(STATISTICS)):
            self._store.remove(key)


class Held:
    """Holds an object in an actor, and calls its methods."""

    def __init__(self, make: Callable[[], object]) -> None:
        self._object = make()

    def call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """Call a method of the object by its name."""
        return getattr(self._object, method)(*arguments)


def this_machine() -> str:
    """What tells machines, and containers on one, apart: the boot of the kernel and the namespace of processes."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _fetched(reference: Any) -> bytes | None:
    ray: Any = importlib.import_module("ray")
    try:
        data: bytes = ray.get(reference)
    except ray.exceptions.RayError:  # it is gone: as if it had never been there
        return None
    return data
