"""Running .tflite files in LiteRT, and what all runtimes of such files share: arrays in, arrays out."""

from __future__ import annotations

import numpy as np

from autocompress.errors import TrialError, reason_of
from autocompress.formats import base
from autocompress.formats.base import Arrays
from autocompress.formats.tflite.ends import Ends


class Runtime(base.Runtime):
    """One .tflite file loaded by LiteRT, on the CPU, sample by sample.

    Args:
        data: bytes of the file.
        threads: CPU threads.

    Raises:
        TrialError: when LiteRT refuses the file.
    """

    def __init__(self, data: bytes, threads: int = 1) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._ends = Ends(data)
        try:
            self._interpreter = Interpreter(model_content=data, num_threads=threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise TrialError(f"LiteRT refuses the file: {reason_of(error)}") from error

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Outputs by name, in float.

        Raises:
            TrialError: when the runtime fails on a sample.
        """
        interpreter, ends = self._interpreter, self._ends
        arrays = {end.index: end.stored(inputs[end.name]) for end in ends.inputs}
        outputs: dict[str, list[np.ndarray]] = {end.name: [] for end in ends.outputs}
        try:
            for row in range(len(next(iter(arrays.values())))):
                for index, values in arrays.items():
                    interpreter.set_tensor(index, values[row:row + 1])
                interpreter.invoke()
                for end in ends.outputs:
                    outputs[end.name].append(interpreter.get_tensor(end.index))
        except (ValueError, RuntimeError) as error:
            raise TrialError(f"LiteRT fails on a sample: {reason_of(error)}") from error
        return {end.name: end.real(np.concatenate(outputs[end.name])) for end in ends.outputs}
