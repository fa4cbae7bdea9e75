"""ONNX files for TensorRT: written for it, checked against what it reads, and run in it where it is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from autocompress.core.layer import Layer, Part
from autocompress.core.plan import Step
from autocompress.formats.base import Format, Runtime, WritableNetwork, Written
from autocompress.formats.onnx.format import OnnxFormat
from autocompress.formats.onnx.template import Template
from autocompress.formats.tensorrt import shipped


class TensorrtFormat(OnnxFormat):
    """ONNX files with 8-bit weights as they are and activations about zero. Zeros of sparse weights are stored like
    other weights, as TensorRT's sparse kernels read them."""

    name, runtime = "tensorrt", "TensorRT (ONNX Runtime where it is not there)"
    symmetric = True

    def with_free_sizes(self, free: bool = True) -> Format:
        """An engine is built for inputs of one size."""
        return Format.with_free_sizes(self, free)

    def legal(self, step: Step, layer: Layer) -> str:
        """Evenly spaced weights of 8 bits with activations of 8 bits, one scale for each channel; or floats."""
        bits, activations = int(step.args.get("weight_bits", 32)), int(step.args.get("activation_bits", 32))
        if bits > 8:
            return ""
        if bits < 8:
            return "TensorRT reads integer weights of 8 bits"
        if step.args.get("group"):
            return "TensorRT's 8-bit kernels know one scale for each channel"
        if step.args.get("grid", "linear") != "linear":
            return "TensorRT reads no tables of weights"
        return "" if activations == 8 else "TensorRT multiplies integer weights by activations of 8 bits"

    def size(self, parts: Sequence[Part], skeleton_bytes: int = 0, absent: Sequence[Part] = ()) -> int:
        """Count the bytes of every tensor and node; no weight is stored sparse."""
        return super().size([msgspec.structs.replace(part, pattern="", kept=0) for part in parts], skeleton_bytes,
                            absent)

    def write(self, prepared: Template, network: WritableNetwork, threads: int = 1) -> Written:
        """Put the tensors of the network into the template, with symmetric Q/DQ pairs around integer layers."""
        return super().write(prepared, replace(network, masks={}), threads)

    def open(self, data: bytes, threads: int = 1) -> Runtime:  # type: ignore[override]
        """Load a file in TensorRT where it and a GPU are there, else in ONNX Runtime."""
        return shipped.open(data, threads)

    open_on = Format.open_on  # scored in TensorRT too, where it is there

    def checked(self, data: bytes) -> dict[str, Any]:
        """Prove that the file holds what TensorRT reads."""
        return shipped.checked(data)

    def snippet(self, file: str, inputs: Mapping[str, str], answers: Sequence[str]) -> str:
        """Run the file in ONNX Runtime; the first line says how TensorRT builds it."""
        return f"# trtexec --onnx={file} --saveEngine=model.engine\n" + super().snippet(file, inputs, answers)


FORMAT = TensorrtFormat()
