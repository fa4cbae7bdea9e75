"""The levels of integer weights, read back out of an ONNX file. No torch.

What restores a weight is arithmetic on stored tensors alone; the levels are what it multiplies by scales.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from autocompress.errors import TrialError, reason_of


def integer_levels(data: bytes) -> list[np.ndarray]:
    """Levels of the integer weights of an ONNX file, int8 `(C, n)` each, a row for each output channel.

    Raises:
        TrialError: when the bytes are no ONNX file, or its weights cannot be restored.
    """
    try:
        model = onnx.load_model_from_string(data)
        graph = model.graph
        stored = {tensor.name: tensor for tensor in graph.initializer}
        head = _head(graph, set(stored))
        readers = dict(_weights(graph, {name for node in head for name in node.output} | set(stored)))
        restored = _restored(model, head, [name for name in readers if name not in stored])
        restored |= {name: numpy_helper.to_array(stored[name]) for name in readers if name in stored}
        axes = {name: _axis(graph, reader, stored) for name, reader in readers.items()}
    except TrialError:
        raise
    except Exception as error:  # of protobuf, onnx and ONNX Runtime: they share no base class
        raise TrialError(f"the weights of the file cannot be read: {reason_of(error)}") from error
    return [np.moveaxis(levels, axes[name], 0).reshape(levels.shape[axes[name]], -1)
            for name, levels in restored.items() if levels.dtype == np.int8 and levels.ndim > 1]


def _head(graph: onnx.GraphProto, stored: set[str]) -> list[onnx.NodeProto]:
    """Nodes that compute from stored tensors alone, in order."""
    constant, head = set(stored), []
    for node in graph.node:
        if node.input and all(name in constant or not name for name in node.input):
            head.append(node)
            constant.update(node.output)
    return head


def _weights(graph: onnx.GraphProto, constant: set[str]) -> Iterator[tuple[str, onnx.NodeProto]]:
    """Constant tensors that are widened to floats, with the node that then gives them their scales."""
    readers = {name: node for node in graph.node for name in node.input}
    for node in graph.node:
        if not node.input or node.input[0] not in constant:
            continue
        if node.op_type == "DequantizeLinear":
            yield node.input[0], node
        to = next((attribute.i for attribute in node.attribute if attribute.name == "to"), None)
        if node.op_type == "Cast" and to == TensorProto.FLOAT and node.output[0] in readers \
                and readers[node.output[0]].op_type == "Mul":
            yield node.input[0], readers[node.output[0]]


def _axis(graph: onnx.GraphProto, reader: onnx.NodeProto, stored: dict[str, onnx.TensorProto]) -> int:
    """The axis of the output channels: that of the scales, which are of one axis, or, where runs of a row have their
    own, arranged by a Transpose where the channels are not first."""
    if reader.op_type == "DequantizeLinear":
        return next((attribute.i for attribute in reader.attribute if attribute.name == "axis"), 1)
    if reader.input[1] in stored:
        sizes = stored[reader.input[1]].dims
        return next((axis for axis, size in enumerate(sizes) if size > 1), 0)
    kind = next((node.op_type for node in graph.node if reader.input[1] in node.output), "")
    return int(kind == "Transpose")


def _restored(model: onnx.ModelProto, head: list[onnx.NodeProto], names: list[str]) -> dict[str, np.ndarray]:
    """Tensors that nodes compute from stored ones."""
    if not names:
        return {}
    outputs = [onnx.ValueInfoProto(name=name) for name in names]
    graph = helper.make_graph(head, "weights", [], outputs, list(model.graph.initializer))
    model = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, {}), strict=True))
