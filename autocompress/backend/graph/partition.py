"""A network as a chain of units: the shortest stretches of its graph between places where one tensor is alive.

Found by tracing, not by class names: a residual block is one unit because its shortcut is alive beside the branch, and
a chain of layers has a unit for each. A unit ends at a tensor that a layer reads, by whose name it is found again in
another version of the network.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from autocompress.backend.graph.residual_blocks import symbolic
from autocompress.core.layer import LayerTable


@dataclass(frozen=True)
class Unit:
    """A stretch of the student and the same of the original, each from one tensor to one. They hold the networks' own
    modules, not copies. `reader`: the original layer that reads what the unit makes; nothing for the last one."""

    student: nn.Module
    original: nn.Module
    reader: str


def find_units(student: nn.Module, original: nn.Module, table: LayerTable) -> tuple[Unit, ...]:
    """All units in order. One, the whole network, where torch.fx cannot trace it or no place cuts it in two.

    Both networks must be in eval mode and stay so: what depends on the mode may have been written into the graph.
    """
    # Traced as copies: some networks keep what they computed, and would keep the tracer's.
    own, whole = symbolic(copy.deepcopy(student)), symbolic(copy.deepcopy(original))
    if own is None or whole is None:
        return (Unit(student, original, ""),)
    cuts, others = _cuts(own, table), _cuts(whole, table)
    shared = list({cuts[name]: name for name in cuts if name in others}.values())  # one for each tensor
    return tuple(Unit(part, same, name) for part, same, name in zip(
        _parts(student, own, [cuts[name] for name in shared]),
        _parts(original, whole, [others[name] for name in shared]), (*shared, ""), strict=True))


def _cuts(graph: fx.GraphModule, table: LayerTable) -> dict[str, fx.Node]:
    """Tensors that are alone alive once they are made, by the layer that reads them; not the network's own input."""
    order = {node: i for i, node in enumerate(graph.graph.nodes)}
    last = {node: max((order[user] for user in node.users), default=-1) for node in order}
    called = [node.target for node in order if node.op == "call_module"]
    cuts: dict[str, fx.Node] = {}
    alive: list[fx.Node] = []
    for node in order:
        if node.op != "get_attr":
            alive = [known for known in (*alive, node) if last[known] > order[node]]
        if alive != [node] or node.op == "placeholder":
            continue
        for user in node.users:
            name = _layer(str(user.target), table) if user.op == "call_module" else None
            if name is not None and called.count(user.target) == 1 and user.args[:1] == (node,):
                cuts[name] = node
    return cuts


def _layer(module: str, table: LayerTable) -> str | None:
    """The original layer that a module is, or whose first factor it is. Not a norm that folds into the layer before
    it: the two are one. Nor one that reads a tensor which is not cut into samples by its first axis."""
    return next((name for name in (module, module.removesuffix(".0"))
                 if name in table.by_name and not table.by_name[name].folds_into
                 and table.by_name[name].samples_first and table.by_name[name].frames == 1), None)


def _parts(model: nn.Module, graph: fx.GraphModule, ends: Sequence[fx.Node]) -> list[nn.Module]:
    """The stretches of `graph` that end at `ends`, and the rest, on the modules of `model`."""
    nodes = list(graph.graph.nodes)
    (result,) = nodes[-1].all_input_nodes
    parts: list[nn.Module] = []
    start = next(i for i, node in enumerate(nodes) if node.op == "placeholder")
    for end in (*(nodes.index(node) for node in ends), len(nodes) - 1):
        part = fx.Graph()
        copies = {nodes[start]: part.placeholder("inputs")}

        def copied(node: fx.Node, part: fx.Graph = part, copies: dict[fx.Node, fx.Node] = copies) -> fx.Node:
            if node not in copies:  # a constant that was fetched before this stretch began
                copies[node] = part.node_copy(node)
            return copies[node]

        for node in nodes[start + 1:end + 1]:
            if node.op not in ("placeholder", "output"):
                copies[node] = part.node_copy(node, copied)
        part.output(copies[result if nodes[end].op == "output" else nodes[end]])
        part.lint()
        parts.append(fx.GraphModule(model, part))
        start = end
    return parts


def widest_elements(units: Sequence[Unit], example: Tensor) -> int:
    """Elements of the largest tensor between units for one sample, from an `example` `(1, …)`."""
    most, student, original = example.numel(), example, example
    with torch.no_grad():
        for unit in units:
            student, original = unit.student(student), unit.original(original)
            most = max(most, original.numel())
    return most
