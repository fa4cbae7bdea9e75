"""Partition of a network into a chain of units: the shortest stretches of its graph between single live tensors.

The traced graph decides, not class names: a residual block is one unit because its shortcut is alive beside the branch,
and a chain of layers has a unit for each. A unit ends at a tensor that a layer reads; the name of that layer identifies
the same place in another version of the network.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn

from autocompress.backend.graph.residual_blocks import symbolic
from autocompress.core.layer import LayerTable
from autocompress.tensors.named import Inputs


@dataclass(frozen=True)
class Unit:
    """A stretch of the student and the same stretch of the original, each from one tensor to one tensor.

    Attributes:
        student: The stretch of the student, on the student's modules themselves, not on copies.
        original: The stretch of the original, likewise.
        reader: The original's layer that reads the unit's output; nothing for the last unit.
    """

    student: nn.Module
    original: nn.Module
    reader: str


def find_units(student: nn.Module, original: nn.Module, table: LayerTable) -> tuple[Unit, ...]:
    """Partition both networks at the places that they share.

    Args:
        student: The compressed network, in eval mode; it must stay so, since the mode may be written into the graph.
        original: The original, likewise.
        table: The layer table of the original.

    Returns:
        The units in order; one, the whole network, where torch.fx cannot trace it or no place cuts it in two.
    """
    # Copies are traced: some networks keep what they computed, and would keep the tracer's values.
    student_graph, original_graph = symbolic(copy.deepcopy(student)), symbolic(copy.deepcopy(original))
    if student_graph is None or original_graph is None:
        return (Unit(student, original, ""),)
    student_cuts, original_cuts = _cuts(student_graph, table), _cuts(original_graph, table)
    # One name for each tensor, of the layers that read it.
    shared = list({student_cuts[name]: name for name in student_cuts if name in original_cuts}.values())
    return tuple(Unit(part, same, name) for part, same, name in zip(
        _parts(student, student_graph, [student_cuts[name] for name in shared]),
        _parts(original, original_graph, [original_cuts[name] for name in shared]), (*shared, ""), strict=True))


def _cuts(graph: fx.GraphModule, table: LayerTable) -> dict[str, fx.Node]:
    """Find the tensors that are alone alive once they are computed, by the layer that reads them; not the input."""
    order = {node: i for i, node in enumerate(graph.graph.nodes)}
    last = {node: max((order[user] for user in node.users), default=-1) for node in order}
    called = [node.target for node in order if node.op == "call_module"]
    cuts: dict[str, fx.Node] = {}
    alive: list[fx.Node] = []
    for node in order:
        if node.op != "get_attr":
            alive = [tensor for tensor in (*alive, node) if last[tensor] > order[node]]
        if alive != [node] or node.op == "placeholder":
            continue
        for user in node.users:
            name = _layer(str(user.target), table) if user.op == "call_module" else None
            if name is not None and called.count(user.target) == 1 and user.args[:1] == (node,):
                cuts[name] = node
    return cuts


def _layer(module: str, table: LayerTable) -> str | None:
    """Name the original layer that a module is, or whose first factor it is; None where no unit may end before it.

    That holds for a norm that folds into the layer before it, because the two are one, and for a layer that reads a
    tensor whose first axis is not the samples.
    """
    return next((name for name in (module, module.removesuffix(".0"))
                 if name in table.by_name and not table.by_name[name].folds_into
                 and table.by_name[name].samples_first and table.by_name[name].frames == 1), None)


def _parts(model: nn.Module, graph: fx.GraphModule, ends: Sequence[fx.Node]) -> list[nn.Module]:
    """Cut `graph` behind each node of `ends` into graph modules on the modules of `model`."""
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


def widest_elements(units: Sequence[Unit], example: Inputs) -> int:
    """Count the elements of the largest tensor between units for one sample, from an `example` `(1, …)`."""
    most, student, original = example.numel(), example, example
    with torch.no_grad():
        for unit in units:
            student, original = unit.student(student), unit.original(original)
            most = max(most, original.numel())
    return most
