"""A graph of torch's operators as plain data, and the module that it makes again: nothing of it is code.

A graph may call operators of `aten` and arithmetic on sizes, and none that reads or writes files; anything else is
refused, when it is written and when it is read.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from autocompress.errors import TrialError
from autocompress.formats.pytorch.exported import NETWORK
from autocompress.tensors.names import OUTPUT

# Arithmetic on sizes that a graph may hold.
ON_SIZES = {name: getattr(operator, name) for name in (
    "add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pow", "getitem", "eq", "ne", "lt", "le", "gt", "ge")}
# Arguments that say where a tensor lies: the graph runs where its inputs lie.
PLACES = ("device", "layout", "pin_memory")
# Kinds of values that are told by name.
NAMED: dict[str, type] = {"dtype": torch.dtype, "memory_format": torch.memory_format}


class Node(msgspec.Struct, frozen=True, array_like=True):
    """One call. References are `{"node": number}`: inputs come first, then tensors, then calls."""

    call: str
    args: list[Any]
    kwargs: dict[str, Any] = {}


class Graph(msgspec.Struct, frozen=True):
    """A network's operators.

    Attributes:
        inputs: Names of the inputs.
        tensors: Names of the tensors that it reads.
        nodes: Calls in order.
        outputs: Reference by name of the output.
    """

    inputs: list[str]
    tensors: list[str]
    nodes: list[Node]
    outputs: dict[str, Any]


def graph_of(program: ExportedProgram) -> tuple[Graph, dict[str, Tensor]]:
    """The graph of a program, and the tensors that it reads, by the names that the network has for them.

    Raises:
        TrialError: when it calls what a graph may not hold.
    """
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    calls = [node for node in program.graph.nodes if node.op == "call_function" and not _is_check(node)]
    inputs, tensors = [], {}
    for node in program.graph.find_nodes(op="placeholder"):
        spec = specs[node.name]
        if spec.kind == InputKind.USER_INPUT:
            inputs.append(node)
        elif node.users:
            assert spec.target is not None
            held = program.state_dict if spec.target in program.state_dict else program.constants
            tensors[node] = (spec.target.removeprefix(f"{NETWORK}."), held[spec.target])
    number = {node: i for i, node in enumerate([*inputs, *tensors, *calls])}
    nodes = [Node(call_name(node.target), _plain(list(node.args), number), {
        name: _plain(value, number) for name, value in node.kwargs.items() if name not in PLACES}) for node in calls]
    names = [str(name) for name in program.call_spec.in_spec.child(0).child(0).context]
    outputs = program.call_spec.out_spec.context
    (results,) = program.graph.output_node().args
    return Graph(names, [name for name, _ in tensors.values()], nodes,
                 {str(name): _plain(node, number) for name, node in zip(outputs, results, strict=True)}
                 ), {name: tensor.detach() for name, tensor in tensors.values()}


def module_of(graph: Graph, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The module of a graph: `forward` takes the inputs in order, and returns the output, or several by name.

    Raises:
        TrialError: when the graph is damaged, or calls what it may not.
    """
    root = nn.Module()
    rebuilt, places = fx.Graph(), []
    try:
        values = [rebuilt.placeholder(f"input_{i}") for i in range(len(graph.inputs))]
        for name in graph.tensors:
            _put(root, name, tensors[name])
            places.append(name)
            values.append(rebuilt.get_attr(name))
        for node in graph.nodes:
            arguments = _value(node.args, values), {key: _value(value, values) for key, value in node.kwargs.items()}
            values.append(rebuilt.call_function(_function(node.call), tuple(arguments[0]), arguments[1]))
        outputs = {name: _value(reference, values) for name, reference in graph.outputs.items()}
        rebuilt.output(outputs[OUTPUT] if [*outputs] == [OUTPUT] else outputs)
        return fx.GraphModule(root, rebuilt)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise TrialError(f"its graph is damaged: {type(error).__name__} {error}") from error


def call_name(target: Any) -> str:
    """The name under which a graph calls an operator. TrialError for one that it may not."""
    if isinstance(target, torch._ops.OpOverload):
        name = target._name if "." in target._name else f"{target._name}.default"
        _function(name)
        return name
    arithmetic = next((name for name, function in ON_SIZES.items() if function is target), None)
    if arithmetic is None:
        raise TrialError(f"a file can hold operators of aten alone, but the network calls {target}")
    return arithmetic


def _function(name: str) -> Callable[..., Any]:
    if name in ON_SIZES:
        function: Callable[..., Any] = ON_SIZES[name]
        return function
    space, _, rest = name.partition("::")
    packet, _, overload = rest.partition(".")
    target = getattr(getattr(torch.ops.aten, packet, None), overload, None) if space == "aten" else None
    if not isinstance(target, torch._ops.OpOverload) or touches_files(target):
        raise TrialError(f"a file can hold operators of aten alone, and none that reads files, but calls {name}")
    return target


def touches_files(target: torch._ops.OpOverload) -> bool:
    """Whether an operator takes the name of a file."""
    return any(argument.name == "filename" for argument in target._schema.arguments)


def _is_check(node: fx.Node) -> bool:
    """Whether a call only raises where sizes are not what they were."""
    return not node.users and "assert" in str(node.target)


def _plain(value: Any, number: Mapping[fx.Node, int]) -> Any:
    if isinstance(value, fx.Node):
        return {"node": number[value]}
    if isinstance(value, list | tuple):
        return [_plain(entry, number) for entry in value]
    for kind, named in NAMED.items():
        if isinstance(value, named):
            return {kind: str(value).removeprefix("torch.")}
    if isinstance(value, float) and value not in _finite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.device | torch.layout):
        return None
    raise TrialError(f"a file can hold numbers and names as arguments, but the network calls with {value!r}")


def _finite(value: float) -> Iterable[float]:
    return (value,) if abs(value) < float("inf") else ()


def _value(value: Any, nodes: list[fx.Node]) -> Any:
    if isinstance(value, list):
        return [_value(entry, nodes) for entry in value]
    if not isinstance(value, dict):
        return value
    (kind, content), = value.items()
    if kind == "node":
        return nodes[content]
    if kind == "float":
        return float(content)
    constant = getattr(torch, content)
    if not isinstance(constant, NAMED[kind]):
        raise ValueError(content)
    return constant


def _put(root: nn.Module, name: str, tensor: Tensor) -> None:
    """Register a tensor under a dotted name: a parameter where it can have a gradient, else a buffer."""
    *parents, leaf = name.split(".")
    for parent in parents:
        if parent not in root._modules:
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    if tensor.is_floating_point():
        root.register_parameter(leaf, nn.Parameter(tensor))
    else:
        root.register_buffer(leaf, tensor)
