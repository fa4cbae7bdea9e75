"""The TFLite file format: written operator by operator from torch's export, run in LiteRT."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from autocompress.core.layer import Layer, Part
from autocompress.core.plan import Receipt, Step
from autocompress.formats.base import Format, WritableNetwork, Written
from autocompress.formats.tflite.calibration import observe
from autocompress.formats.tflite.flatbuffer import file_of
from autocompress.formats.tflite.graph import Graph
from autocompress.formats.tflite.integers import Quantizer
from autocompress.formats.tflite.legality import refused
from autocompress.formats.tflite.levels import integer_levels
from autocompress.formats.tflite.rules import lower
from autocompress.formats.tflite.runtime import Runtime
from autocompress.formats.tflite.size import file_bytes
from autocompress.formats.tflite.trace import Example, samples_of, trace


class TfliteFormat(Format):
    """TFLite files of one sample, with the integers of the plan: in convolutions and linear layers 4 bits are stored in
    4 bits."""

    name, suffix, runtime = "tflite", ".tflite", "LiteRT"
    packages: tuple[str, ...] = ("ai-edge-litert", "tflite", "flatbuffers")

    def legal(self, step: Step, layer: Layer) -> str:
        """Weights of 8 bits, 4 in convolutions and linear layers, or floats; one scale for each channel."""
        return refused(step, layer)

    def size(self, parts: Sequence[Part], skeleton_bytes: int = 0, absent: Sequence[Part] = ()) -> int:
        """Count the bytes of every tensor and table."""
        return file_bytes(parts, skeleton_bytes)

    def prepare(self, network: nn.Module, example: Tensor | Mapping[str, Tensor]) -> Example:
        """Lower the network once, to find what has no operator; each file is lowered by itself, which takes a fraction
        of a second."""
        one = samples_of(example, 1)
        lower(trace(network, one))
        return one

    def write(self, prepared: Example, network: WritableNetwork, threads: int = 1) -> Written:
        """Lower the network, and put the integers of the plan in."""
        return written(prepared, network, in_four_bits)

    def open(self, data: bytes, threads: int = 1) -> Runtime:
        """Load a file in LiteRT."""
        return Runtime(data, threads)

    def integer_levels(self, data: bytes) -> list[np.ndarray]:
        """Read the constants of integers that have a scale for each channel."""
        return integer_levels(data)

    def snippet(self, file: str, inputs: Mapping[str, str], answers: Sequence[str]) -> str:
        """Run the file by the interpreter of LiteRT, one sample."""
        feed = ", ".join(f'"{name}": {variable}' for name, variable in inputs.items())
        return SNIPPET.format(file=file, feed=feed,
                              answers=f"{', '.join(answers)}{',' if len(answers) == 1 else ''}")


def written(prepared: Example, network: WritableNetwork, narrow: Callable[[Graph], None],
            bias_scales: bool = True, suited: Callable[[Graph], None] | None = None) -> Written:
    """Lower a network and put the integers of its plan in.

    Args:
        prepared: one sample with which the network is traced.
        network: what the file is to hold.
        narrow: stores weights of fewer than 8 bits in the way of a runtime.
        bias_scales: whether biases have their scales in the file.
        suited: replaces operations of the float graph by those that suit a runtime.
    """
    traced = trace(network.model, prepared)
    graph = lower(traced)
    if suited is not None:
        suited(graph)
    if not (network.integers or network.halves):
        return Written(file_of(graph))
    quantizer = Quantizer(graph, network, bias_scales)
    names = quantizer.observed_names
    observed = observe(network.model, prepared, traced, names, network.calibration,
                       network.range_method != "minmax") if names else {}
    quantised = quantizer.quantize(observed)
    narrow(graph)
    return Written(file_of(graph), tuple(
        Receipt(f"{name}:input", "activation-range", {"scale": of.scale, "zero_point": of.zero_point})
        for name, of in sorted(quantised.items())))


def in_four_bits(graph: Graph) -> None:
    """Store weights of 4 bits two a byte."""
    for operation in graph.operations:
        for tensor in operation.inputs:
            if tensor is not None and tensor.table is not None:
                tensor.dtype = "int4"


SNIPPET = '''import numpy as np
from ai_edge_litert.interpreter import Interpreter

interpreter = Interpreter("{file}")
interpreter.allocate_tensors()
given = {{{feed}}}
for end in interpreter.get_input_details():  # one sample; channels last where the file has them so
    values, (scale, zero) = given[end["name"]][:1], end["quantization"]
    values = values if values.shape == tuple(end["shape"]) else np.moveaxis(values, 1, -1).reshape(end["shape"])
    values = np.clip(np.rint(values / scale) + zero, *np.array([np.iinfo(end["dtype"]).min, np.iinfo(end["dtype"]).max])
                     ) if scale else values
    interpreter.set_tensor(end["index"], values.astype(end["dtype"]))
interpreter.invoke()
{answers} = (
    (interpreter.get_tensor(end["index"]).astype(np.float32) - end["quantization"][1]) * (end["quantization"][0] or 1)
    for end in interpreter.get_output_details())'''
FORMAT = TfliteFormat()
