"""Uses of parameters in a traced graph: which nodes read a layer's weight and bias, and which norms fold into it.

A parameter may have several names (tied weights) and be read through views; a layer that is to be changed must be the
only reader of its parameters. A BatchNorm is absorbed only by the layer that alone feeds it, on the same axis.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx, nn

from autocompress.backend.graph.aten_ops import MOVES, op_name, shape_of
from autocompress.backend.layers.kinds import Conv
from autocompress.backend.network.fold import behind_norm

# Layers whose output channels are the rows of their weight.
FOLDABLE = Conv | nn.Linear


class ParameterUses:
    """The nodes of a network's exported graph that read each parameter, under whichever of its names."""

    def __init__(self, model: nn.Module, program: torch.export.ExportedProgram) -> None:
        placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
        self._model = model
        self.named = dict(model.named_parameters(remove_duplicate=False))
        self.read: dict[int, list[fx.Node]] = {}
        for placeholder, name in program.graph_signature.inputs_to_parameters.items():
            if name in self.named and placeholder in placeholders:
                self.read.setdefault(id(self.named[name]), []).extend(map(_reader, placeholders[placeholder].users))

    def of(self, name: str) -> list[fx.Node]:
        """Return the nodes that read the parameter `name`."""
        return self.read.get(id(self.named[name]), []) if name in self.named else []

    def shared(self, layer: str) -> str:
        """Return why the layer is not the only reader of its weight and bias; nothing where it is."""
        if len(self.of(_inside_of(layer, "weight"))) > 1:
            return "its weights are used more than once"
        return "its bias is used more than once" if len(self.of(_inside_of(layer, "bias"))) > 1 else ""

    def node(self, layer: str) -> fx.Node | None:
        """Return the only node that reads a module's weight and bias; None where other nodes read them too."""
        module = self._model.get_submodule(layer)
        weight, bias = self.of(_inside_of(layer, "weight")), self.of(_inside_of(layer, "bias"))
        if len(weight) != 1 or self.shared(layer) or not _inside(weight[0], layer):
            return None
        bias_tensor = getattr(module, "bias", None)
        return weight[0] if (bias == weight if isinstance(bias_tensor, Tensor) else not bias) else None

    def folds(self, norms: Collection[str]) -> dict[str, str]:
        """Return the convolution or linear layer that each foldable BatchNorm folds into, by the norm's name.

        The layer is the norm's only operand, the norm is the layer's only reader, and the layer's output channels lie
        on the norm's axis.

        Args:
            norms: The names of norms that are called as modules.
        """
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
    """Return the node itself, or the transposed convolution for which it moves the axes of a weight."""
    step = node
    while op_name(step) in MOVES and len(step.users) == 1:
        (step,) = step.users
    return step if op_name(step).startswith("conv_transpose") else node


def _inside_of(module: str, parameter: str) -> str:
    return f"{module}.{parameter}" if module else parameter


def _inside(node: fx.Node, module: str) -> bool:
    """Tell whether the node was recorded in a call of the module, and not in a call of a child of it."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return bool(stack) and stack[-1][0] == module


def _channels_second(layer: nn.Module, node: fx.Node) -> bool:
    """Tell whether the layer's output channels are axis 1, on which BatchNorm works."""
    return len(shape_of(node)) == 2 if isinstance(layer, nn.Linear) else len(shape_of(node)) == layer.weight.dim()  # type: ignore[operator, union-attr]


def computes_more(norm: nn.Module) -> bool:
    """Tell whether a subclass of BatchNorm computes more than the normalisation and then its children."""
    base: Any = next(kind for kind in type(norm).__mro__ if kind.__module__ == nn.BatchNorm2d.__module__)
    if type(norm).forward is base.forward:
        return False
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for size in ((), (3,), (3, 3), (3, 3, 3)):
            inputs = torch.randn(4, int(norm.num_features), *size, generator=generator)  # type: ignore[arg-type]
            try:
                plain = behind_norm(norm)(base.forward(norm, inputs.clone()))
            except ValueError:  # another number of dimensions than this norm takes
                continue
            return not torch.allclose(norm(inputs), plain, rtol=1e-4, atol=1e-6)
    return True
