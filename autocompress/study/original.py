"""The original as its user has it without autocompress: what a plain export makes of the untouched network.

Everything that is compared with the original is compared with that file. Where our own graph of the same network, with
nothing compressed, is faster or smaller than the plain export, its time or size is the original's, so that no gain is
the exporter's: names that it writes into the file, say.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from torch import nn

from autocompress.errors import TrialError
from autocompress.formats.base import Arrays, Format, Runtime
from autocompress.formats.running import largest_difference
from autocompress.formats.timing import Timing, time_files
from autocompress.study.file_writer import as_arrays
from autocompress.study.kept_graphs import KeptGraphs
from autocompress.tensors.named import Inputs

log = logging.getLogger(__name__)

OWN = "own graph"
# What a plain export is called where it is kept.
PLAIN = "plain"
# Largest difference between a plain export and our own graph of the network, relative to the largest answer.
TOLERANCE = 1e-3
# How many times as long as our own graph of the network a plain export takes.
PLAIN_EXPORTS = 2.5


@dataclass(frozen=True)
class OriginalFile:
    """`file`: the plain export, or our own graph where there is none, and then `note` says why. `runtimes`: what the
    original's latency is the least of, loaded with one thread. `size_bytes`: of the smaller of both graphs."""

    file: bytes
    runtimes: dict[str, Runtime]
    size_bytes: int
    note: str = ""

    def time_beside(self, files: dict[str, Runtime], example: Arrays, rounds: int = 30,
                    seconds: float = 1.0) -> tuple[str, Timing, dict[str, Timing]]:
        """Time the original and `files` in turn: which of the original's graphs is the fastest, its times, and those of
        the files."""
        timed = time_files(self.runtimes | files, example, rounds, seconds)
        fastest = min(self.runtimes, key=lambda name: float(np.median(timed[name].cpu_ms)))
        return fastest, timed[fastest], {name: timed[name] for name in files}


def original_of(file_format: Format, model: nn.Module, file: bytes, inputs: Inputs, example: Inputs,
                open_to_time: Callable[[bytes], Runtime], graphs: KeptGraphs | None = None,
                is_time: bool = True) -> OriginalFile:
    """Convert the untouched network as its user would, and check that file against our own.

    Args:
        file_format: the format of both files.
        model: the untouched network, in eval mode.
        file: our file of it.
        inputs: real ones `(N, …)`, on which a plain export must answer as ours does, alone and together.
        example: two samples with which the network is traced.
        open_to_time: loads a file where latency is measured.
        graphs: keeps the plain export.
        is_time: whether there is time for one that was not kept.
    """
    runtime = file_format.open(file)

    def checked(plain: bytes) -> bytes:
        loaded = file_format.open(plain)
        for batch in (inputs[:1], inputs):
            _require_same(loaded, runtime, as_arrays(batch))
        return plain

    def exported() -> bytes:
        if not is_time:
            raise TrialError("the time limit is too short to make one")
        plain = checked(file_format.plain(model, example))
        if graphs is not None:
            graphs.put(PLAIN, file_format, plain)
        return plain

    try:
        plain = _kept(graphs, file_format, checked) or exported()
    except TrialError as error:
        note = f"there is no plain export to compare with, so our own graph of the original stands for it: {error}"
        log.info(note)
        return OriginalFile(file, {OWN: open_to_time(file)}, len(file), note)
    return OriginalFile(plain, {f"plain {file_format.converter}": open_to_time(plain), OWN: open_to_time(file)},
                        min(len(plain), len(file)))


def _kept(graphs: KeptGraphs | None, file_format: Format, checked: Callable[[bytes], bytes]) -> bytes | None:
    """The plain export that was kept, where there is one that still answers as our own file does."""
    kept = None if graphs is None else graphs.get(PLAIN, file_format)
    with suppress(TrialError):
        return None if kept is None else checked(kept)
    return None


def _require_same(plain: Runtime, written: Runtime, batch: Arrays) -> None:
    if not largest_difference(plain.run(batch), written.run(batch)) <= TOLERANCE:
        samples = len(next(iter(batch.values())))
        raise TrialError(f"it answers {samples} inputs otherwise than the network")
