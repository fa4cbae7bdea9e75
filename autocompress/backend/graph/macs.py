"""Counts of multiply-accumulates, of a network or of single nodes of a traced graph.

Products that are summed count: convolutions, linear layers, recurrent cells, and products of two
activations, in attention or bare. Norms, sums, pooling and activation functions count nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import thop
import torch
from torch import fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from autocompress.backend.canonical.attention import plain_attention
from autocompress.tensors.named import Inputs, zeros

# Modules of which thop counts exactly the products, where they are these very classes. It does not see what is no
# module, overcounts transposed convolutions, and counts biases, norms and pooling.
COUNTED_BY_THOP = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def count_macs(model: nn.Module, inputs: tuple[int, ...] | Inputs, dtype: torch.dtype = torch.float32) -> int:
    """Count the multiply-accumulates of one sample.

    Plain convolutions and linear layers are counted by thop, everything else by the operators that run.

    Args:
        model: The network; it stays as it is.
        inputs: A batch, or the shape of one sample without the batch axis.
        dtype: The type of an input that is given by its shape.
    """
    example = torch.zeros(1, *inputs, dtype=dtype) if isinstance(inputs, tuple) else zeros(inputs, 1)
    copied = copy.deepcopy(model).eval()
    try:  # without data, where the network can run without
        return _counted(copied.to("meta"), example.to("meta"))
    except Exception:  # the user's forward: it may read values, or hold tensors that stay where they were
        return _counted(copy.deepcopy(model).eval(), example)


def _counted(model: nn.Module, example: Inputs) -> int:
    with counting() as counter:
        model(example)
    operators = {name: sum(flops.values()) // 2 for name, flops in counter.get_flop_counts().items()}
    root = type(model).__name__
    plain = {f"{root}.{name}": name for name, module in model.named_modules() if name
             and type(module) in COUNTED_BY_THOP and f"{root}.{name}" in operators}
    _, _, layers = thop.profile(model, inputs=(example,), verbose=False, ret_layer_info=True)
    by_thop = sum(_of_layer(layers, name) for name in plain.values())
    return operators["Global"] - sum(operators[name] for name in plain) + by_thop


def _of_layer(layers: dict[str, Any], name: str) -> int:
    """Look up the count of one module in thop's nested table."""
    *parents, child = name.split(".")
    for parent in parents:
        layers = layers[parent][2]
    return int(layers[child][0])


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """Count the floating-point operations of what runs inside, two a multiply-accumulate, with attention and recurrent
    layers as the products that they are: oneDNN's recurrent layers, and the fused attentions, are one operator."""
    before = torch.backends.mkldnn.set_flags(_enabled=False)  # type: ignore[no-untyped-call]
    try:
        with torch.no_grad(), plain_attention(), sdpa_kernel(SDPBackend.MATH), \
                FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        torch.backends.mkldnn.set_flags(_enabled=before[0])  # type: ignore[no-untyped-call]


def node_macs(node: fx.Node) -> int:
    """Multiply-accumulates of one operator of a traced graph, for the whole batch that it was traced with. Nothing for
    one that cannot be run on shapes alone."""
    args: Any = fx.map_arg(node.args, lambda source: source.meta["val"])
    kwargs: Any = fx.map_arg(node.kwargs, lambda source: source.meta["val"])
    with counting() as counter:
        try:
            node.target(*args, **kwargs)  # type: ignore[operator]
        except Exception:  # an operator of the user's own, or one that holds a graph
            return 0
    return int(counter.get_total_flops()) // 2
