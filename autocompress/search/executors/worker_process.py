"""One process that evaluates: what runs in it, and the end of it that the search holds.

Messages over a pipe: the worker says when it is ready, takes one job after the other and answers each; it may be told
to stop. The pipe's end is the parent's end: whatever ends that, workers end too.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from autocompress.core.cancellation import controlled
from autocompress.errors import EnvironmentFault, InputError, TrialError
from autocompress.search.executors.limits import out_of_time

DIED = ("a worker process died before it could work, perhaps for lack of memory: resume with fewer --jobs. In a "
        "script, call search behind `if __name__ == \"__main__\":`, because each process reads the script anew")
READY, STOP = "ready", "stop"
START_SECONDS = 600.0
"""In which a worker must have loaded the network and its data, where evaluations have a limit at all."""
POLL_SECONDS = 0.1
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_starting = threading.Lock()


class WorkerDied(TrialError):
    """A process ended in the middle of a job: killed, or a crash of a library."""


class _RemoteTraceback(Exception):
    """The traceback in the other process, as text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class Worker:
    """A process that `make` prepares when it is first needed, and anew after it was killed or died."""

    def __init__(self, make: Callable[[], Callable[..., Any]]) -> None:
        self._make = make
        self._process: Any = None
        self._pipe: Connection | None = None
        self._ready = False

    @property
    def process_id(self) -> int | None:
        """The number of the process, if it was started."""
        return None if self._process is None else self._process.pid

    def run(self, job: tuple[Any, ...], limit: float | None, should_stop: Callable[[], bool]) -> Any:
        """What the worker answers to `job`. TrialError after `limit` seconds, when the process is killed; WorkerDied;
        EnvironmentFault where it cannot begin; what the job raises."""
        if self._process is None or not self._process.is_alive():
            self._start()
        if not self._ready:
            self._answer(None, None if limit is None else limit + START_SECONDS, should_stop)
            self._ready = True
        return self._answer(job, limit, should_stop)

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
        self._pipe, theirs = context.Pipe()
        self._process, self._ready = context.Process(target=serve, args=(theirs, self._make)), False
        try:
            with _starting, _one_thread(), _signals_blocked():
                self._process.start()
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            self._process = None
            raise InputError("with jobs above 1, model and data go to other processes and must be picklable, but: "
                             f"{error}. Give them as path/to/file.py:factory, or jobs=1") from error
        finally:
            theirs.close()

    def _answer(self, job: tuple[Any, ...] | None, limit: float | None, should_stop: Callable[[], bool]) -> Any:
        assert self._pipe is not None
        began, told = time.perf_counter(), False
        try:
            if job is not None:
                self._pipe.send(job)
            while not self._pipe.poll(POLL_SECONDS):
                if not told and should_stop():
                    self._pipe.send(STOP)
                    told = True
                if limit is not None and time.perf_counter() - began > limit:
                    self.kill()
                    raise out_of_time(limit)
                if not self._process.is_alive() and not self._pipe.poll(0):
                    raise EOFError
            error, text, result = self._pipe.recv()
        except (EOFError, OSError):
            self.kill()
            if not self._ready:
                raise EnvironmentFault(DIED) from None
            code = self._process.exitcode
            how = f"killed by signal {-code}, perhaps for lack of memory" if code and code < 0 else f"exit code {code}"
            raise WorkerDied(f"the worker process died ({how})") from None
        if error is not None:
            raise error from _RemoteTraceback(text)
        return result


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


def serve(pipe: Connection, make: Callable[[], Callable[..., Any]]) -> None:
    """The life of a worker: make the evaluation, then answer jobs until the other end of the pipe is closed."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # the parent decides when to stop
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    _end_with_parent()
    jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
    stop, busy = threading.Event(), threading.Event()
    busy.set()
    threading.Thread(target=_listen, args=(pipe, jobs, stop, busy), daemon=True).start()
    evaluate: Callable[..., Any] | None = None

    def begin() -> str:
        nonlocal evaluate
        evaluate = make()
        return READY

    if not _answered(pipe, begin):
        return
    busy.clear()
    for deadline, plan, rung, seconds, threads in iter(jobs.get, None):
        busy.set()
        assert evaluate is not None
        with controlled(stop.is_set, deadline):
            _answered(pipe, partial(evaluate, plan, rung, seconds, stop.is_set, threads))
        busy.clear()


def _answered(pipe: Connection, work: Callable[[], Any]) -> bool:
    """Send the error of `work`, its traceback as text, and what it gives; return whether it worked."""
    answer: tuple[BaseException | None, str, Any]
    try:
        answer = (None, "", work())
    except (Exception, SystemExit) as error:  # a user's own code may call sys.exit
        answer = (_portable(error), "".join(traceback.format_exception(error)), None)
    with suppress(OSError):  # nobody is there any more
        pipe.send(answer)
    return answer[0] is None


def _portable(error: BaseException) -> BaseException:
    """The error, or one of the same words where it cannot be sent."""
    try:
        copy: BaseException = pickle.loads(pickle.dumps(error))
        return copy
    except Exception:
        first = next(iter(str(error).splitlines()), "")
        return TrialError(f"{type(error).__name__}: {first}")


def _listen(pipe: Connection, jobs: queue.SimpleQueue[Any], stop: threading.Event, busy: threading.Event) -> None:
    """Hand on what comes. When the other end is gone, so is the search: end, at once where a job is under way."""
    try:
        while True:
            message = pipe.recv()
            if message == STOP:
                stop.set()
            else:
                jobs.put(message)
    except (EOFError, OSError):
        jobs.put(None)
        if busy.is_set():
            os._exit(1)


def _end_with_parent() -> None:
    """On Linux the kernel kills this process when its parent dies, even where it hangs in a library."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
