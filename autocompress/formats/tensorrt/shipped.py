"""Opening and checking a shipped file for TensorRT; without torch where TensorRT is not there."""

from __future__ import annotations

from typing import Any

from autocompress.formats.base import Runtime
from autocompress.formats.onnx.runtime import Runtime as OnnxRuntime
from autocompress.formats.onnx.shipped import integer_levels, require_self_contained, tensor_spans
from autocompress.formats.tensorrt.engine import Engine, is_there
from autocompress.formats.tensorrt.structure import check_structure

__all__ = ["checked", "integer_levels", "open", "tensor_spans"]


def open(data: bytes, threads: int = 1) -> Runtime:
    """Load a file in TensorRT where it and a GPU are there, else in ONNX Runtime.

    Raises:
        InputError: when a tensor is stored outside the file.
        TrialError: when the bytes are no ONNX file, or the runtime refuses them.
    """
    require_self_contained(data)
    return Engine(data) if is_there() else OnnxRuntime(data, threads)


def checked(data: bytes) -> dict[str, Any]:
    """Prove that the file holds what TensorRT reads."""
    return check_structure(data)
