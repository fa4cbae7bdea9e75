"""The executor on Ray: actors on the hosts of a cluster, or on this machine.

No placement groups, and nothing on a disk that hosts would have to share. Network and data are put once into Ray's
object store; what a training may need of the study's store is put there when it is first needed, and goes with its job
as a reference; evaluation, file and weights come back as the answer.

One thread holds the state: what happens elsewhere, in threads of Ray and of the engine, becomes an event in its queue.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from autocompress.errors import EnvironmentFault, InputError, TrialError, reason_of
from autocompress.search.executors.base import POLL_SECONDS, Executor, Job, Outcome, WorkerLost, Workplace
from autocompress.search.executors.lending import needed
from autocompress.search.executors.limits import out_of_time
from autocompress.search.executors.ray_cluster import RayCluster
from autocompress.search.executors.ray_worker import Answer, Lent, RayWorker, Whereabouts, this_machine
from autocompress.search.executors.worker_process import RemoteTraceback

# Seconds for which what room a cluster has counts as known.
ROOM_SECONDS = 2.0
# Seconds in which one actor at least must have begun where none works, and how many may die before they can.
START_SECONDS, MOST_DEATHS = 600.0, 3
# Byte strings of the study's store that are kept in Ray's; the others are put anew when they are needed.
MOST_KEPT = 64


@dataclass
class _Call:
    """A job, since when it waits, and since when it runs."""

    job: Job
    future: Future[Outcome]
    submitted: float
    began: float = 0.0


@dataclass(eq=False)
class _Actor:
    """An actor: `place` is known once it is ready, `call` is what it runs."""

    handle: Any
    place: Whereabouts | None = None
    call: _Call | None = None


class RayActors(Executor):
    """Evaluates in actors of Ray, each of which holds network and data.

    An actor that passes the limit of its job is killed; the next job finds another, as it does where one was lost with
    its host. Actors are started while jobs wait and there is room, so hosts may join and leave.

    Args:
        address: `ray`, `auto` or `ray://HOST:PORT`; without meaning where this process is in a cluster already.
        cpus: CPU cores of an actor, all of which a job has.
        gpus: GPUs of an actor, or the share of one: how many actors share a GPU; its memory is not divided.
        most: actors at most; None for as many as there is room for.
        code: the user's Python files, by the path under which workers import them.
    """

    shares_cores, elsewhere = False, True

    def __init__(self, address: str = "ray", *, cpus: int = 1, gpus: float = 0.0, most: int | None = None,
                 code: Mapping[str, Path] | None = None) -> None:
        self._cluster = RayCluster(address, cpus=cpus, gpus=gpus, most=most, code=code or {})
        self._cpus, self._gpus = cpus, gpus
        self._events: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._actors: list[_Actor] = []
        self._waiting: deque[_Call] = deque()
        self._references: OrderedDict[str, Any] = OrderedDict()
        self._fault: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._room, self._counted = 1, -ROOM_SECONDS
        self._alone_since, self._deaths = time.monotonic(), 0

    @property
    def jobs(self) -> int:  # type: ignore[override]
        """See `Executor`: as many as there is room for."""
        if time.monotonic() - self._counted > ROOM_SECONDS:
            with suppress(Exception):  # the head is not reached at the moment
                self._room = max(1, self._cluster.room)
            self._counted = time.monotonic()
        return self._room

    def connect(self) -> None:
        """See `Executor`."""
        self._cluster.connect()

    def measuring_place(self, make: Callable[[], object]) -> Callable[..., Any] | None:
        """See `Executor`: a host of the cluster with the resource `measure`, if there is one."""
        return self._cluster.measuring_place(make)

    def open(self, workplace: Workplace) -> None:
        """See `Executor`. Actors start with their first job."""
        self._workplace, ray = workplace, self._cluster.ray
        if not ray.is_initialized():
            self.connect()
        self._class = ray.remote(num_cpus=self._cpus, num_gpus=self._gpus, max_restarts=0, max_task_retries=0,
                                 concurrency_groups={"control": 1})(RayWorker)
        try:
            self._make = ray.put(workplace.make)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise InputError("with --workers, model and data go to other processes and must be picklable, but: "
                             f"{reason_of(error)}. Give them as path/to/file.py:factory") from error
        self._statistics = self._lent({key: {} for key in workplace.statistics})
        self._thread = threading.Thread(target=self._live, name="ray actors", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> Future[Outcome]:
        """See `Executor`. The limit counts from when an actor has it."""
        call = _Call(job, Future(), time.monotonic())
        self._events.put(partial(self._take, call))
        return call.future

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """See `Executor`. Actors on this machine are halted by SIGSTOP, and go on by SIGCONT."""
        here = this_machine()
        near = [actor.place.process for actor in list(self._actors)
                if actor.place is not None and actor.place.machine == here and hasattr(signal, "SIGSTOP")]
        try:
            for process in near:
                _signal(process, signal.SIGSTOP)
            yield
        finally:
            for process in near:
                _signal(process, signal.SIGCONT)

    def stop(self) -> None:
        """See `Executor`."""
        self._events.put(self._stop)

    def close(self) -> None:
        """See `Executor`."""
        if self._thread is not None:
            self._events.put(None)
            self._thread.join()
            self._thread = None
        self._references.clear()
        self._cluster.close()

    # -- in the thread that holds the state --------------------------------------------------------------

    def _live(self) -> None:
        while True:
            try:
                event = self._events.get(timeout=POLL_SECONDS)
            except queue.Empty:
                event = self._look
            if event is None:
                break
            try:
                event()
            except Exception as error:  # of Ray: whoever waits has to hear of it
                self._end(EnvironmentFault(f"the Ray cluster must be reached while a search runs, but: "
                                           f"{reason_of(error)}. Go on with --resume when it is there"))
        self._end(TrialError("the executor was closed"))

    def _take(self, call: _Call) -> None:
        self._waiting.append(call)
        self._assign()

    def _assign(self) -> None:
        """Give jobs that wait to actors that are idle, and start actors for the others while there is room."""
        if self._fault is not None:
            while self._waiting:
                _settle(self._waiting.popleft().future, error=self._fault)
            return
        for actor in [actor for actor in self._actors if actor.place is not None and actor.call is None]:
            if self._waiting:
                self._begin(actor, self._waiting.popleft())
        starting = sum(actor.place is None for actor in self._actors)
        for _ in range(min(len(self._waiting) - starting, self.jobs - len(self._actors))):
            actor = _Actor(self._class.remote())
            self._actors.append(actor)
            self._when_done(actor.handle.prepare.remote(self._make, self._statistics, self._cpus, self._gpus),
                            partial(self._prepared, actor))

    def _begin(self, actor: _Actor, call: _Call) -> None:
        actor.call, call.began = call, time.monotonic()
        job = call.job.after(call.began - call.submitted)
        lent = self._lent(needed(self._workplace.store, job))
        self._when_done(actor.handle.run.remote(job, lent, self._cpus), partial(self._answered, actor, call))

    def _lent(self, keys: Mapping[str, Mapping[str, str]]) -> dict[str, Lent]:
        """References to what is in the study's store."""
        lent: dict[str, Lent] = {}
        for key, header in keys.items():
            if key not in self._references:
                data = self._workplace.store.get(key)
                if data is None:
                    continue
                self._references[key] = self._cluster.ray.put(data)
            self._references.move_to_end(key)
            lent[key] = (dict(header), self._references[key])
        while len(self._references) > MOST_KEPT:
            self._references.popitem(last=False)
        return lent

    def _when_done(self, reference: Any, event: Callable[[Future[Any]], None]) -> None:
        reference.future().add_done_callback(lambda done: self._events.put(partial(event, done)))

    def _prepared(self, actor: _Actor, done: Future[Whereabouts]) -> None:
        if actor not in self._actors:
            return
        error = done.exception()
        if error is not None:
            self._dismiss(actor)
            self._deaths += 1
            if self._deaths >= MOST_DEATHS:
                self._end(EnvironmentFault(f"a worker must be able to begin, but {self._deaths} died before they could "
                                           f"work, perhaps for lack of memory: {reason_of(error)}"))
        elif done.result().error is not None:
            self._end(done.result().error)
        else:
            actor.place, self._deaths = done.result(), 0
        self._assign()

    def _answered(self, actor: _Actor, call: _Call, done: Future[Answer]) -> None:
        if actor.call is not call:  # it was killed at its limit
            return
        actor.call, error = None, done.exception()
        if error is not None:
            self._dismiss(actor)
            where = actor.place.host if actor.place is not None else "?"
            _settle(call.future, error=WorkerLost(f"the worker on {where} was lost ({type(error).__name__}: "
                                                  f"{reason_of(error)})"))
        else:
            answer = done.result()
            if answer.error is not None:
                answer.error.__cause__ = RemoteTraceback(answer.traceback)
            for key in answer.outcome.stored if answer.outcome is not None else ():
                self._references.pop(key, None)  # the driver will have another
            _settle(call.future, answer.outcome, answer.error)
        self._assign()

    def _look(self) -> None:
        """Kill what has passed its limit; use what room there is by now."""
        now = time.monotonic()
        for actor in list(self._actors):
            call = actor.call
            if call is not None and call.job.limit is not None and now - call.began > call.job.limit:
                actor.call = None
                self._dismiss(actor)
                _settle(call.future, error=out_of_time(call.job.limit))
        if not self._waiting or any(actor.place is not None for actor in self._actors):
            self._alone_since = now
        if now - self._alone_since > START_SECONDS:
            self._end(EnvironmentFault(f"a worker must begin within {START_SECONDS:g} s, but none did: is the cluster "
                                       "busy with something else, or its hosts gone? `ray status` tells"))
        if self._waiting:
            self._assign()

    def _dismiss(self, actor: _Actor) -> None:
        if actor in self._actors:
            self._actors.remove(actor)
        with suppress(Exception):  # it is gone
            self._cluster.ray.kill(actor.handle)

    def _stop(self) -> None:
        stopped = TrialError("stopped by the user")
        for actor in list(self._actors):
            if actor.call is not None:
                actor.handle.stop.options(concurrency_group="control").remote()
            else:
                self._dismiss(actor)
        self._refuse(stopped)

    def _end(self, fault: BaseException | None) -> None:
        """Kill all actors; every job that there is or comes fails."""
        for actor in list(self._actors):
            self._dismiss(actor)
            if actor.call is not None and fault is not None:
                _settle(actor.call.future, error=fault)
        self._refuse(fault)

    def _refuse(self, fault: BaseException | None) -> None:
        self._fault = self._fault or fault
        self._assign()


def _settle(future: Future[Outcome], outcome: Outcome | None = None, error: BaseException | None = None) -> None:
    with suppress(InvalidStateError):
        if outcome is None:
            future.set_exception(error)
        else:
            future.set_result(outcome)


def _signal(process: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(process, number)
