"""The original as its user has it without us: what a plain export makes of the untouched network.

Everything that is compared with the original is compared with that file. Where our own graph of the same network, with
nothing compressed, is faster or smaller than the plain export, its time or size is the original's, so that no gain is
the exporter's: names that it writes into the file, say.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from autocompress.errors import TrialError
from autocompress.formats.onnx.runtime import Runtime
from autocompress.formats.onnx.timing import Timing, time_files
from autocompress.formats.onnx.torch_onnx import plain_export

log = logging.getLogger(__name__)

PLAIN, OWN = "plain torch.onnx.export", "own graph"
TOLERANCE = 1e-3
"""Relative to the largest answer: what a plain export may differ by from our own graph of the network."""


@dataclass(frozen=True)
class OriginalFile:
    """`file`: the plain export, or our own graph where there is none, and then `note` says why. `runtimes`: what the
    original's latency is the least of, loaded with one thread. `size_bytes`: of the smaller of both graphs."""

    file: bytes
    runtimes: dict[str, Runtime]
    size_bytes: int
    note: str = ""

    def time_beside(self, files: dict[str, Runtime], example: np.ndarray, rounds: int = 30,
                    seconds: float = 1.0) -> tuple[str, Timing, dict[str, Timing]]:
        """Time the original and `files` in turn: which of the original's graphs is the fastest, its times, and those of
        the files."""
        timed = time_files(self.runtimes | files, example, rounds, seconds)
        fastest = min(self.runtimes, key=lambda name: float(np.median(timed[name].cpu_ms)))
        return fastest, timed[fastest], {name: timed[name] for name in files}


def original_of(model: nn.Module, own: bytes, inputs: np.ndarray, dtype: torch.dtype) -> OriginalFile:
    """The original from the untouched `model` (eval mode) and `own`, our graph of it. `inputs` `(N, …)`: real ones, on
    which a plain export must answer as ours does, alone and together."""
    runtime = Runtime(own)
    try:
        plain = plain_export(model, inputs.shape[1:], dtype)
        loaded = Runtime(plain)
        _require_same(loaded, runtime, inputs)
    except TrialError as error:
        note = f"there is no plain export to compare with, so our own graph of the original stands for it: {error}"
        log.info(note)
        return OriginalFile(own, {OWN: runtime}, len(own), note)
    return OriginalFile(plain, {PLAIN: loaded, OWN: runtime}, min(len(plain), len(own)))


def _require_same(plain: Runtime, own: Runtime, inputs: np.ndarray) -> None:
    for batch in (inputs[:1], inputs):
        got, expected = plain.run(batch), own.run(batch)
        if got.shape != expected.shape or not np.abs(got - expected).max() <= TOLERANCE * np.abs(expected).max():
            raise TrialError(f"it answers {len(batch)} inputs otherwise than the network")
