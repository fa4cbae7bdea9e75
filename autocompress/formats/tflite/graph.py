"""The graph of a .tflite file before it is a file: tensors, operations, and which layer a weight belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Puts a weight of torch, levels or floats, in the order in which TFLite stores it.
Arrange = Callable[[np.ndarray], np.ndarray]


@dataclass(eq=False)
class Tensor:
    """A tensor of the file.

    `node`: name of the torch node whose value it holds, by which its range is measured; empty for values that torch
    does not name. `bounds`: a range that is known beforehand. `data`: values of a constant. A weight has `layer`, the
    module that owns it, and `arrange`.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    data: np.ndarray | None = None
    node: str = ""
    name: str = ""
    bounds: tuple[float, float] | None = None
    layer: str = ""
    arrange: Arrange | None = None
    # Quantisation: real = (integer - zero point) * scale, `scale` float32 `(1,)` or `(C,)` along `axis`.
    scale: np.ndarray | None = None
    zero_point: int = 0
    axis: int = 0
    # Of an integer weight of fewer than 8 bits all levels that it may have, int8.
    table: np.ndarray | None = None


@dataclass(eq=False)
class Operation:
    """One operator, by its name in the schema, or in the runtime of a custom one; with the fields of its options.

    `layer`: the module that it executes; its inputs are then the activation, the weight, and the bias or None.
    """

    kind: str
    inputs: list[Tensor | None]
    outputs: list[Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    layer: str = ""

    @property
    def activations(self) -> Iterator[Tensor]:
        """Inputs that are computed."""
        return (tensor for tensor in self.inputs if tensor is not None and tensor.data is None)


@dataclass(eq=False)
class Graph:
    """Operations in order of execution; inputs and outputs by name. `channels_last`: names of the inputs whose channels
    the file takes last, where torch has them second."""

    inputs: dict[str, Tensor] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    channels_last: set[str] = field(default_factory=set)

    def producers(self) -> dict[int, Operation]:
        """The operation that computes a tensor, by `id` of the tensor."""
        return {id(tensor): operation for operation in self.operations for tensor in operation.outputs}

    def readers(self) -> dict[int, list[Operation]]:
        """The operations that read a tensor, by `id` of the tensor."""
        readers: dict[int, list[Operation]] = {}
        for operation in self.operations:
            for tensor in operation.inputs:
                if tensor is not None:
                    readers.setdefault(id(tensor), []).append(operation)
        return readers
