"""Running an exported file in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnxruntime

from autocompress.core.answers import Meaning, as_scores
from autocompress.core.batch_sizes import rows_at_once
from autocompress.errors import TrialError, reason_of
from autocompress.formats.onnx.scores import scores

MOST_ROWS = 256
"""Of one run, of small inputs."""
SILENT = 4
"""Severity of a session's own lines on the screen, fatal ones only: its errors are raised, and told from there."""


class Runtime:
    """One loaded file. `threads` is 1 wherever latency is reported: then the calling thread does all the work.
    `literal` leaves the graph as it is written, without fused kernels."""

    def __init__(self, model: bytes | str | Path, threads: int = 1, literal: bool = False) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = SILENT
        if literal:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Spinning threads steal the core that the next process measures on.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        source = model if isinstance(model, bytes) else str(model)
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class
            raise TrialError(f"ONNX Runtime refuses the file: {reason_of(error)}") from error
        given = next(iter(self._session.get_inputs()), None)
        self._input = "" if given is None else given.name
        self._dtype = np.int64 if given is not None and given.type == "tensor(int64)" else np.float32

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Outputs of one batch of normalised float32 inputs `(N, …)`, or of int64 tokens."""
        return self.run_all(inputs)[0]

    def run_all(self, inputs: np.ndarray) -> list[np.ndarray]:
        """Every output of the graph for one batch. TrialError when the runtime fails on it."""
        try:
            result: list[np.ndarray] = self._session.run(
                None, {self._input: np.ascontiguousarray(inputs, self._dtype)})
        except Exception as error:  # as above
            raise TrialError(f"ONNX Runtime fails on {len(inputs)} inputs: {reason_of(error)}") from error
        return result

    def constants(self) -> list[np.ndarray]:
        """Every output of a graph that has no inputs."""
        result: list[np.ndarray] = self._session.run(None, {})
        return result

    def logits(self, inputs: np.ndarray) -> np.ndarray:
        """Outputs for all rows of `inputs`, in batches."""
        rows = rows_at_once(inputs.shape[1:], MOST_ROWS)
        return np.concatenate([self.run(inputs[i:i + rows]) for i in range(0, len(inputs), rows)])


def scored(runtime: Runtime, batches: Iterable[np.ndarray], targets: np.ndarray,
           meaning: Meaning = "scores") -> dict[str, float]:
    """`scores` of what the file, whose outputs have that `meaning`, answers to batches of inputs `(B, …)`, in the order
    of `targets`, made as they are needed. TrialError when an output is not finite."""
    return scores(as_scores(answered(runtime, batches), meaning), targets)


def answered(runtime: Runtime, batches: Iterable[np.ndarray]) -> np.ndarray:
    """Outputs `(N, classes)` of the file for batches `(B, …)`. TrialError when one is not finite."""
    logits = np.concatenate([runtime.run(batch) for batch in batches])
    if not np.isfinite(logits).all():
        raise TrialError("nan: the exported file puts out values that are not finite")
    return logits
