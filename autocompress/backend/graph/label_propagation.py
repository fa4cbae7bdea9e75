"""Propagation of channel labels through the graph of a network, operator by operator.

Operators that only move elements run on the labels themselves, so any reshape, shuffle, slice or concatenation is
followed exactly. Elementwise operators unite the labels that meet; sums and means unite those along the summed
dimension. An operator without a rule fixes the labels that it reads, with a reason that names the operator.

Source: Fang et al., "DepGraph: Towards Any Structural Pruning" (CVPR 2023), for the relation between channels, which
is computed here by element instead of by layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from autocompress.backend.graph import aten_ops as ops
from autocompress.backend.graph.channel_labels import Labels, along_axis, compact, core, varying
from autocompress.backend.layers.kinds import CONV_OPS
from autocompress.core.layer import LayerTable

LAYERS = {*CONV_OPS, "linear", "batch_norm"}
# The labels of one result or of several; None stands for a tensor without a label.
Value = Tensor | Sequence[Tensor | None] | None
# The labels and the shape of an operand, and the node that makes it.
Operand = tuple[Tensor | None, tuple[int, ...], fx.Node]


@dataclass(frozen=True)
class Use:
    """The labels on one side (`"in"` or `"out"`) of a layer: `labels[i]` at index `i`, 0 where nothing can be cut."""

    layer: str
    side: str
    labels: Tensor


class Propagation:
    """The labels of all tensors of a graph from `torch.export`, computed in one pass when it is constructed.

    Args:
        nodes: The nodes of the graph, in order.
        table: The layer table of the network.
        owner: The layer that owns a weight, by the weight's placeholder.
        constants: The values of buffers and constants, by placeholder.
        parameters: The names of parameters, by placeholder.

    Attributes:
        labels: The labels given out, united and fixed.
        uses: The labels on each side of each layer, in the order of the graph.
        producers: The layers that give out new labels, with these labels.
    """

    def __init__(self, nodes: Iterable[fx.Node], table: LayerTable, owner: dict[str, str],
                 constants: dict[str, Tensor], parameters: dict[str, str]) -> None:
        self.labels = Labels()
        self.uses: list[Use] = []
        self.producers: list[tuple[str, Tensor]] = []
        self._table, self._owner, self._constants, self._parameters = table, owner, constants, parameters
        self._values: dict[fx.Node, Value] = {}
        self._rectangles: list[Tensor] = []
        for node in nodes:
            if node.op == "output":
                for tensor in node.all_input_nodes:
                    self._fix([tensor], "its channels are the network's outputs")
            elif node.op == "call_function":
                self._values[node] = self._run(node)
        self._settle()

    def _settle(self) -> None:
        """Unite labels until every reshaped tensor changes along one dimension alone, the longest.

        Only whole slices can be cut from a tensor, so that the other dimensions stay whole (the two halves of a channel
        shuffle), unless an operator has united them already (attention heads).
        """
        changed = True
        while changed:
            changed = False
            for rectangle in self._rectangles:
                labels = self.labels.find(rectangle)
                dims = sorted(varying(labels), key=lambda d: labels.shape[d])
                for dim in dims[:-1]:
                    labels = self.labels.unite_along(labels, dim, "reshapes or chunks tie all its channels together")
                    changed = True

    # -- one operator --------------------------------------------------------------------------------------

    def _run(self, node: fx.Node) -> Value:
        name = ops.op_name(node)
        if name == "getitem":
            source = self._values.get(node.args[0])  # type: ignore[arg-type]
            return None if source is None else source[node.args[1]]  # type: ignore[index, return-value]
        layer = self._owner.get(ops.name_of(node.args[1])) if name in LAYERS else None
        if layer is not None and layer in self._table.by_name:
            return self._unknown(node) if self._table.by_name[layer].kind == "recurrent" else self._layer(node, layer)
        if name in ops.FREE or all(self._of(source) is None for source in node.all_input_nodes):
            return None
        rule = self._rule(node, name)
        return self._unknown(node) if rule is None else rule(node)

    def _rule(self, node: fx.Node, name: str) -> Callable[[fx.Node], Value] | None:
        if name in ops.MOVES:
            return self._move
        if name in ops.SAME:
            return lambda node: self._of(node.args[0])
        if name == "expand_as" or torch.Tag.pointwise in getattr(node.target, "tags", ()):
            return self._pointwise
        if name in ops.SUMS:
            return self._sum
        if name in ops.ALONG:
            return self._along
        if ops.WINDOWS.fullmatch(name):
            return self._window
        return {"matmul": self._matmul, "bmm": self._matmul, "mm": self._matmul, "layer_norm": self._layer_norm,
                "scaled_dot_product_attention": self._attention, "pad": self._pad,
                "constant_pad_nd": self._pad}.get(name)

    def _of(self, node: object) -> Tensor | None:
        """Return the labels of a node's tensor; None where it has none."""
        value = self._values.get(node) if isinstance(node, fx.Node) else None
        return self.labels.find(value) if isinstance(value, Tensor) else None

    def _all_of(self, node: fx.Node) -> list[Tensor]:
        value = self._values.get(node)
        return [v for v in ([value] if isinstance(value, Tensor) else value or ()) if v is not None]

    def _fix(self, nodes: Iterable[fx.Node], reason: str) -> None:
        for node in nodes:
            for labels in self._all_of(node):
                self.labels.fix(labels, reason)

    def _unknown(self, node: fx.Node) -> Tensor | None:
        self._fix(node.all_input_nodes, f"its channels reach {ops.place_of(node)}, and cannot be followed through it")
        return None

    def _layer(self, node: fx.Node, name: str) -> Tensor | None:
        """Label a convolution, linear layer or norm, which reads one label a channel; norms alone write no new ones."""
        layer, inputs = self._table.by_name[name], self._of(node.args[0])
        axis = len(ops.shape_of(node)) - 1 if layer.kind == "linear" else 1
        if layer.not_compressible_reason:
            self._fix([node.args[0]], f"{name}: {layer.not_compressible_reason}")  # type: ignore[list-item]
            return None
        depthwise = layer.groups > 1 and layer.groups == layer.in_channels == layer.out_channels
        if layer.kind == "norm" and inputs is not None and inputs.shape[axis] > 1 and axis not in varying(inputs):
            return inputs  # the norm works on another axis than the channels lie along
        read = None if inputs is None else self._channels(inputs, axis)
        if layer.kind == "norm" or depthwise:
            if read is None:
                return None
            self.uses.append(Use(name, "out", read))
            return along_axis(read, axis, ops.shape_of(node))
        if read is not None:
            self.uses.append(Use(name, "in", read))
        if layer.out_channels == 1:
            return None  # there is nothing to choose from, and broadcasting may spread it over other channels
        written = self.labels.fresh(layer.out_channels)
        self.producers.append((name, written))
        self.uses.append(Use(name, "out", written))
        return along_axis(written, axis, ops.shape_of(node))

    def _channels(self, labels: Tensor, axis: int) -> Tensor:
        """Unite the labels of each channel over all positions, and return one label a channel."""
        for dim in varying(labels):
            if dim != axis:
                labels = self.labels.unite_along(labels, dim)
        return core(labels).flatten().expand(labels.shape[axis])

    def _move(self, node: fx.Node) -> Value:
        name = ops.op_name(node)
        try:
            operator: Any = torch.reshape if name in ("view", "_unsafe_view") else node.target
            args: Any = fx.map_arg(node.args, self._moved)
            kwargs: Any = fx.map_arg(node.kwargs, self._moved)
            result = operator(*args, **kwargs)
        except (RuntimeError, TypeError, NotImplementedError, LookupError):  # an index that is computed, for one
            return self._unknown(node)
        if isinstance(result, Tensor):
            moved = compact(result)
            if name in ops.RESHAPES and len(varying(moved)) > 1:
                self._rectangles.append(moved)
            return moved
        parts = [compact(part) for part in result]
        if name in ops.SPLITS and len({tuple(part.shape) for part in parts}) == 1:
            self._rectangles.append(compact(torch.stack(parts)))
        return parts

    def _moved(self, node: fx.Node) -> Tensor:
        value = node.meta["val"]
        if not isinstance(value, Tensor):
            raise TypeError(f"{node.name} is no tensor")
        if not value.is_floating_point():  # an index
            return self._constant(node)
        labels = self._of(node)
        return torch.zeros((), dtype=torch.long).expand(value.shape) if labels is None else labels

    def _constant(self, node: fx.Node) -> Tensor:
        while node.op == "call_function" and ops.op_name(node) in ops.SAME:
            node = node.all_input_nodes[0]
        return self._constants[node.name]

    def _pointwise(self, node: fx.Node) -> Tensor | None:
        return self._join([self._operand(source) for source in node.all_input_nodes], ops.shape_of(node))

    def _join(self, operands: Sequence[Operand], shape: tuple[int, ...]) -> Tensor | None:
        """Unite the labels that meet under broadcasting.

        A tensor without labels fixes the labels where it has a value for each channel: it would have to be cut as well.
        """
        joined: Tensor | None = None
        for labels, operand_shape, _ in operands:
            if labels is not None:
                if len(operand_shape) < len(shape):
                    labels = labels.reshape((1,) * (len(shape) - len(operand_shape)) + operand_shape)
                if joined is None:
                    joined = labels.expand(shape)
                else:
                    self.labels.unite(joined, labels)
                    joined = torch.where(core(joined) == 0, core(labels), core(joined)).expand(shape)
        if joined is None:
            return None
        joined = self.labels.find(joined)
        for labels, operand_shape, node in operands:
            padded = (1,) * (len(shape) - len(operand_shape)) + operand_shape
            if labels is None and any(padded[dim] > 1 for dim in varying(joined)):
                source = ops.origin_of(node, self._parameters, self._constants)
                self.labels.fix(joined, f"{source} has a value for each of its channels")
        return joined

    def _sum(self, node: fx.Node) -> Value:
        value = node.meta["val"]
        if ops.op_name(node) in ("max", "min") and isinstance(node.args[1] if len(node.args) > 1 else None, fx.Node):
            return self._pointwise(node)  # of two tensors
        dim_argument = ops.argument(node, "dim")
        labels = self._of(node.args[0])
        if labels is None:
            return None
        whole = dim_argument is None or dim_argument == []
        dims = range(labels.dim()) if whole else [dim_argument] if isinstance(dim_argument, int) else dim_argument
        summed = self._summed(labels, dims, f"{ops.place_of(node)} mixes its channels",
                              keep=bool(ops.argument(node, "keepdim")))
        return summed if isinstance(value, Tensor) else [summed] * len(value)

    def _summed(self, labels: Tensor, dims: Iterable[int], why: str, keep: bool = False) -> Tensor:
        axes = sorted({dim % labels.dim() for dim in dims}, reverse=True) if labels.dim() else []
        for dim in axes:
            labels = self.labels.unite_along(labels, dim, why).narrow(dim, 0, 1)
        for dim in axes if not keep else ():
            labels = labels.squeeze(dim)
        return compact(labels)

    def _along(self, node: fx.Node) -> Tensor | None:
        labels, dim = self._of(node.args[0]), ops.argument(node, "dim")
        return None if labels is None else self.labels.unite_along(labels, dim % labels.dim(),
                                                                   f"{ops.place_of(node)} mixes its channels")

    def _window(self, node: fx.Node) -> Value:
        labels, value = self._of(node.args[0]), node.meta["val"]
        if labels is None:
            return None
        count = int(next(filter(None, ops.WINDOWS.fullmatch(ops.op_name(node)).groups())))  # type: ignore[union-attr]
        for dim in range(labels.dim() - count, labels.dim()):
            labels = self.labels.unite_along(labels, dim, f"{ops.place_of(node)} mixes its channels").narrow(dim, 0, 1)
        return labels.expand(value.shape) if isinstance(value, Tensor) else [labels.expand(v.shape) for v in value]

    def _pad(self, node: fx.Node) -> Tensor | None:
        """Label a padded tensor: new positions have the labels of their channel, new channels have none."""
        labels, pads = self._of(node.args[0]), ops.argument(node, "pad")
        changing = varying(labels) if labels is not None else []
        if labels is None:
            return None
        inner = [pad if labels.dim() - 1 - i // 2 in changing else 0 for i, pad in enumerate(pads)]
        if any(inner) and ops.argument(node, "mode") not in (None, "constant"):
            return self._unknown(node)
        small = torch.constant_pad_nd(core(labels), inner, 0)
        return compact(small.expand(ops.shape_of(node)))

    def _layer_norm(self, node: fx.Node) -> Tensor | None:
        labels = self._of(node.args[0])
        over = [] if labels is None else [labels.dim() - 1 - i for i in range(len(node.args[1]))]  # type: ignore[arg-type]
        if labels is None or set(over) & set(varying(labels)):
            return self._unknown(node)
        return labels

    def _matmul(self, node: fx.Node) -> Tensor | None:
        return self._product(self._operand(node.args[0]), self._operand(node.args[1]), node)

    def _operand(self, node: Any) -> Operand:
        return self._of(node), ops.shape_of(node), node

    def _product(self, left: Operand, right: Operand, node: fx.Node) -> Tensor | None:
        """Label `(…, m, k)` times `(…, k, n)` as the sum over k of an elementwise product `(…, m, n, k)`."""
        (a, shape_a, node_a), (b, shape_b, node_b) = left, right
        if len(shape_a) < 2 or len(shape_b) < 2:
            return self._unknown(node)
        batch = np.broadcast_shapes(shape_a[:-2], shape_b[:-2])
        rows = (*shape_a[:-2], shape_a[-2], 1, shape_a[-1])
        columns = (*shape_b[:-2], 1, shape_b[-1], shape_b[-2])
        whole = self._join([(None if a is None else a.unsqueeze(-2), rows, node_a),
                            (None if b is None else b.transpose(-1, -2).unsqueeze(-3), columns, node_b)],
                           (*batch, shape_a[-2], shape_b[-1], shape_a[-1]))
        return None if whole is None else self._summed(whole, [-1], f"{ops.place_of(node)} mixes its channels")

    def _attention(self, node: fx.Node) -> Tensor | None:
        """Label softmax(q kᵀ + mask) v. Heads do not read one another, so that each can be cut by itself."""
        (query, key, value), mask = map(self._operand, node.args[:3]), ops.argument(node, "attn_mask")
        labels, shape, source = key
        turned = None if labels is None else labels.transpose(-1, -2), (*shape[:-2], shape[-1], shape[-2]), source
        scores = self._product(query, turned, node), (*query[1][:-1], shape[-2]), query[2]
        if isinstance(mask, fx.Node):
            scores = self._join([scores, self._operand(mask)], scores[1]), *scores[1:]
        result = self._product(scores, value, node)
        if result is not None and scores[0] is not None:
            self.labels.mark_heads(result)
        return result
