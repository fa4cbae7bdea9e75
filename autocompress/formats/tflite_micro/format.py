"""TFLite files for microcontrollers: integers of 1 to 8 bits, run in TensorFlow Lite Micro, with a C array beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from autocompress.core.layer import Layer, Part
from autocompress.core.plan import Step
from autocompress.errors import TrialError
from autocompress.formats.base import WritableNetwork, Written
from autocompress.formats.tflite.format import TfliteFormat, written
from autocompress.formats.tflite.rules import lower
from autocompress.formats.tflite.trace import Example, samples_of, trace
from autocompress.formats.tflite_micro.c_source import c_files
from autocompress.formats.tflite_micro.decoding import decoded
from autocompress.formats.tflite_micro.legality import refused
from autocompress.formats.tflite_micro.runtime import MicroRuntime
from autocompress.formats.tflite_micro.size import arena_bytes, file_bytes

# Operators of LiteRT that the interpreter for microcontrollers lacks.
LACKING = {"GELU"}


class MicroFormat(TfliteFormat):
    """TFLite files for microcontrollers. Weights of fewer than 8 bits are looked up in a table just before they are
    read; what scales of biases follow from is left out."""

    name, runtime = "tflite-micro", "TensorFlow Lite Micro"
    packages = ("tflite-micro", "tflite", "flatbuffers")
    runs_integers_fast = False

    def legal(self, step: Step, layer: Layer) -> str:
        """Integer weights of 1 to 8 bits with integer activations, one scale for each channel; or floats."""
        return refused(step, layer)

    def size(self, parts: Sequence[Part], skeleton_bytes: int = 0, absent: Sequence[Part] = ()) -> int:
        """Count the bytes of every tensor and table."""
        return file_bytes(parts, skeleton_bytes)

    def memory(self, activation_bytes: int, parts: Sequence[Part]) -> int:
        """The arena: activations, the largest weight that is looked up, and what the interpreter keeps."""
        return arena_bytes(activation_bytes, parts)

    def prepare(self, network: nn.Module, example: Tensor | Mapping[str, Tensor]) -> Example:
        """As for LiteRT; what the interpreter for microcontrollers lacks is refused too, by name."""
        one = samples_of(example, 1)
        lacking = sorted({operation.kind for operation in lower(trace(network, one)).operations} & LACKING)
        if lacking:
            raise TrialError(f"{self.runtime} has no operator {lacking[0]}")
        return one

    def write(self, prepared: Example, network: WritableNetwork, threads: int = 1) -> Written:
        """Lower the network, put the integers of the plan in, and look up those of fewer than 8 bits."""
        return written(prepared, network, decoded, bias_scales=False)

    def open(self, data: bytes, threads: int = 1) -> MicroRuntime:  # type: ignore[override]
        """Load a file in the interpreter for microcontrollers."""
        return MicroRuntime(data)

    def files(self, data: bytes) -> dict[str, bytes]:
        """The model, the same as a C array with its header, and a program that runs it."""
        return super().files(data) | c_files(data)

    def snippet(self, file: str, inputs: Mapping[str, str], answers: Sequence[str]) -> str:
        """Run the file by the interpreter for microcontrollers, one sample."""
        return SNIPPET.format(file=file, values=", ".join(inputs.values()),
                              answers=f"{', '.join(answers)}{',' if len(answers) == 1 else ''}",
                              count=len(answers))


SNIPPET = '''import numpy as np
from tflite_micro import runtime

interpreter = runtime.Interpreter.from_file("{file}")
for place, values in enumerate([{values}]):  # one sample; channels last where the file has them so
    end = interpreter.get_input_details(place)
    scale, zero = (end["quantization_parameters"][name] for name in ("scales", "zero_points"))
    values = values[:1] if values[:1].shape == tuple(end["shape"]) else np.moveaxis(values[:1], 1, -1)
    if len(scale):
        bounds = np.iinfo(end["dtype"])
        values = np.clip(np.rint(values / scale[0]) + zero[0], bounds.min, bounds.max)
    interpreter.set_input(values.astype(end["dtype"]).reshape(end["shape"]), place)
interpreter.invoke()
{answers} = (interpreter.get_output(place) for place in range({count}))  # integers where the file's outputs are'''
FORMAT = MicroFormat()
