"""Liveness analysis of a traced graph: tensors with their lifetimes, and the operations beside the layers.

A tensor is a view of another one where a runtime only reads the same bytes under another shape. It takes over the
memory of its operand where an elementwise operation is the operand's last reader. Input and output of the network are
tensors like others.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from autocompress.backend.graph.aten_ops import MOVES, SUMS, WINDOWS, op_name
from autocompress.backend.graph.macs import node_macs
from autocompress.backend.layers.kinds import RECURRENT_OPS
from autocompress.core.layer import Activation, Arithmetic, Layer, Operation
from autocompress.techniques.base import whole

# Operators whose result is the operand under another shape. Slices, splits and permutations are no views: most runtimes
# copy them.
VIEWS = {"flatten", "view", "_unsafe_view", "reshape", "unflatten", "squeeze", "unsqueeze", "dropout",
         "feature_dropout", "alpha_dropout", "contiguous", "alias", "detach", "clone"}
# Operators whose result takes over the operand's memory when nothing else reads the operand. So do `add_`, `mul_` and
# other in-place operators.
IN_PLACE = {"relu", "relu6", "hardtanh", "clamp", "batch_norm", "silu", "hardswish", "gelu", "sigmoid", "hardsigmoid",
            "tanh", "leaky_relu", "elu"}
# Operators that become part of the layer in front of them, without another pass over the tensor.
FUSED = {"relu", "relu6", "hardtanh", "clamp"}
# Operators that move nothing: readers of the result read the operand again.
FREE = {"expand", "expand_as"}
# Products that apply a matrix to one vector at a time.
LINEAR = {"mv", "dot"}


class Dataflow:
    """The activations and operations of a traced graph.

    A tensor that does not depend on the network's input is no activation: it is computed once, when the file loads.

    Args:
        program: The traced graph.
        owner: The layer that owns each weight, by the weight's placeholder.
        batch: The number of samples that the graph was traced with.
    """

    def __init__(self, program: torch.export.ExportedProgram, owner: Mapping[str, str], batch: int) -> None:
        self._owner, self._batch = owner, batch
        self._inputs = set(program.graph_signature.user_inputs)
        self._nodes = [n for n in program.graph.nodes if n.op == "call_function"]
        self._step = {node: step for step, node in enumerate(self._nodes)}
        self._sources: dict[fx.Node, tuple[str, ...]] = {}
        placeholders = [n for n in program.graph.nodes if n.op == "placeholder" and n.name in self._inputs]
        self._sources |= dict.fromkeys(placeholders, ())
        for node in self._nodes:
            if any(source in self._sources for source in node.all_input_nodes):
                self._sources[node] = self._sources_of(node)
        self._starts = placeholders

    def _sources_of(self, node: fx.Node) -> tuple[str, ...]:
        """Return the layers with whose output channels the result shrinks; none where it cannot shrink.

        A sum or concatenation has the layers of all its operands, any other operation those of the first.
        """
        if self._layer_of(node):
            return (self._layer_of(node),)
        if op_name(node) in RECURRENT_OPS:
            return ()
        operands = [source for source in node.all_input_nodes if source in self._sources]
        if op_name(node) == "cat":
            return tuple(dict.fromkeys(name for source in operands for name in self._sources[source]))
        if torch.Tag.pointwise in getattr(node.target, "tags", ()):
            wide = [s for s in operands if _elements(s) == max(map(_elements, operands))]
            if not all(self._sources[source] for source in wide):
                return ()
            return tuple(dict.fromkeys(name for source in wide for name in self._sources[source]))
        return self._sources[operands[0]]

    def _layer_of(self, node: fx.Node) -> str:
        """Return the layer that a node applies, or nothing. A norm counts as none: it keeps its operand's channels."""
        if op_name(node) in ("linear", "embedding") or op_name(node).startswith("conv"):
            weight = node.args[op_name(node) != "embedding"] if len(node.args) > 1 else None
            return self._owner.get(getattr(weight, "name", ""), "")
        return ""

    # -- tensors ------------------------------------------------------------------------------------------

    def activations(self) -> list[Activation]:
        """Return when each tensor is written and last read, input and output included, with memory that runtimes share.
        """
        place: dict[fx.Node, int] = {}
        writer: dict[fx.Node, fx.Node] = {}  # the node that wrote the values of a tensor or of a view of it
        tensors: list[dict[str, Any]] = []
        for node in (*self._starts, *self._step):
            if node not in self._sources or not isinstance(node.meta.get("val"), Tensor):
                continue
            last, operand = self._last(node), self._operand(node)
            view = op_name(node) in VIEWS and operand in place
            writer[node] = writer[operand] if view and operand is not None else node
            if operand in place and (view or self._takes_over(node, writer[operand])):
                place[node] = place[operand]
                tensors[place[node]]["last"] = max(tensors[place[node]]["last"], last)
                continue
            place[node] = len(tensors)
            first = self._step.get(node, 0)
            if node.target is operator.getitem:  # all results of an operator are there when it has run
                first = self._step[node.args[0]]  # type: ignore[index]
            tensors.append({"elements": self._samples(node), "first": first, "last": last,
                            "sources": self._sources[node], "readers": self._readers(node)})
        return [Activation(**tensor) for tensor in tensors]

    def _samples(self, node: fx.Node) -> int:
        """Return the number of elements of one sample, in whichever dimension the samples lie."""
        return -(-_elements(node) // self._batch)

    def _last(self, node: fx.Node) -> int:
        """Return the step of a node's last reader; the network's outputs live to the last step."""
        if any(user.op == "output" for user in node.users):
            return len(self._nodes) - 1
        return max((self._step[user] for user in node.users if user in self._step), default=self._step.get(node, 0))

    def _operand(self, node: fx.Node) -> fx.Node | None:
        return next((arg for arg in node.args if isinstance(arg, fx.Node)), None) if node in self._step else None

    def _takes_over(self, node: fx.Node, writer: fx.Node) -> bool:
        """Tell whether an elementwise operation can overwrite its operand, which `writer` computed.

        The network's input belongs to the caller and is never overwritten.
        """
        in_place = str(getattr(node.target, "_opname", "")).endswith("_")
        if not (op_name(node) in IN_PLACE or in_place) or writer in self._starts:
            return False
        return self._last_of_views(writer) <= self._step[node] and _elements(node) == _elements(writer)

    def _last_of_views(self, node: fx.Node) -> int:
        views = [user for user in node.users if op_name(user) in VIEWS]
        return max([self._last(node), *map(self._last_of_views, views)])

    def _readers(self, node: fx.Node) -> tuple[str, ...]:
        """Return the layers that read the network's input, which decide its bit-width; none for other tensors."""
        if node not in self._starts:
            return ()
        return tuple(dict.fromkeys(name for user in _seen_through(node) if (name := self._layer_of(user))))

    # -- operations ---------------------------------------------------------------------------------------

    def operations(self, layers: Iterable[Layer]) -> list[Operation]:
        """Return every operation beside one application of each of `layers`."""
        single = {layer.name: whole(layer).macs for layer in layers}
        return [operation for node in self._nodes if node in self._sources
                for operation in self._operation(node, single)]

    def _operation(self, node: fx.Node, single: dict[str, int]) -> Iterator[Operation]:
        name, layer = op_name(node), self._layer_of(node)
        if node.target is operator.getitem or name in VIEWS | FREE or (
                name in FUSED and self._behind_a_layer(node)):
            return
        if name in RECURRENT_OPS:
            weights = {self._owner.get(source.name, "") for source in node.all_input_nodes}
            macs = node_macs(node) // self._batch - sum(single.pop(weight, 0) for weight in weights)
            yield Operation(kind="linear", macs=max(0, macs), elements=0, sources=())
            return
        simple = name in MOVES or name in SUMS or WINDOWS.fullmatch(name) or (
            torch.Tag.pointwise in getattr(node.target, "tags", ()))
        macs = 0 if simple or name in ("batch_norm", "embedding") else node_macs(node) // self._batch
        if layer and layer in single:
            macs -= single.pop(layer)  # where the layer is called once more, all MACs count
            if macs > 0:
                yield Operation(kind=_arithmetic(node, name), macs=macs, elements=0, sources=(layer,))
            return
        if name == "batch_norm" and self._behind_a_layer(node):
            return
        elements = sum(map(self._samples, (s for s in node.all_input_nodes if s in self._sources)))
        yield Operation(kind=_arithmetic(node, name) if macs else "none", macs=macs, sources=self._sources[node],
                        elements=elements + self._samples(node))

    def _behind_a_layer(self, node: fx.Node) -> bool:
        source = self._operand(node)
        if source is not None and op_name(source) == "batch_norm":
            source = self._operand(source)
        return source is not None and bool(self._layer_of(source))


def _arithmetic(node: fx.Node, name: str) -> Arithmetic:
    if name.startswith("conv"):
        weight = node.args[1].meta["val"]  # type: ignore[union-attr]
        groups = node.args[-1] if len(node.args) > 6 and isinstance(node.args[-1], int) else 1
        if groups == 1:
            return "conv"
        return "depthwise" if groups == weight.shape[0] else "grouped"
    return "linear" if name in LINEAR else "matmul"


def _elements(node: fx.Node) -> int:
    """Return the number of elements of all results of an operator, for the whole batch."""
    value = node.meta.get("val")
    tensors = value if isinstance(value, list | tuple) else [value]
    return sum(prod(tensor.shape) for tensor in tensors if isinstance(tensor, Tensor))


def _seen_through(node: fx.Node) -> Iterator[fx.Node]:
    """Yield the readers of a tensor and of its views."""
    for user in node.users:
        yield from _seen_through(user) if op_name(user) in VIEWS else [user]
