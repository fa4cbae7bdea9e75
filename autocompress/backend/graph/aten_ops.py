"""Torch's operators in a traced graph: by what they do to the elements that they read, and how to read a call."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx

MOVES = {
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "t", "numpy_T", "swapaxes",
    "swapdims", "movedim", "moveaxis", "squeeze", "unsqueeze", "slice", "select", "narrow", "expand", "repeat",
    "repeat_interleave", "tile", "cat", "concat", "stack", "split", "split_with_sizes", "chunk", "tensor_split",
    "unbind", "roll", "flip", "rot90", "index", "index_select", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
    "unfold", "diagonal",
}
SPLITS = {"chunk", "split", "split_with_sizes", "tensor_split"}
RESHAPES = {"view", "reshape", "_unsafe_view", "unflatten"}
SAME = {
    "dropout", "feature_dropout", "alpha_dropout", "contiguous", "clone", "detach", "alias", "to", "_to_copy",
    "type_as", "lift_fresh_copy", "lift_fresh", "zeros_like", "ones_like", "full_like", "hardswish", "hardtanh",
    "relu6", "selu", "celu", "silu", "mish", "gelu", "hardsigmoid", "softplus", "softsign", "tanhshrink", "logsigmoid",
    "log_sigmoid",
}
"""The result has the labels of the first operand. More are known by torch's own tag for elementwise operators."""
FREE = {"new_zeros", "new_ones", "new_full", "new_empty"}
"""They take no value from their operand."""
SUMS = {"mean", "sum", "amax", "amin", "max", "min", "prod", "std", "var", "std_mean", "var_mean", "logsumexp", "norm",
        "linalg_vector_norm", "argmax", "argmin"}
ALONG = {"softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum", "cumprod"}
WINDOWS = re.compile(r"(?:adaptive_)?(?:max|avg)_pool(\d)d.*|_?upsample_\w+?(\d)d.*")
"""Pooling and resizing over that many last dimensions."""


def op_name(node: fx.Node) -> str:
    """The operator, the same for its in-place form; nothing for an operator that is not torch's own."""
    if node.op == "call_function" and getattr(node.target, "namespace", "aten") != "aten":
        return ""
    name = str(getattr(node.target, "_opname", getattr(node.target, "__name__", node.target)))
    return name if name.startswith("_") else name.removesuffix("_")


def name_of(node: object) -> str:
    """Of an operand that is a node."""
    return node.name if isinstance(node, fx.Node) else ""


def argument(node: fx.Node, name: str) -> Any:
    """The operand called `name`, or its default; None where the operator has none such."""
    if name in node.kwargs:
        return node.kwargs[name]
    for place, known in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if known.name == name:
            return node.args[place] if place < len(node.args) else known.default_value if known.has_default_value() \
                else None
    return None


def shape_of(node: object) -> tuple[int, ...]:
    value = node.meta["val"] if isinstance(node, fx.Node) else None
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def place_of(node: fx.Node) -> str:
    """The operator and the module that calls it, for a message."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path, kind = stack[-1] if stack else ("", "")
    kind = str(kind).rpartition(".")[2]
    return f"{path} ({kind})" if path and stack else f"the operator {op_name(node)}"


def origin_of(node: fx.Node, parameters: Mapping[str, str], constants: Mapping[str, Tensor]) -> str:
    """What a tensor without labels is made from: names of placeholders that hold `parameters` and `constants`."""
    seen, stack, found = set(), [node], []
    while stack:
        step = stack.pop()
        if step.op == "placeholder" and step.name not in parameters and step.name not in constants:
            return "a tensor made from the network's input" if step is not node else "the network's input"
        if step.op == "placeholder" and step.name in parameters:
            found.append(parameters[step.name])
        stack += [source for source in step.all_input_nodes if source not in seen]
        seen.update(step.all_input_nodes)
    return f"the bare parameter {min(found)}" if found else "a constant"
