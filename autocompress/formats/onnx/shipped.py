"""Opening and checking an ONNX file that came from elsewhere: it must hold all of its tensors itself. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
from onnx import TensorProto

from autocompress.errors import InputError, TrialError, reason_of
from autocompress.formats.onnx.levels import integer_levels
from autocompress.formats.onnx.runtime import Runtime
from autocompress.formats.onnx.saturation import LARGEST_PAIR, check_saturation
from autocompress.formats.onnx.tensor_spans import tensor_spans

__all__ = ["checked", "integer_levels", "open", "tensor_spans"]


def open(data: bytes, threads: int = 1) -> Runtime:
    """Load an ONNX file in ONNX Runtime.

    Raises:
        InputError: when a tensor is stored outside the file.
        TrialError: when the bytes are no ONNX file, or ONNX Runtime refuses them.
    """
    require_self_contained(data)
    return Runtime(data, threads)


def checked(data: bytes) -> dict[str, Any]:
    """Prove that no integer kernel can saturate, so that every CPU gives the same answers."""
    bound = check_saturation(data)
    return {"saturation": {"possible": False, "largest_pair": bound.largest, "limit": LARGEST_PAIR,
                           "integer_layers": bound.layers}}


def require_self_contained(data: bytes) -> None:
    """InputError when a tensor of an ONNX file is stored outside it; TrialError when the bytes are no ONNX file."""
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's errors share no base class with onnx's
        raise TrialError(f"onnx cannot read the file: {reason_of(error)}") from error
    for tensor in _tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            place = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
            raise InputError(f"an ONNX file must hold all of its tensors, but {tensor.name!r} is stored in "
                             f"{place!r}: nothing outside the file is read. Export it again without external data")


def _tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """All tensors of a model: stored ones, and those in attributes, in graphs inside graphs and in functions."""
    graphs = [model.graph]
    nodes = [node for function in model.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
            nodes.extend(graph.node)
        for attribute in (attribute for node in nodes for attribute in node.attribute):
            yield from (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors)
            for sparse in (*([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
                           *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            graphs.extend([*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs])
        nodes = []
