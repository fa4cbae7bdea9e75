"""Running ExecuTorch programs on this machine, one sample at a time."""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

import numpy as np
import torch

from autocompress.core.quiet import silent
from autocompress.errors import TrialError, reason_of
from autocompress.formats import base
from autocompress.formats.base import Arrays
from autocompress.formats.executorch.lowering import INPUTS, LOGGERS, OUTPUTS

# The head of a file: its magic, the length of its header, and in bytes the program, where what it refers to begins, and
# how much that is. Source: executorch/exir/_serialize/_program.py.
HEAD = struct.Struct("<4x2s2x4sIQQQ")
# Types of inputs by the word that ExecuTorch has for them.
DTYPES = {"Float": torch.float32, "Long": torch.int64, "Int": torch.int32, "Bool": torch.bool, "Half": torch.float16,
          "Double": torch.float64, "Byte": torch.uint8}


class ExecutorchRuntime(base.Runtime):
    """One loaded program, of one sample; the calling thread does all the work.

    Args:
        data: the bytes of the file.

    Raises:
        TrialError: when ExecuTorch refuses the file.
    """

    def __init__(self, data: bytes) -> None:
        require_whole(data)
        try:
            self._program = executorch_runtime().load_program(data)
            self._inputs, self._outputs = (str(self._program.load_method(name).execute([])[0]).split("\n")
                                           for name in (INPUTS, OUTPUTS))
            self._method = self._program.load_method("forward")
            told = self._method.metadata
            self._dtypes = [dtype_of(str(told.input_tensor_meta(place))) for place in range(told.num_inputs())]
        except Exception as error:  # the runtime raises many kinds
            raise TrialError(f"ExecuTorch refuses the file: {reason_of(error)}") from error

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Outputs by name.

        Raises:
            TrialError: when ExecuTorch fails on a sample.
        """
        try:
            arguments = [torch.from_numpy(np.ascontiguousarray(inputs[name])).to(dtype)
                         for name, dtype in zip(self._inputs, self._dtypes, strict=True)]
            rows = [self._method.execute([values[row:row + 1] for values in arguments])
                    for row in range(len(arguments[0]))]
            return {name: torch.cat([row[place] for row in rows]).numpy()
                    for place, name in enumerate(self._outputs)}
        except Exception as error:  # as above
            raise TrialError(f"ExecuTorch fails on {len(next(iter(inputs.values()), ()))} inputs: {reason_of(error)}"
                             ) from error


def require_whole(data: bytes) -> None:
    """TrialError where the bytes `data` are no program, or not all of one: ExecuTorch reads where it is told to."""
    if len(data) < HEAD.size:
        raise TrialError(f"the bytes are no ExecuTorch program: there are {len(data)}")
    magic, extended, _, program, start, rest = HEAD.unpack_from(data)
    if magic != b"ET" or extended != b"eh00":
        raise TrialError("the bytes are no ExecuTorch program: they do not begin as one does")
    whole = start + rest if rest else program
    if len(data) != whole:
        raise TrialError(f"an ExecuTorch program must be whole, {whole} bytes, but there are {len(data)}")


@cache
def executorch_runtime() -> Any:
    """The runtime of this process, with one thread: its pool cannot be changed while programs are loaded."""
    with silent(*LOGGERS):
        import executorch.kernels.quantized  # noqa: F401  registers kernels
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

        portable_lib._unsafe_reset_threadpool(1)
        return Runtime.get()


def dtype_of(told: str) -> torch.dtype:
    """The type of an input in ExecuTorch's words for it, `TensorInfo(sizes=[1, 3], dtype=Float, …)`."""
    return DTYPES[told.partition("dtype=")[2].partition(",")[0]]
