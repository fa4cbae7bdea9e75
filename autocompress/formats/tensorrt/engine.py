"""Running an ONNX file in TensorRT, on the first CUDA device.

Nothing here has been run: no machine of the tests has TensorRT. Source: the Python API of TensorRT 10
(`tensorrt.Builder`, `tensorrt.OnnxParser`, `IExecutionContext.execute_async_v3`).
"""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import Any

import numpy as np

from autocompress.errors import TrialError, reason_of
from autocompress.formats import base
from autocompress.formats.base import Arrays, Reading

# Samples of one run at most; the engine is tuned for one.
MOST_ROWS = 256
WORKSPACE_BYTES = 2**30


def is_there() -> bool:
    """Whether TensorRT and a CUDA device are there."""
    if find_spec("tensorrt") is None:
        return False
    import torch

    return torch.cuda.is_available()


class Engine(base.Runtime):
    """One ONNX file, built by TensorRT for the GPU of this machine.

    Raises:
        TrialError: when TensorRT refuses the file.
    """

    def __init__(self, data: bytes) -> None:
        import tensorrt

        logger = tensorrt.Logger(tensorrt.Logger.ERROR)
        builder = tensorrt.Builder(logger)
        network = builder.create_network(0)
        parser = tensorrt.OnnxParser(network, logger)
        if not parser.parse(data):
            reasons = [parser.get_error(i).desc() for i in range(parser.num_errors)]
            raise TrialError(f"TensorRT refuses the file: {'; '.join(reasons) or 'without a word'}")
        config, profile = builder.create_builder_config(), builder.create_optimization_profile()
        config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
        for entry in (network.get_input(i) for i in range(network.num_inputs)):
            sizes = tuple(entry.shape)[1:]
            profile.set_shape(entry.name, (1, *sizes), (1, *sizes), (MOST_ROWS, *sizes))
        config.add_optimization_profile(profile)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise TrialError("TensorRT cannot build the file for this device")
        self._runtime = tensorrt.Runtime(logger)  # lives as long as its engine
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        self._context = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        read = {name for name in names if self._engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT}
        self._inputs = [name for name in names if name in read]
        self._outputs = [name for name in names if name not in read]
        self._dtypes = {name: np.dtype(tensorrt.nptype(self._engine.get_tensor_dtype(name))) for name in names}

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Outputs of one batch by name.

        Raises:
            TrialError: when TensorRT fails on it.
        """
        try:
            return {name: tensor.cpu().numpy() for name, tensor in self._run(self._on_device(inputs)).items()}
        except RuntimeError as error:
            samples = len(next(iter(inputs.values()), ()))
            raise TrialError(f"TensorRT fails on {samples} inputs: {reason_of(error)}") from error

    def time(self, inputs: Arrays, runs: int = 1) -> Reading:
        """Time an inference as the mean of `runs` in a row, on inputs that lie on the device, by wall time."""
        arguments = self._on_device(inputs)
        self._run(arguments)
        start = time.perf_counter()
        for _ in range(runs):
            self._run(arguments)
        seconds = (time.perf_counter() - start) / runs
        return Reading(seconds, seconds)

    def _on_device(self, inputs: Arrays) -> dict[str, Any]:
        import torch

        return {name: torch.from_numpy(np.ascontiguousarray(inputs[name], self._dtypes[name])).cuda()
                for name in self._inputs}

    def _run(self, arguments: dict[str, Any]) -> dict[str, Any]:
        import torch

        for name, tensor in arguments.items():
            self._context.set_input_shape(name, tuple(tensor.shape))
            self._context.set_tensor_address(name, tensor.data_ptr())
        outputs = {}
        for name in self._outputs:
            kind = torch.from_numpy(np.zeros(0, self._dtypes[name])).dtype
            outputs[name] = torch.empty(tuple(self._context.get_tensor_shape(name)), dtype=kind, device="cuda")
            self._context.set_tensor_address(name, outputs[name].data_ptr())
        stream = torch.cuda.current_stream()
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError("execute_async_v3 returned False")
        stream.synchronize()
        return outputs
