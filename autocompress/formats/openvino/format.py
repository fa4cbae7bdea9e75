"""ONNX files for OpenVINO: the same bytes as for ONNX Runtime, scored and timed in OpenVINO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autocompress.core.layer import Layer
from autocompress.core.plan import Step
from autocompress.formats.base import Format
from autocompress.formats.onnx.format import OnnxFormat
from autocompress.formats.openvino.runtime import OpenvinoRuntime


class OpenvinoFormat(OnnxFormat):
    """ONNX files whose packed weights OpenVINO unpacks by tables when it compiles them."""

    name, runtime = "openvino", "OpenVINO"
    packages = ("onnx", "onnxscript", "openvino")

    def with_free_sizes(self, free: bool = True) -> Format:
        """Files with named sizes."""
        return OpenvinoFormat(free)

    def legal(self, step: Step, layer: Layer) -> str:
        """As in ONNX Runtime, but activations of 16 bits, which OpenVINO computes in float."""
        if int(step.args.get("activation_bits", 32)) == 16:
            return "OpenVINO has no kernels for activations of 16 bits, and computes them in float"
        return super().legal(step, layer)

    def open(self, data: bytes, threads: int = 1) -> OpenvinoRuntime:  # type: ignore[override]
        """Load a file in OpenVINO."""
        return OpenvinoRuntime(data, threads)

    open_on = Format.open_on  # scored in OpenVINO too

    def snippet(self, file: str, inputs: Mapping[str, str], answers: Sequence[str]) -> str:
        """Compile the file for a batch of that size, as it is scored, and run it."""
        feed = ", ".join(f'"{name}": {variable}' for name, variable in inputs.items())
        shapes = ", ".join(f'"{name}": [*{variable}.shape]' for name, variable in inputs.items())
        return (f'import openvino\n\nmodel = openvino.Core().read_model("{file}")\n'
                f'model.reshape({{{shapes}}})  # biases are misread in batches of free size\n'
                'compiled = openvino.compile_model(\n'
                '    model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0})\n'
                f"{', '.join(answers)}{',' if len(answers) == 1 else ''} = compiled({{{feed}}}).values()")


FORMAT = OpenvinoFormat()
