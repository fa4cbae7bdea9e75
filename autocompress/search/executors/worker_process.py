"""One process that evaluates: what runs in it, and the end of it that the driver holds.

Messages over a pipe: the worker says when it is ready, takes one job after the other and answers each; meanwhile it may
ask for what is in the driver's store, and be told to stop. Whatever ends the driver closes the pipe, and workers end
too.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from autocompress.core.plan import Plan
from autocompress.core.store import MemoryStore, Store
from autocompress.errors import EnvironmentFault, InputError, TrialError
from autocompress.search.executors.base import POLL_SECONDS, Evaluate, Job, Outcome, Place, WorkerLost, work
from autocompress.search.executors.limits import out_of_time

DIED = ("a worker process died before it could work, perhaps for lack of memory: resume with fewer --jobs. In a "
        "script, call search behind `if __name__ == \"__main__\":`, because each process reads the script anew; what "
        "is defined at a prompt or in a notebook is not there, so put it into a file and import it")
READY, STOP, ASK, REPLY, ANSWER = "ready", "stop", "ask", "reply", "answer"
# What a worker may ask the driver's store for; it puts nothing there by itself.
READS = ("get", "keys", "nearest")
# In which a worker must have loaded the network and its data, where evaluations have a limit at all.
START_SECONDS = 600.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_starting = threading.Lock()


class RemoteTraceback(Exception):
    """The traceback in the other process, as text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class Worker:
    """A process that `make` prepares when it is first needed, and anew after it was killed or died."""

    def __init__(self, make: Callable[[Place], Evaluate], store: Store) -> None:
        self._make, self._store = make, store
        self._process: Any = None
        self._pipe: Connection | None = None
        self._ready = False
        self._stop = threading.Event()

    @property
    def process_id(self) -> int | None:
        """The number of the process, if it was started."""
        return None if self._process is None else self._process.pid

    def run(self, job: Job, submitted: float) -> Outcome:
        """Return what the worker answers to a job that was `submitted` at that `time.perf_counter()`.

        Raises:
            TrialError: after the job's limit, when the process is killed.
            WorkerLost: where it dies.
            EnvironmentFault: where it cannot begin.
            Exception: what the evaluation raises.
        """
        if self._process is None or not self._process.is_alive():
            self._start()
        if not self._ready:
            self._answer(None, None if job.limit is None else job.limit + START_SECONDS)
            self._ready = True
        outcome: Outcome = self._answer(job.after(time.perf_counter() - submitted), job.limit)
        return outcome

    def stop(self) -> None:
        """Have the process told to end its job."""
        self._stop.set()

    @contextmanager
    def halted(self) -> Iterator[None]:
        """Halt the process while the body runs, where the system can; it need not notice."""
        process = self._process
        if process is None or not hasattr(signal, "SIGSTOP") or not process.is_alive():
            yield
            return
        try:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGSTOP)
            yield
        finally:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)

    def close(self) -> None:
        """Let an idle process end by itself."""
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.join(10)
            self.kill()

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None and self._process.is_alive():
            self._process.kill()
            self._process.join(10)

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, worker_end = context.Pipe()
        self._process, self._ready = context.Process(target=serve, args=(worker_end, self._make)), False
        try:
            with _starting, _one_thread(), _signals_blocked():
                self._process.start()
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            self._process = None
            raise InputError("with jobs above 1, model and data go to other processes and must be picklable, but: "
                             f"{error}. Give them as path/to/file.py:factory, or jobs=1") from error
        finally:
            worker_end.close()

    def _answer(self, job: Job | None, limit: float | None) -> Any:
        assert self._pipe is not None
        began, told = time.perf_counter(), False
        try:
            if job is not None:
                self._pipe.send(job)
            while True:
                if self._pipe.poll(POLL_SECONDS):
                    kind, *content = self._pipe.recv()
                    if kind == ANSWER:
                        break
                    self._pipe.send((REPLY, self._read(*content)))
                if not told and self._stop.is_set():
                    self._pipe.send(STOP)
                    told = True
                if limit is not None and time.perf_counter() - began > limit:
                    self.kill()
                    raise out_of_time(limit)
                if not self._process.is_alive() and not self._pipe.poll(0):
                    raise EOFError
        except (EOFError, OSError):
            self.kill()
            if not self._ready:
                raise EnvironmentFault(DIED) from None
            code = self._process.exitcode
            how = f"killed by signal {-code}, perhaps for lack of memory" if code and code < 0 else f"exit code {code}"
            raise WorkerLost(f"the worker process died ({how})") from None
        error, text, result = content
        if error is not None:
            raise error from RemoteTraceback(text)
        return result

    def _read(self, method: str, *args: Any) -> Any:
        if method not in READS:
            raise ValueError(f"a worker may ask its store for {', '.join(READS)}, but asked for {method!r}")
        return getattr(self._store, method)(*args)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let a process that is started have one thread unless told otherwise: threads that spin on shared cores slow
    training many times. The caller's own environment stays as it was."""
    had = "OMP_NUM_THREADS" in os.environ
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        yield
    finally:
        if not had:
            os.environ.pop("OMP_NUM_THREADS", None)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Let a process that is started hear of signals only when it knows what to do about them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class PipeStore(MemoryStore):
    """The store of a worker process: reads what the driver has over the pipe, and holds what is put until the driver
    takes it with the outcome of a job."""

    def __init__(self, ask: Callable[..., Any]) -> None:
        super().__init__()
        self._ask = ask

    def get(self, key: str) -> bytes | None:
        """See `Store`."""
        put = super().get(key)
        if put is not None:
            return put
        data: bytes | None = self._ask("get", key)
        return data

    def keys(self, kind: str) -> list[str]:
        """See `Store`."""
        return sorted({*super().keys(kind), *self._ask("keys", kind)})

    def nearest(self, plan: Plan, most: int | None = None) -> list[tuple[str, Mapping[str, str]]]:
        """See `Store`: those of the driver."""
        near: list[tuple[str, Mapping[str, str]]] = self._ask("nearest", plan, most)
        return near

    def taken(self) -> dict[str, bytes]:
        """See `MemoryStore`; from then on the driver has it."""
        self._data.clear()
        return super().taken()


