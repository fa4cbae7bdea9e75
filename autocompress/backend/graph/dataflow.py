"""What flows between the layers of a traced graph: tensors with their lifetimes, and operations beside the layers.

A tensor is a view of another where a runtime only reads the same bytes under another shape, and takes another's place
where an elementwise operation is the last to read that. Input and output of the network are tensors like others.
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

VIEWS = {"flatten", "view", "_unsafe_view", "reshape", "unflatten", "squeeze", "unsqueeze", "dropout",
         "feature_dropout", "alpha_dropout", "contiguous", "alias", "detach", "clone"}
"""The result is the operand under another shape. Slices, splits and permutations are copies in most runtimes."""
IN_PLACE = {"relu", "relu6", "hardtanh", "clamp", "batch_norm", "silu", "hardswish", "gelu", "sigmoid", "hardsigmoid",
            "tanh", "leaky_relu", "elu"}
"""The result is kept where the operand was, when nobody else reads that. So is that of `add_`, `mul_` and the like."""
FUSED = {"relu", "relu6", "hardtanh", "clamp"}
"""Part of the layer in front of them: no pass over the tensor of their own."""
FREE = {"expand", "expand_as"}
"""Nothing is moved: who reads the result reads the operand again."""
LINEAR = {"mv", "dot"}
"""Products that apply a matrix to one vector at a time."""


class Dataflow:
    """Tensors and operations of the nodes of `program`; `owner`: placeholder of a weight → the layer that owns it.

    `batch`: samples that the graph was traced with. What does not depend on the network's input is no activation: it is
    computed once, when the file loads.
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
        """Layers with whose output channels the result shrinks: of a sum or concatenation those of all operands, of
        anything else those of the first. Nothing where it cannot shrink."""
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
        """The layer that a node applies, or nothing. A norm keeps the channels of what it reads."""
        if op_name(node) in ("linear", "embedding") or op_name(node).startswith("conv"):
            weight = node.args[op_name(node) != "embedding"] if len(node.args) > 1 else None
            return self._owner.get(getattr(weight, "name", ""), "")
        return ""

    # -- tensors ------------------------------------------------------------------------------------------

    def activations(self) -> list[Activation]:
        """When each tensor is made and last read, input and output included; memory is shared as a runtime would."""
        place: dict[fx.Node, int] = {}
        writer: dict[fx.Node, fx.Node] = {}  # of the values that a tensor or a view of it has
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
        """Elements of one sample, wherever the dimension of samples is."""
        return -(-_elements(node) // self._batch)

    def _last(self, node: fx.Node) -> int:
        """The step of the last reader; what the network puts out is there at the end."""
        if any(user.op == "output" for user in node.users):
            return len(self._nodes) - 1
        return max((self._step[user] for user in node.users if user in self._step), default=self._step.get(node, 0))

    def _operand(self, node: fx.Node) -> fx.Node | None:
        return next((arg for arg in node.args if isinstance(arg, fx.Node)), None) if node in self._step else None

    def _takes_over(self, node: fx.Node, writer: fx.Node) -> bool:
        """Whether an elementwise operation can leave its result where its operand was, made by `writer`. The network's
        input is the caller's."""
        written = str(getattr(node.target, "_opname", "")).endswith("_")
        if not (op_name(node) in IN_PLACE or written) or writer in self._starts:
            return False
        return self._last_of_views(writer) <= self._step[node] and _elements(node) == _elements(writer)

    def _last_of_views(self, node: fx.Node) -> int:
        views = [user for user in node.users if op_name(user) in VIEWS]
        return max([self._last(node), *map(self._last_of_views, views)])

    def _readers(self, node: fx.Node) -> tuple[str, ...]:
        """Of the network's input, the layers that read it: what they read decides how wide it is held."""
        if node not in self._starts:
            return ()
        return tuple(dict.fromkeys(name for user in _seen_through(node) if (name := self._layer_of(user))))

    # -- operations ---------------------------------------------------------------------------------------

    def operations(self, layers: Iterable[Layer]) -> list[Operation]:
        """Everything that is computed or moved beside one application of each of `layers`."""
        single = {layer.name: whole(layer).macs for layer in layers}
        return [found for node in self._nodes if node in self._sources for found in self._operation(node, single)]

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
            macs -= single.pop(layer)  # called once more, all of it counts
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
    """Of all results of an operator, for the whole batch."""
    value = node.meta.get("val")
    tensors = value if isinstance(value, list | tuple) else [value]
    return sum(prod(tensor.shape) for tensor in tensors if isinstance(tensor, Tensor))


def _seen_through(node: fx.Node) -> Iterator[fx.Node]:
    """Readers of a tensor and of its views."""
    for user in node.users:
        yield from _seen_through(user) if op_name(user) in VIEWS else [user]
