"""Means over all places of an image as average pooling, which Ethos-U computes in half the cycles."""

from __future__ import annotations

import numpy as np

from autocompress.formats.tflite.graph import Graph, Operation, Tensor

LARGEST_WINDOW = 256  # sides of a window that Vela takes


def with_pooled_means(graph: Graph) -> None:
    """Replace, in a float graph, every mean over height and width by average pooling with one window."""
    operations: list[Operation] = []
    for operation in graph.operations:
        image, output = operation.inputs[0], operation.outputs[0]
        if operation.kind != "MEAN" or image is None or not _over_places(operation, image):
            operations.append(operation)
            continue
        batch, height, width, channels = image.shape
        pooled = output if len(output.shape) == 4 else Tensor((batch, 1, 1, channels), node=output.node)
        operations.append(Operation("AVERAGE_POOL_2D", [image], [pooled], {
            "Padding": "VALID", "StrideH": 1, "StrideW": 1, "FilterHeight": height, "FilterWidth": width,
            "FusedActivationFunction": "NONE"}))
        if pooled is not output:
            shape = np.array(output.shape, np.int32)
            operations.append(Operation("RESHAPE", [pooled, Tensor(shape.shape, "int32", shape)], [output]))
    graph.operations = operations


def _over_places(operation: Operation, image: Tensor) -> bool:
    axes = operation.inputs[1]
    return (axes is not None and axes.data is not None and axes.data.tolist() == [1, 2] and len(image.shape) == 4
            and max(image.shape[1:3]) <= LARGEST_WINDOW)
