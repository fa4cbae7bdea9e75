"""Opening and checking an entropy-coded ONNX file, without torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from autocompress.core.spans import Span
from autocompress.formats.onnx import shipped
from autocompress.formats.onnx.runtime import Runtime
from autocompress.formats.onnx_xz.coding import decoded

__all__ = ["checked", "integer_levels", "open", "tensor_spans"]


def open(data: bytes, threads: int = 1) -> Runtime:
    """Decode a file in memory and load it in ONNX Runtime.

    Raises:
        InputError: when a tensor is stored outside the file.
        TrialError: when the bytes are no whole stream, or what they hold is no ONNX file, or too large.
    """
    return shipped.open(decoded(data), threads)


def checked(data: bytes) -> dict[str, Any]:
    """What is proved of the ONNX file, and its bytes."""
    model = decoded(data)
    return {**shipped.checked(model), "decoded_bytes": len(model)}


def integer_levels(data: bytes) -> list[np.ndarray]:
    """Levels of the integer weights of the ONNX file, int8 `(C, n)` each."""
    return shipped.integer_levels(decoded(data))


def tensor_spans(data: bytes) -> dict[str, Span]:
    """Nothing: tensors have no places in a stream."""
    decoded(data)
    return {}
