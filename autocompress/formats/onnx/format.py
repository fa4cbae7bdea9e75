"""The ONNX file format."""
from __future__ import annotations

from collections.abc import Sequence

from autocompress.core.format_facts import FormatFacts
from autocompress.core.layer import Layer, Part
from autocompress.core.plan import Step
from autocompress.formats.onnx.size import file_bytes


class OnnxFormat(FormatFacts):
    """ONNX with weights packed in as many bits as they have, run by ONNX Runtime on the CPU."""

    name = "onnx"

    def legal(self, step: Step, layer: Layer) -> str:
        """Everything that the exported graph shows can be stored."""
        return ""

    def size(self, parts: Sequence[Part], skeleton_bytes: int = 0, absent: Sequence[Part] = ()) -> int:
        """Predict the bytes of the ONNX file."""
        return file_bytes(parts, skeleton_bytes, absent)


FORMAT = OnnxFormat()
