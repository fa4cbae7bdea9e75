"""Running .tflite files in TensorFlow Lite Micro's interpreter, with its reference kernels, on this machine."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cached_property

import numpy as np
import tflite

from autocompress.errors import TrialError, reason_of
from autocompress.formats import base
from autocompress.formats.base import Arrays
from autocompress.formats.tflite.ends import BYTES, Ends

# What the interpreter may need beside tensors: for itself, for each operator, and for each channel of a weight.
FIXED_BYTES, OPERATOR_BYTES, CHANNEL_BYTES = 65536, 1024, 16
# The interpreter prints what its arena holds: read from a process of its own.
MEASURE = """import sys
from tflite_micro import runtime
runtime.Interpreter.from_bytes(sys.stdin.buffer.read(), arena_size=int(sys.argv[1])).print_allocations()"""
SECONDS = 120


class MicroRuntime(base.Runtime):
    """One .tflite file loaded by the interpreter for microcontrollers.

    Raises:
        TrialError: when it refuses the file, such as for an operator that it lacks.
    """

    def __init__(self, data: bytes) -> None:
        from tflite_micro import runtime

        self._data, self._ends = data, Ends(data)
        self._arena = arena_bound(data)
        try:
            self._interpreter = runtime.Interpreter.from_bytes(data, arena_size=self._arena)
        except Exception as error:  # its reader raises many kinds
            raise TrialError(f"TensorFlow Lite Micro refuses the file: {reason_of(error)}") from error

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Outputs by name, in float.

        Raises:
            TrialError: when the interpreter fails on a sample.
        """
        interpreter, ends = self._interpreter, self._ends
        arrays = [end.stored(inputs[end.name]) for end in ends.inputs]
        outputs: dict[str, list[np.ndarray]] = {end.name: [] for end in ends.outputs}
        try:
            for row in range(len(arrays[0])):
                for place, values in enumerate(arrays):
                    interpreter.set_input(values[row:row + 1], place)
                interpreter.invoke()
                for place, end in enumerate(ends.outputs):
                    outputs[end.name].append(np.array(interpreter.get_output(place)))
        except (ValueError, RuntimeError) as error:
            raise TrialError(f"TensorFlow Lite Micro fails on a sample: {reason_of(error)}") from error
        return {end.name: end.real(np.concatenate(outputs[end.name])) for end in ends.outputs}

    @cached_property
    def peak_memory_bytes(self) -> int | None:  # type: ignore[override]
        """Bytes of the arena that the interpreter takes: activations, and what its kernels keep. Its pointers have 64
        bits here; on a microcontroller it is less."""
        done = subprocess.run([sys.executable, "-c", MEASURE, str(self._arena)], input=self._data, capture_output=True,
                              timeout=SECONDS, check=False)
        match = re.search(rb"Arena allocation total (\d+) bytes", done.stdout + done.stderr)
        if done.returncode or match is None:
            raise TrialError("TensorFlow Lite Micro must say what its arena takes, but did not: "
                             + done.stderr.decode(errors="replace")[-200:])
        return int(match[1])


def arena_bound(data: bytes) -> int:
    """An arena in bytes that is large enough for a file, whatever the order of its tensors."""
    model = tflite.Model.GetRootAsModel(data, 0)
    graph = model.Subgraphs(0)
    total = FIXED_BYTES + OPERATOR_BYTES * int(graph.OperatorsLength())
    for tensor in (graph.Tensors(i) for i in range(graph.TensorsLength())):
        if not tensor.Buffer():
            total += int(np.prod(tensor.ShapeAsNumpy(), dtype=np.int64)) * BYTES[tensor.Type()] + 16
        if tensor.Quantization() is not None:
            total += CHANNEL_BYTES * int(tensor.Quantization().ScaleLength())
    return total
