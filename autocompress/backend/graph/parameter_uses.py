"""Which nodes of a traced graph read a layer's weight and bias, and which norms are proved to fold into which layer.

A parameter may have several names (tied weights) and be read through views; a layer that is to be changed must be the
only reader of its own. A BatchNorm is absorbed only by the layer that alone feeds it, on the same axis.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx, nn

from autocompress.backend.graph.aten_ops import MOVES, op_name, shape_of
from autocompress.backend.layers.kinds import Conv
from autocompress.backend.network.fold import behind_norm

FOLDABLE = Conv | nn.Linear
"""Layers whose output channels are the rows of their weight."""


class ParameterUses:
    """Of one network and its exported graph: the nodes that read each parameter, under whichever of its names."""

    def __init__(self, model: nn.Module, program: torch.export.ExportedProgram) -> None:
        placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
        self._model = model
        self.named = dict(model.named_parameters(remove_duplicate=False))
        self.read: dict[int, list[fx.Node]] = {}
        for placeholder, name in program.graph_signature.inputs_to_parameters.items():
            if name in self.named and placeholder in placeholders:
                self.read.setdefault(id(self.named[name]), []).extend(map(_reader, placeholders[placeholder].users))

    def of(self, name: str) -> list[fx.Node]:
        """Nodes that read the parameter `name`."""
        return self.read.get(id(self.named[name]), []) if name in self.named else []

    def shared(self, layer: str) -> str:
        """Why the layer is not the only reader of its weight and bias; nothing where it is."""
        if len(self.of(_inside_of(layer, "weight"))) > 1:
            return "its weights are used more than once"
        return "its bias is used more than once" if len(self.of(_inside_of(layer, "bias"))) > 1 else ""

    def node(self, layer: str) -> fx.Node | None:
        """The one node in which a module computes with its weight and its bias; None where it is not that alone."""
        module = self._model.get_submodule(layer)
        weight, bias = self.of(_inside_of(layer, "weight")), self.of(_inside_of(layer, "bias"))
        if len(weight) != 1 or self.shared(layer) or not _inside(weight[0], layer):
            return None
        given = getattr(module, "bias", None)
        return weight[0] if (bias == weight if isinstance(given, Tensor) else not bias) else None

    def folds(self, norms: Collection[str]) -> dict[str, str]:
        """BatchNorm, of those called as modules, → the convolution or linear layer that alone feeds it and feeds it
        alone, with channels on the norm's axis."""
        layers = {id(node): name for name, module in self._model.named_modules()
                  if isinstance(module, FOLDABLE) and (node := self.node(name)) is not None}
        folded = {}
        for name in norms:
            norm, node = self._model.get_submodule(name), self.node(name)
            if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or norm.running_mean is None or node is None \
                    or op_name(node) != "batch_norm" or computes_more(norm):
                continue
            source = node.args[0]
            if isinstance(source, fx.Node) and id(source) in layers and len(source.users) == 1 \
                    and _channels_second(self._model.get_submodule(layers[id(source)]), source):
                folded[name] = layers[id(source)]
        return folded


def _reader(node: fx.Node) -> fx.Node:
    """The node itself, or the transposed convolution for which it moves the axes of a weight."""
    step = node
    while op_name(step) in MOVES and len(step.users) == 1:
        (step,) = step.users
    return step if op_name(step).startswith("conv_transpose") else node


def _inside_of(module: str, parameter: str) -> str:
    return f"{module}.{parameter}" if module else parameter


def _inside(node: fx.Node, module: str) -> bool:
    """Whether the node was recorded in a call of the module, and not in one of a child of it."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return bool(stack) and stack[-1][0] == module


def _channels_second(layer: nn.Module, node: fx.Node) -> bool:
    """Whether the layer's output channels are axis 1, on which BatchNorm works."""
    return len(shape_of(node)) == 2 if isinstance(layer, nn.Linear) else len(shape_of(node)) == layer.weight.dim()  # type: ignore[operator, union-attr]


def computes_more(norm: nn.Module) -> bool:
    """Whether a subclass of BatchNorm does more than to normalise and then what its children do."""
    base: Any = next(kind for kind in type(norm).__mro__ if kind.__module__ == nn.BatchNorm2d.__module__)
    if type(norm).forward is base.forward:
        return False
    drawn = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for size in ((), (3,), (3, 3), (3, 3, 3)):
            inputs = torch.randn(4, int(norm.num_features), *size, generator=drawn)  # type: ignore[arg-type]
            try:
                plain = behind_norm(norm)(base.forward(norm, inputs.clone()))
            except ValueError:  # another number of dimensions than this norm takes
                continue
            return not torch.allclose(norm(inputs), plain, rtol=1e-4, atol=1e-6)
    return True
