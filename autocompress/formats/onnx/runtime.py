"""Running ONNX files in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import overload

import numpy as np
import onnxruntime

from autocompress.errors import TrialError, reason_of
from autocompress.formats import base
from autocompress.formats.base import Arrays

CPU, GPU = "CPUExecutionProvider", "CUDAExecutionProvider"
SILENT = 4  # severity of a session's own lines on the screen: fatal ones; its errors are raised, and told from there
DTYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_, "tensor(double)": np.float64}


def _providers(device: str) -> list[str | tuple[str, dict[str, str]]]:
    """What runs the nodes of a graph on a torch device, the first that can before the others."""
    kind, _, number = device.partition(":")
    if kind != "cuda" or GPU not in onnxruntime.get_available_providers():
        return [CPU]
    return [(GPU, {"device_id": number or "0"}), CPU]


class Runtime(base.Runtime):
    """One ONNX file loaded by ONNX Runtime.

    Args:
        model: bytes of the file, or its path.
        threads: 1 wherever latency is reported: then the calling thread does all the work.
        literal: leave the graph as it is written, without fused kernels.
        device: of torch; on a GPU run what ONNX Runtime as it is installed can run there.

    Raises:
        TrialError: when ONNX Runtime refuses the file.
    """

    def __init__(self, model: bytes | str | Path, threads: int = 1, literal: bool = False,
                 device: str = "cpu") -> None:
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
            self._session = onnxruntime.InferenceSession(source, options, providers=_providers(device))
        except Exception as error:  # its exceptions share no base class
            raise TrialError(f"ONNX Runtime refuses the file: {reason_of(error)}") from error
        self._dtypes = {entry.name: DTYPES.get(entry.type, np.float32) for entry in self._session.get_inputs()}
        self._axes = {entry.name: tuple(i for i, size in enumerate(entry.shape) if i and not isinstance(size, int))
                      for entry in self._session.get_inputs()}
        self._outputs = [output.name for output in self._session.get_outputs()]

    @overload
    def run(self, inputs: Arrays) -> dict[str, np.ndarray]: ...

    @overload
    def run(self, inputs: np.ndarray) -> np.ndarray: ...

    def run(self, inputs: Arrays | np.ndarray) -> dict[str, np.ndarray] | np.ndarray:
        """Outputs of one batch by name; of a bare array for the only input, the first output.

        Raises:
            TrialError: when the runtime fails on the batch.
        """
        if not isinstance(inputs, Mapping):
            return self.run({next(iter(self._dtypes)): inputs})[self._outputs[0]]
        try:
            feed: dict[str, np.ndarray] = {
                name: np.ascontiguousarray(values, self._dtypes[name]) for name, values in inputs.items()}
            return dict(zip(self._outputs, self._session.run(None, feed), strict=True))
        except Exception as error:  # as above
            samples = len(next(iter(inputs.values()), ()))
            raise TrialError(f"ONNX Runtime fails on {samples} inputs: {reason_of(error)}") from error

    @property
    def free_axes(self) -> dict[str, tuple[int, ...]]:
        """Axes with a name in place of a size."""
        return self._axes

    def constants(self) -> list[np.ndarray]:
        """Every output of a graph that has no inputs."""
        result: list[np.ndarray] = self._session.run(None, {})
        return result
