"""The ONNX file format: one template for each graph, integer weights packed, ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from autocompress.core.layer import Layer, LayerTable, Part
from autocompress.core.plan import Receipt, Step
from autocompress.core.spans import Span
from autocompress.formats import base
from autocompress.formats.base import Format, WritableNetwork, Written
from autocompress.formats.onnx import shipped
from autocompress.formats.onnx.runtime import Runtime
from autocompress.formats.onnx.size import file_bytes
from autocompress.formats.onnx.skeleton import as_exported
from autocompress.formats.onnx.template import Template, export_template
from autocompress.formats.onnx.torch_onnx import plain_export
from autocompress.formats.onnx.writer import build, float_bytes


class OnnxFormat(Format):
    """ONNX files whose weights take as many bits as they have; ONNX Runtime unpacks them when it loads the file."""

    name, suffix, runtime, converter = "onnx", ".onnx", "ONNX Runtime", "torch.onnx.export"
    packages: tuple[str, ...] = ("onnx", "onnxruntime", "onnxscript")
    # Whether integers of activations are signed and about zero.
    symmetric = False

    def __init__(self, free_sizes: bool = False) -> None:
        self.free_sizes = free_sizes

    def with_free_sizes(self, free: bool = True) -> Format:
        """ONNX files with named sizes."""
        return OnnxFormat(free)

    def legal(self, step: Step, layer: Layer) -> str:
        """Every width, grid and pattern of a plan has its nodes; layers that the graph does not show are locked by
        `described`."""
        return ""

    def size(self, parts: Sequence[Part], skeleton_bytes: int = 0, absent: Sequence[Part] = ()) -> int:
        """Count the bytes of every tensor and node that the writer adds to the skeleton."""
        return file_bytes(parts, skeleton_bytes, absent)

    def prepare(self, network: nn.Module, example: Tensor | Mapping[str, Tensor]) -> Template:
        """Export the graph by `torch.onnx.export`, which takes seconds, and take the tensors of the network out."""
        return export_template(network, example, self.free_sizes)

    def packed(self, prepared: Template) -> bytes:
        """The template as bytes."""
        return prepared.packed()

    def unpacked(self, data: bytes) -> Template:
        """A template of its bytes."""
        return Template.unpacked(data)

    def described(self, table: LayerTable, prepared: Template, network: WritableNetwork) -> LayerTable:
        """Lock what the graph does not show as one node; the skeleton is the template."""
        return as_exported(table, prepared, network.model)

    def write(self, prepared: Template, network: WritableNetwork, threads: int = 1) -> Written:
        """Put the tensors of the network into the template, packed, with Q/DQ pairs around integer layers."""
        if not (network.integers or network.halves or network.masks):
            return Written(float_bytes(prepared, network.model))
        built = build(prepared, network.model, network.integers, set(network.halves), network.activation_bits,
                      network.calibration, threads, network.range_method, network.masks, self.symmetric)
        return Written(built.data, tuple(
            Receipt(name, "activation-range", {"scale": span.scale, "zero_point": span.zero_point})
            for name, span in built.ranges.items()))

    def open(self, data: bytes, threads: int = 1) -> Runtime:
        """Load a file in ONNX Runtime."""
        return Runtime(data, threads)

    def open_on(self, device: str, data: bytes, threads: int = 1) -> base.Runtime:
        """Load a file in ONNX Runtime, on the GPU where its package is of those that have one (onnxruntime-gpu)."""
        return Runtime(data, threads, device=device)

    def plain(self, network: nn.Module, example: Tensor | Mapping[str, Tensor]) -> bytes:
        """Export the untouched network with the defaults of `torch.onnx.export`."""
        return plain_export(network, example, self.free_sizes)

    def checked(self, data: bytes) -> dict[str, Any]:
        """Prove that no integer kernel can saturate, so that every CPU gives the same answers."""
        return shipped.checked(data)

    def tensor_spans(self, data: bytes) -> dict[str, Span]:
        """Stored tensors of 64 bytes or more."""
        return shipped.tensor_spans(data)

    def integer_levels(self, data: bytes) -> list[np.ndarray]:
        """What arithmetic on stored tensors restores, before it gets scales."""
        return shipped.integer_levels(data)

    def snippet(self, file: str, inputs: Mapping[str, str], answers: Sequence[str]) -> str:
        """Run the file by `onnxruntime.InferenceSession`."""
        feed = ", ".join(f'"{name}": {variable}' for name, variable in inputs.items())
        return (f'import onnxruntime\n\nsession = onnxruntime.InferenceSession("{file}")\n'
                f"{', '.join(answers)}{',' if len(answers) == 1 else ''} = session.run(None, {{{feed}}})")


FORMAT = OnnxFormat()
