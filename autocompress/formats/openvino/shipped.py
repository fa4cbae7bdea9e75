"""Opening and checking a shipped file in OpenVINO, without torch."""

from __future__ import annotations

from autocompress.formats.onnx.shipped import checked, integer_levels, require_self_contained, tensor_spans
from autocompress.formats.openvino.runtime import OpenvinoRuntime

__all__ = ["checked", "integer_levels", "open", "tensor_spans"]


def open(data: bytes, threads: int = 1) -> OpenvinoRuntime:
    """Load an ONNX file in OpenVINO.

    Raises:
        InputError: when a tensor is stored outside the file.
        TrialError: when the bytes are no ONNX file, or OpenVINO refuses them.
    """
    require_self_contained(data)
    return OpenvinoRuntime(data, threads)
