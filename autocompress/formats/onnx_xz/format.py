"""The ONNX file of a candidate as a stream of xz: what it saves is counted, and costs time at loading alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from autocompress.core.layer import Part
from autocompress.core.spans import Span
from autocompress.formats.base import Format, WritableNetwork, Written
from autocompress.formats.onnx.format import OnnxFormat
from autocompress.formats.onnx.runtime import Runtime
from autocompress.formats.onnx.template import Template
from autocompress.formats.onnx_xz import shipped
from autocompress.formats.onnx_xz.coding import FRAME_BYTES, FRAME_SHARE, encoded


class OnnxXzFormat(OnnxFormat):
    """Entropy-coded ONNX files. How much coding saves depends on the values, so sizes are predicted as bounds."""

    name, suffix, runtime = "onnx.xz", ".onnx.xz", "ONNX Runtime"

    def with_free_sizes(self, free: bool = True) -> Format:
        """Files with named sizes."""
        return OnnxXzFormat(free)

    def size(self, parts: Sequence[Part], skeleton_bytes: int = 0, absent: Sequence[Part] = ()) -> int:
        """Bound the bytes of the stream by those of the file in it."""
        whole = super().size(parts, skeleton_bytes, absent)
        return round(whole * (1 + FRAME_SHARE)) + FRAME_BYTES

    def write(self, prepared: Template, network: WritableNetwork, threads: int = 1) -> Written:
        """Write the ONNX file and code it."""
        written = super().write(prepared, network, threads)
        return Written(encoded(written.data), written.receipts)

    def open(self, data: bytes, threads: int = 1) -> Runtime:
        """Decode a file in memory and load it in ONNX Runtime."""
        return shipped.open(data, threads)

    open_on = Format.open_on

    def plain(self, network: nn.Module, example: Tensor | Mapping[str, Tensor]) -> bytes:
        """The plain export of the untouched network, coded as well."""
        return encoded(super().plain(network, example))

    def checked(self, data: bytes) -> dict[str, Any]:
        """What is proved of the ONNX file, and its bytes."""
        return shipped.checked(data)

    def tensor_spans(self, data: bytes) -> dict[str, Span]:
        """Nothing: tensors have no places in a stream."""
        return shipped.tensor_spans(data)

    def integer_levels(self, data: bytes) -> list[np.ndarray]:
        """Those of the ONNX file."""
        return shipped.integer_levels(data)

    def snippet(self, file: str, inputs: Mapping[str, str], answers: Sequence[str]) -> str:
        """Decode the file in memory and run it."""
        feed = ", ".join(f'"{name}": {variable}' for name, variable in inputs.items())
        return ("import lzma\nfrom pathlib import Path\n\nimport onnxruntime\n\n"
                f'session = onnxruntime.InferenceSession(lzma.decompress(Path("{file}").read_bytes()))\n'
                f"{', '.join(answers)}{',' if len(answers) == 1 else ''} = session.run(None, {{{feed}}})")


FORMAT = OnnxXzFormat()
