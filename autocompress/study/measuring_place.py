"""Timing files at another place than the driver's machine: the one place where latency is measured.

A file is loaded there once, with one thread, and each reading is asked for by itself, so that files are timed in
turn as they are here.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from autocompress.formats import base
from autocompress.formats.base import Arrays, Format, Reading

# Files that stay loaded.
MOST_LOADED = 4


class Stopwatch:
    """Loads files and times them, at the place where latency is measured."""

    def __init__(self) -> None:
        self._loaded: OrderedDict[str, base.Runtime] = OrderedDict()

    def holds(self, digest: str) -> bool:
        """Whether the file of that hash is loaded."""
        return digest in self._loaded

    def load(self, digest: str, file_format: Format, data: bytes) -> None:
        """Load a file of a format. TrialError when its runtime refuses it."""
        self._loaded[digest] = file_format.open(data)
        while len(self._loaded) > MOST_LOADED:
            self._loaded.popitem(last=False)[1].close()

    def run(self, digest: str, inputs: Arrays) -> dict[str, np.ndarray] | None:
        """Outputs of a batch; None where the file is not loaded."""
        return self._loaded[digest].run(inputs) if digest in self._loaded else None

    def time(self, digest: str, inputs: Arrays, runs: int) -> Reading | None:
        """How long an inference takes, as the mean of several; None where the file is not loaded."""
        return self._loaded[digest].time(inputs, runs) if digest in self._loaded else None


class RemoteRuntime(base.Runtime):
    """A file that is run and timed by a `Stopwatch` elsewhere.

    Args:
        call: calls a method of the stopwatch, see `Executor.measuring_place`.
        file_format: of the file.
        data: its bytes.

    Raises:
        TrialError: when the runtime there refuses the file.
    """

    def __init__(self, call: Callable[..., Any], file_format: Format, data: bytes) -> None:
        self._call, self._format, self._data = call, file_format, data
        self._digest = hashlib.sha256(data).hexdigest()
        if not call("holds", self._digest):
            call("load", self._digest, file_format, data)

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """See `Runtime`."""
        outputs: dict[str, np.ndarray] = self._asked("run", inputs)
        return outputs

    def time(self, inputs: Arrays, runs: int = 1) -> Reading:
        """See `Runtime`: the clocks are those of the other place."""
        reading: Reading = self._asked("time", inputs, runs)
        return reading

    def _asked(self, method: str, *arguments: Any) -> Any:
        answer = self._call(method, self._digest, *arguments)
        if answer is None:  # the place was lost and made anew, or has loaded others since
            self._call("load", self._digest, self._format, self._data)
            answer = self._call(method, self._digest, *arguments)
        return answer
