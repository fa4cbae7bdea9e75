"""Search for residual blocks that can be dropped, in the network's graph instead of by class names.

A sum of two tensors of one shape, where one is made from the other alone, still has its shape when only the older
one is passed on. Dropping replaces the sum by that shortcut and removes what then has no reader.

Sources: Huang et al., "Deep Networks with Stochastic Depth" (ECCV 2016); Veit et al., "Residual Networks Behave
Like Ensembles" (NeurIPS 2016), which shows how little a single block is missed.
"""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from autocompress.backend.layers.kinds import Conv, Norm
from autocompress.backend.layers.recurrent import Recurrent
from autocompress.core.layer import Block
from autocompress.tensors.named import Inputs

_SUMS = {operator.add, operator.iadd, torch.add, "add", "add_"}


@dataclass(frozen=True)
class _Candidate:
    block: Block
    total: fx.Node
    shortcut: fx.Node


def find_blocks(model: nn.Module, example: Inputs) -> tuple[Block, ...]:
    """Find all blocks that can be dropped, in order; there are none where torch.fx cannot trace the network.

    Args:
        model: The network, in eval mode.
        example: An input `(N, …)`.
    """
    graph = symbolic(copy.deepcopy(model))  # some networks keep what they computed, and would keep the tracer's
    if graph is None:
        return ()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            _Shapes(graph).run(example)
    except Exception:  # a user's forward may fail in many ways when it is interpreted; then there are no blocks
        return ()
    return tuple(candidate.block for candidate in _candidates(graph, check_shapes=True))


def drop_blocks(model: nn.Module, names: Collection[str]) -> nn.Module:
    """Build a network on the modules of `model` without the blocks `names`; the other submodules keep their names.

    Raises:
        ValueError: A name is no block of this network.
    """
    graph = symbolic(model)
    by_name = {} if graph is None else {candidate.block.name: candidate for candidate in _candidates(graph)}
    missing = sorted(set(names) - set(by_name))
    if graph is None or missing:
        raise ValueError(f"a drop step must name a residual block, but {missing[0]!r} is none of "
                         f"{', '.join(by_name) or '(this network has none)'}")
    for name in names:
        candidate = by_name[name]
        candidate.total.replace_all_uses_with(_surviving_shortcut(candidate.shortcut, by_name, names))
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()
    graph.train(model.training)
    return graph


def _surviving_shortcut(node: fx.Node, by_name: dict[str, _Candidate], dropped: Collection[str]) -> fx.Node:
    """Return the node that replaces a shortcut whose own block is dropped as well."""
    for name in dropped:
        if by_name[name].total is node:
            return _surviving_shortcut(by_name[name].shortcut, by_name, dropped)
    return node


def symbolic(model: nn.Module) -> fx.GraphModule | None:
    """Trace the network by torch.fx; a graph module stays as it is, and None means that it cannot be traced."""
    if isinstance(model, fx.GraphModule):
        return model
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tracer = _Tracer()
            return fx.GraphModule(model, tracer.trace(model))
    except Exception:  # data-dependent Python: torch.fx raises many kinds
        return None


class _Tracer(fx.Tracer):
    """A tracer that keeps the layers whole that techniques name, and their subclasses."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        layers = Conv | nn.Linear | nn.Embedding | Norm | Recurrent
        return isinstance(m, layers) or super().is_leaf_module(m, module_qualified_name)


class _Shapes(fx.Interpreter):
    """An interpreter that stores the shape of every tensor in its node."""

    def run_node(self, n: fx.Node) -> object:
        result = super().run_node(n)
        n.meta["shape"] = tuple(result.shape) if isinstance(result, Tensor) else None
        return result


def _candidates(graph: fx.GraphModule, check_shapes: bool = False) -> Iterator[_Candidate]:
    """Blocks in order. One is named by the module that holds it; where two would share a name (a transformer's
    attention and its MLP), each by its last layer."""
    sums = list(_sums(graph, check_shapes))
    held = [_common(layers) for layers, _, _ in sums]
    for (layers, total, shortcut), name in zip(sums, held, strict=True):
        yield _Candidate(Block(name=name if held.count(name) == 1 else layers[-1], layers=layers), total, shortcut)


def _sums(graph: fx.GraphModule, check_shapes: bool) -> Iterator[tuple[tuple[str, ...], fx.Node, fx.Node]]:
    """Yield the layers of each branch, the sum that ends it, and its shortcut."""
    order = {node: i for i, node in enumerate(graph.graph.nodes)}
    called = [str(step.target) for step in graph.graph.nodes if step.op == "call_module"]
    for node in graph.graph.nodes:
        terms = [term for term in node.args if isinstance(term, fx.Node)]
        if node.target not in _SUMS or len(terms) != 2 or len(set(terms)) != 2:
            continue
        shortcut, body = sorted(terms, key=order.__getitem__)
        region = _between(shortcut, body)
        if region is None or any(user is not node for user in body.users):
            continue
        if check_shapes and not shortcut.meta["shape"] == body.meta["shape"] == node.meta["shape"]:
            continue
        modules = [str(step.target) for step in sorted(region, key=order.__getitem__) if step.op == "call_module"]
        layers = tuple(layer for module in modules for layer in _weighted(graph, module))
        if layers and all(called.count(module) == 1 for module in modules if _weighted(graph, module)):
            yield layers, node, shortcut


def _weighted(graph: fx.GraphModule, module: str) -> list[str]:
    """Name the module and the modules inside it that hold parameters directly."""
    return [f"{module}.{name}".rstrip(".") for name, inner in graph.get_submodule(module).named_modules()
            if list(inner.parameters(recurse=False))]


def _between(start: fx.Node, end: fx.Node) -> set[fx.Node] | None:
    """Return the nodes after `start` up to `end`; None where other nodes feed them or read them."""
    region: set[fx.Node] = set()
    stack = [end]
    while stack:
        node = stack.pop()
        if node is start or node in region or node.op == "get_attr":
            continue
        if node.op == "placeholder":
            return None  # fed from elsewhere than the shortcut
        region.add(node)
        stack += node.all_input_nodes
    inner = region - {end}
    return region if region and all(user in region for node in inner for user in node.users) else None


def _common(layers: tuple[str, ...]) -> str:
    """Name the module that holds all of `layers`, or the last layer where only the network itself holds them."""
    parts = [layer.split(".") for layer in layers]
    shared = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return ".".join(shared) or layers[-1]
