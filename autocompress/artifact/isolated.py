"""Running a file in a process of its own, with limits on its time and memory: what it does cannot hurt this one.

The process reads one line of JSON and safetensors from its standard input, and writes the same to its standard output;
nothing is kept on the disk. It is `python -m autocompress.artifact.isolated`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from autocompress.errors import AutocompressError, InputError, TrialError
from autocompress.formats.table import reader_named
from autocompress.quantities import format_bytes, format_seconds

FILE = "file"
# Rounds and seconds of timing at most.
ROUNDS, TIMING_SECONDS = 30, 1.0


@dataclass(frozen=True)
class Limits:
    """Wall-clock seconds, and bytes of memory beyond what libraries take."""

    seconds: float = 60.0
    memory_bytes: int = 4 * 2**30


@dataclass(frozen=True)
class Answers:
    """What a file put out in a process of its own."""

    outputs: dict[str, np.ndarray]
    # Facts that the format's static check proved.
    proved: dict[str, Any] = field(default_factory=dict)
    # Medians of one inference in milliseconds, by name of the metric; none where nothing was timed.
    latency: dict[str, float] = field(default_factory=dict)
    # Bytes of flash on the device, where a compiler tells them.
    flash_bytes: int | None = None


def run_isolated(format_name: str, data: bytes, inputs: Mapping[str, np.ndarray], limits: Limits | None = None, *,
                 check: bool = False, timed: bool = False) -> Answers:
    """Load a file in a process of its own and run it.

    Args:
        format_name: of the file, a format that ships with the package.
        data: the file.
        inputs: arrays `(N, …)` by name.
        limits: of the process.
        check: also have the format prove what it proves of files that ship.
        timed: also time one inference of the first sample, with one thread.

    Raises:
        InputError: when the file cannot be loaded or run, or not within the limits, or does not pass the check.
    """
    limits = limits or Limits()
    header = {"format": format_name, "check": check, "timed": timed, **asdict(limits)}
    tensors = {FILE: np.frombuffer(data, np.uint8), **{f"input/{name}": values for name, values in inputs.items()}}
    # The package's own folder, so that the same release runs; not the current folder, where anything may lie.
    package = str(Path(__file__).parents[2])
    paths = [package, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run([sys.executable, "-P", "-m", "autocompress.artifact.isolated"], env=environment,
                              input=_message(header, tensors), capture_output=True, timeout=limits.seconds, check=False)
    except subprocess.TimeoutExpired:
        raise InputError(f"the file must load and run within {format_seconds(limits.seconds)}, but did not; allow more "
                         "with --timeout") from None
    if done.returncode != 0:
        raise InputError(f"the file must load and run with {format_bytes(limits.memory_bytes)} of memory, but its "
                         f"process {_ending(done.returncode, done.stderr)}; allow more with --memory, or export the "
                         "file again")
    answer, arrays = _understood(done.stdout)
    if "error" in answer:
        raise InputError(answer["error"])
    return Answers(arrays, answer["proved"], answer["latency"], answer["flash_bytes"])


def _ending(code: int, errors: bytes) -> str:
    """How a process ended, in words."""
    if code < 0:
        signals = {number.value: number.name for number in signal.Signals}
        return f"was ended by {signals.get(-code, f'signal {-code}')}"
    last = errors.decode(errors="replace").strip().splitlines()
    return f"ended with {code}: {last[-1] if last else 'without a word'}"


def _message(header: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> bytes:
    body: bytes = save({name: np.ascontiguousarray(values) for name, values in tensors.items()})
    return json.dumps(header).encode() + b"\n" + body


def _understood(message: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    header, _, body = message.partition(b"\n")
    return json.loads(header), load(body)


def _serve(message: bytes) -> bytes:
    """Answer one message, in the process that has the limits."""
    header, tensors = _understood(message)
    data = tensors.pop(FILE).tobytes()
    inputs = {name.removeprefix("input/"): values for name, values in tensors.items()}
    latency: dict[str, float] = {}
    proved: dict[str, Any] = {}
    try:
        reader = reader_named(header["format"])
        if header["timed"]:
            from autocompress.formats import timing  # before the limit: a library's memory is not the file's
        _limit(header["memory_bytes"], header["seconds"])
        runtime = reader.open(data)
        if header["check"]:
            proved = reader.checked(data)
        outputs = runtime.run(inputs)
        if header["timed"]:
            first = {name: values[:1] for name, values in inputs.items()}
            latency = timing.time_files({FILE: runtime}, first, ROUNDS, TIMING_SECONDS)[FILE].metrics()
    except (AutocompressError, TrialError, MemoryError) as error:
        return _message({"error": str(error) or type(error).__name__}, {})
    return _message({"proved": proved, "latency": latency, "flash_bytes": runtime.flash_bytes}, outputs)


def _limit(memory_bytes: int, seconds: float) -> None:
    """Bound this process's memory by what it has now and so much more, and its CPU time, where the system can."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError, ValueError):
        return
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory_bytes,) * 2)
    spent = resource.getrusage(resource.RUSAGE_SELF)
    most = int(spent.ru_utime + spent.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (most, most + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Serve the one message on standard input; what libraries print goes to standard error."""
    answers = os.dup(1)
    os.dup2(2, 1)
    with os.fdopen(answers, "wb") as stream:
        stream.write(_serve(sys.stdin.buffer.read()))


if __name__ == "__main__":
    main()