def serve(pipe: Connection, make: Callable[[Place], Evaluate]) -> None:
    """Live as a worker: make the evaluation, then answer jobs until the other end of the pipe is closed."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # the driver decides when to stop
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    _end_with_parent()
    jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
    replies: queue.SimpleQueue[Any] = queue.SimpleQueue()
    stop, busy = threading.Event(), threading.Event()
    busy.set()
    threading.Thread(target=_listen, args=(pipe, jobs, replies, stop, busy), daemon=True).start()

    def ask(*question: Any) -> Any:
        pipe.send((ASK, *question))
        return replies.get()

    store, evaluate = PipeStore(ask), list[Evaluate]()

    def begin() -> str:
        evaluate.append(make(Place(store, threads=1)))
        return READY

    if not _answered(pipe, begin):
        return
    busy.clear()
    for job in iter(jobs.get, None):
        busy.set()
        _answered(pipe, partial(work, evaluate[0], job, stop.is_set, store, interrupt=False))
        busy.clear()


def _answered(pipe: Connection, run: Callable[[], Any]) -> bool:
    """Send the error of `run`, its traceback as text, and what it returns; return whether it worked."""
    answer: tuple[BaseException | None, str, Any]
    try:
        answer = (None, "", run())
    except (Exception, SystemExit) as error:  # a user's own code may call sys.exit
        answer = (portable(error), "".join(traceback.format_exception(error)), None)
    with suppress(OSError):  # nobody is there any more
        pipe.send((ANSWER, *answer))
    return answer[0] is None


def portable(error: BaseException) -> BaseException:
    """Return the error, or one of the same words where it cannot be pickled."""
    try:
        copy: BaseException = pickle.loads(pickle.dumps(error))
        return copy
    except Exception:
        first = next(iter(str(error).splitlines()), "")
        return TrialError(f"{type(error).__name__}: {first}")


def _listen(pipe: Connection, jobs: queue.SimpleQueue[Job | None], replies: queue.SimpleQueue[Any],
            stop: threading.Event, busy: threading.Event) -> None:
    """Hand on what comes. When the other end is gone, so is the search: end, at once where a job is under way."""
    try:
        while True:
            message = pipe.recv()
            if isinstance(message, Job):
                jobs.put(message)
            elif message == STOP:
                stop.set()
            else:
                replies.put(message[1])
    except (EOFError, OSError):
        jobs.put(None)
        if busy.is_set():
            os._exit(1)


def _end_with_parent() -> None:
    """On Linux the kernel kills this process when its parent dies, even where it hangs in a library."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
