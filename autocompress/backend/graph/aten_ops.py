"""Torch's operators in a traced graph, classed by what they do to the elements that they read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx

# Operators that move elements and compute nothing.
MOVES = {
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "t", "numpy_T", "swapaxes",
    "swapdims", "movedim", "moveaxis", "squeeze", "unsqueeze", "slice", "select", "narrow", "expand", "repeat",
    "repeat_interleave", "tile", "cat", "concat", "stack", "split", "split_with_sizes", "chunk", "tensor_split",
    "unbind", "roll", "flip", "rot90", "index", "index_select", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
    "unfold", "diagonal",
}
# Operators that cut a tensor into several of equal shape.
SPLITS = {"chunk", "split", "split_with_sizes", "tensor_split"}
# Operators that may split one dimension into several.
RESHAPES = {"view", "reshape", "_unsafe_view", "unflatten"}
# Operators whose result has the labels of the first operand. Torch's tag for elementwise operators tells of more.
SAME = {
    "dropout", "feature_dropout", "alpha_dropout", "contiguous", "clone", "detach", "alias", "to", "_to_copy",
    "type_as", "lift_fresh_copy", "lift_fresh", "zeros_like", "ones_like", "full_like", "hardswish", "hardtanh",
    "relu6", "selu", "celu", "silu", "mish", "gelu", "hardsigmoid", "softplus", "softsign", "tanhshrink", "logsigmoid",
    "log_sigmoid",
}
# Operators that take the shape but no value of their operand.
FREE = {"new_zeros", "new_ones", "new_full", "new_empty"}
# Operators that reduce some dimensions.
SUMS = {"mean", "sum", "amax", "amin", "max", "min", "prod", "std", "var", "std_mean", "var_mean", "logsumexp", "norm",
        "linalg_vector_norm", "argmax", "argmin"}
# Operators that combine the elements along one dimension and keep it.
ALONG = {"softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum", "cumprod"}
# Names of operators that pool or resize; the digit is the number of last dimensions that they work on.
WINDOWS = re.compile(r"(?:adaptive_)?(?:max|avg)_pool(\d)d.*|_?upsample_\w+?(\d)d.*")


def op_name(node: fx.Node) -> str:
    """Name the operator, alike for its in-place form; an operator that is not torch's own has no name."""
    if node.op == "call_function" and getattr(node.target, "namespace", "aten") != "aten":
        return ""
    name = str(getattr(node.target, "_opname", getattr(node.target, "__name__", node.target)))
    return name if name.startswith("_") else name.removesuffix("_")


def name_of(node: object) -> str:
    """Return the name of an operand that is a node, or nothing."""
    return node.name if isinstance(node, fx.Node) else ""


def argument(node: fx.Node, name: str) -> Any:
    """Return the operand called `name`, or its default; None where the operator has no such operand."""
    if name in node.kwargs:
        return node.kwargs[name]
    for place, declared in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if declared.name == name:
            default = declared.default_value if declared.has_default_value() else None
            return node.args[place] if place < len(node.args) else default
    return None


def shape_of(node: object) -> tuple[int, ...]:
    """Return the shape of a node's tensor; `()` for anything else."""
    value = node.meta["val"] if isinstance(node, fx.Node) else None
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def place_of(node: fx.Node) -> str:
    """Name the module that calls the operator, or else the operator, for a message."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path, kind = stack[-1] if stack else ("", "")
    kind = str(kind).rpartition(".")[2]
    return f"{path} ({kind})" if path and stack else f"the operator {op_name(node)}"


def origin_of(node: fx.Node, parameters: Mapping[str, str], constants: Mapping[str, Tensor]) -> str:
    """Say what a tensor without labels is computed from, for a message.

    Args:
        node: The node that makes the tensor.
        parameters: The names of parameters, by placeholder.
        constants: The values of buffers and constants, by placeholder.
    """
    seen, stack, names = set(), [node], []
    while stack:
        step = stack.pop()
        if step.op == "placeholder" and step.name not in parameters and step.name not in constants:
            return "a tensor made from the network's input" if step is not node else "the network's input"
        if step.op == "placeholder" and step.name in parameters:
            names.append(parameters[step.name])
        stack += [source for source in step.all_input_nodes if source not in seen]
        seen.update(step.all_input_nodes)
    return f"the bare parameter {min(names)}" if names else "a constant"
