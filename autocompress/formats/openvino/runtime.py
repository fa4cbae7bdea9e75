"""Running ONNX files in OpenVINO, on the CPU."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from autocompress.errors import TrialError, reason_of
from autocompress.formats import base
from autocompress.formats.base import Arrays

# Sums in float32: OpenVINO computes in bfloat16 where the CPU has it, and answers differ by the machine.
PRECISION = "f32"
# Left alone, it rounds what float products with integer weights read to 8 bits, which costs 1% of an answer.
NO_ROUNDING = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
# Numbers of samples for which a file stays compiled: one, a batch, and what is left behind the last.
KEPT = 3


class OpenvinoRuntime(base.Runtime):
    """One ONNX file in OpenVINO, compiled for each number of samples that it is run on: in batches of free size
    OpenVINO 2026.4 gives all channels of some rounded convolutions the bias of the first.

    Args:
        data: bytes of the file.
        threads: with one, the calling thread does all the work.

    Raises:
        TrialError: when OpenVINO refuses the file.
    """

    def __init__(self, data: bytes, threads: int = 1) -> None:
        self._settings = {"INFERENCE_PRECISION_HINT": PRECISION, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1,
                          **NO_ROUNDING}
        self._requests: dict[int, Any] = {}
        try:
            self._model = openvino_core().read_model(data)
            self._compiled(1)
        except Exception as error:  # its exceptions share no base class
            raise TrialError(f"OpenVINO refuses the file: {last_reason(error)}") from error
        self._dtypes = {end.get_any_name(): end.get_element_type().to_dtype() for end in self._model.inputs}
        self._outputs = [end.get_any_name() for end in self._model.outputs]
        self._axes = {end.get_any_name(): tuple(axis for axis, size in enumerate(end.partial_shape)
                                                if axis and size.is_dynamic) for end in self._model.inputs}

    def _compiled(self, samples: int) -> Any:
        """A request of so many samples."""
        if samples not in self._requests:
            model = self._model.clone()
            model.reshape({place: _with_samples(end.partial_shape, samples) for place, end in enumerate(model.inputs)})
            compiled = openvino_core().compile_model(model, "CPU", self._settings)
            if len(self._requests) == KEPT:
                del self._requests[next(iter(self._requests))]
            self._requests[samples] = compiled.create_infer_request()
        return self._requests[samples]

    @property
    def free_axes(self) -> dict[str, tuple[int, ...]]:
        """Axes whose size the file does not fix."""
        return self._axes

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Outputs of one batch by name.

        Raises:
            TrialError: when OpenVINO fails on it.
        """
        samples = len(next(iter(inputs.values()), ()))
        try:
            feed = {name: np.ascontiguousarray(inputs[name], dtype) for name, dtype in self._dtypes.items()}
            results = self._compiled(samples).infer(feed)
            return {name: np.array(results[place]) for place, name in enumerate(self._outputs)}
        except Exception as error:  # as above
            raise TrialError(f"OpenVINO fails on {samples} inputs: {last_reason(error)}") from error


def _with_samples(shape: Any, samples: int) -> Any:
    """A shape whose first axis, where it is free, has so many places."""
    import openvino

    sizes = list(shape)
    return openvino.PartialShape([samples, *sizes[1:]] if sizes and sizes[0].is_dynamic else sizes)


@cache
def openvino_core() -> Any:
    """The one ``openvino.Core`` of this process.

    Its CPU plugin gives the calling thread a stack for signal handlers and takes that stack away with the plugin.
    Of two plugins the second puts back the stack of the first, which is gone: the next signal would end the process.
    """
    import openvino

    return openvino.Core()


def last_reason(error: Exception) -> str:
    """What went wrong: the last line of a message whose first ones are places in OpenVINO's source."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("Exception from")]
    return lines[-1].strip() if lines else reason_of(error)
