"""Running and timing an exported file in ONNX Runtime."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from autocompress.core.answers import Meaning, as_scores
from autocompress.core.batches import rows_at_once
from autocompress.errors import TrialError
from autocompress.export.scores import scores

WARM_UP = 3
MOST_ROWS = 256
"""Of one run, of small inputs."""


class Runtime:
    """One loaded file. `threads` is 1 wherever latency is reported; `literal` leaves the graph as it is written,
    without fused kernels."""

    def __init__(self, model: bytes | str | Path, threads: int = 1, literal: bool = False) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if literal:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Spinning threads steal the core that the next process measures on.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        source = model if isinstance(model, bytes) else str(model)
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class
            raise TrialError(f"ONNX Runtime refuses the file: {str(error).splitlines()[0]}") from error
        given = next(iter(self._session.get_inputs()), None)
        self._input = "" if given is None else given.name
        self._dtype = np.int64 if given is not None and given.type == "tensor(int64)" else np.float32

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Outputs of one batch of normalised float32 inputs `(N, …)`, or of int64 tokens."""
        return self.run_all(inputs)[0]

    def run_all(self, inputs: np.ndarray) -> list[np.ndarray]:
        """Every output of the graph for one batch."""
        result: list[np.ndarray] = self._session.run(None, {self._input: np.ascontiguousarray(inputs, self._dtype)})
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
    logits = np.concatenate([runtime.run(batch) for batch in batches])
    if not np.isfinite(logits).all():
        raise TrialError("nan: the exported file puts out values that are not finite")
    return scores(as_scores(logits, meaning), targets)


def latencies_ms(runtimes: Mapping[str, Runtime], example: np.ndarray, runs: int = 30,
                 seconds: float = 1.0) -> dict[str, float]:
    """Median milliseconds of one inference of `example` `(1, …)` for each file, interleaved.

    Interleaving lets a change in the machine's load meet all files alike. Stops after `runs` rounds or
    `seconds`, whichever is first, but not before five rounds.
    """
    for runtime in runtimes.values():
        for _ in range(WARM_UP):
            runtime.run(example)
    samples: dict[str, list[float]] = {name: [] for name in runtimes}
    deadline = time.perf_counter() + seconds
    for round_number in range(runs):
        if round_number >= 5 and time.perf_counter() > deadline:
            break
        for name, runtime in runtimes.items():
            start = time.perf_counter()
            runtime.run(example)
            samples[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) * 1e3 for name, values in samples.items()}
