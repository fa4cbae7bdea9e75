"""The Core ML format: converted and checked here; predictions run on macOS alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from autocompress.core.layer import Layer, Part
from autocompress.core.plan import Step
from autocompress.formats.base import Format, WritableNetwork, Written
from autocompress.formats.coreml.conversion import package_of
from autocompress.formats.coreml.package import FOLDER
from autocompress.formats.coreml.reading import ReadBack
from autocompress.formats.coreml.size import package_bytes
from autocompress.formats.executorch.rounding import Rounded
from autocompress.formats.running import in_batches
from autocompress.formats.tflite.trace import Example, Traced, samples_of, trace


class CoremlFormat(Format):
    """ML programs of one sample that compute in float32 from weights of 8 bits, which Core ML restores when it loads
    them. Zeros of sparse weights are stored like other weights."""

    name, suffix, runtime = "coreml", f".{FOLDER.partition('.')[2]}.zip", "Core ML, read back in torch"
    packages = ("coremltools", "torch")
    runs_integers_fast = False

    def legal(self, step: Step, layer: Layer) -> str:
        """Evenly spaced weights of 8 bits, one scale for each channel, with activations in float; or float32."""
        bits, activations = int(step.args.get("weight_bits", 32)), int(step.args.get("activation_bits", 32))
        if activations <= 16:
            return "its programs are written with activations in float"
        if bits > 16:
            return ""
        if bits != 8:
            return "its programs are written with weights of 8 bits, or float32"
        if layer.kind not in ("conv", "linear") or layer.transposed:
            return "its programs are written with integers of convolutions and linear layers"
        if step.args.get("group"):
            return "its programs are written with one scale for each channel"
        tables = step.args.get("grid", "linear") != "linear"
        return "its programs are written without tables of weights" if tables else ""

    def size(self, parts: Sequence[Part], skeleton_bytes: int = 0, absent: Sequence[Part] = ()) -> int:
        """Count the bytes of every tensor, aligned, and of its place in the program."""
        return package_bytes(parts, skeleton_bytes)

    def prepare(self, network: nn.Module, example: Tensor | Mapping[str, Tensor]) -> Example:
        """Convert the network once and read it back, to find what cannot be; each file is converted by itself."""
        one = samples_of(example, 1)
        traced = trace(network, one)
        runtime = ReadBack(_package(traced, one, traced.program.module(check_guards=False)))
        named = {next(iter(traced.inputs.values())): one} if isinstance(one, Tensor) else dict(one.items())
        in_batches(runtime, {name: values.numpy() for name, values in named.items()})
        return one

    def write(self, prepared: Example, network: WritableNetwork, threads: int = 1) -> Written:
        """Trace the network, put the integers of the plan in, and convert it."""
        traced = trace(network.model, prepared)
        module = traced.program.module(check_guards=False)
        Rounded(traced, network).put_into(module, {})
        return Written(_package(traced, prepared, module))

    def open(self, data: bytes, threads: int = 1) -> ReadBack:
        """Read a program back."""
        return ReadBack(data, threads)

    def checked(self, data: bytes) -> dict[str, Any]:
        """Say that Core ML's predictions were not run."""
        return {"coreml": {"predictions": "not run", "read_back": "torch"}}

    def snippet(self, file: str, inputs: Mapping[str, str], answers: Sequence[str]) -> str:
        """Unpack the package and predict one sample; on macOS."""
        feed = ", ".join(f'"{name}": {variable}[:1]' for name, variable in inputs.items())
        return ("import zipfile\n\nimport coremltools\n\n"
                f'zipfile.ZipFile("{file}").extractall()\nmodel = coremltools.models.MLModel("{FOLDER}")\n'
                f"{', '.join(answers)}{',' if len(answers) == 1 else ''} = model.predict({{{feed}}}).values()  # macOS")


def _package(traced: Traced, example: Example, module: nn.Module) -> bytes:
    return package_of(module, (example,), [*traced.inputs.values()], [*traced.outputs])


FORMAT = CoremlFormat()
