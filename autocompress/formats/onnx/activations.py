"""Where activations are quantised, and their ranges.

Q/DQ pairs stand on the input of each quantised layer and on its output behind the following Relu or Clip:
the pattern that runtimes fuse into integer kernels. Float layers read the float tensor, because between a DQ
and a Q a runtime may quantise float weights on its own; so do operators that only move values on to them, because a
runtime moves a DQ behind those.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

from autocompress.core.allocator import bound_memory
from autocompress.core.batch_sizes import LIVE_BYTES, rows_of
from autocompress.core.cancellation import checkpoint
from autocompress.formats.base import Arrays
from autocompress.formats.onnx.runtime import Runtime
from autocompress.formats.ranges import Range, choose_range

if TYPE_CHECKING:
    from autocompress.formats.onnx.graph import FloatGraph

MOST_ROWS = 64  # samples that are run at once, at most
# Values of a tensor that a range is chosen from, drawn at random: a stride would meet the same places of every picture.
# A percentile leaves about thirteen of them outside at either end.
VALUES = 2**18
# Operators that move values without computing.
MOVES = ("MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather", "Split", "Concat",
         "Expand", "Identity", "Dropout", "Pad", "Resize", "DepthToSpace", "SpaceToDepth", "Tile")
# Operators whose float weights the runtime may quantise on its own.
WEIGHTED = ("Conv", "ConvTranspose", "Gemm")


def reads_float(graph: FloatGraph, quantised: Collection[str]) -> set[int]:
    """Return `id` of the nodes that must read float tensors: weighted ones that are not among the `quantised` layers,
    and those that move values on to them."""
    integer = {id(leaf.node) for name, leaf in graph.leaves.items() if name in quantised}
    leaves = {id(leaf.node) for leaf in graph.leaves.values()}
    float_readers: set[int] = set()
    float_tensors: set[str] = set()
    for node in reversed(graph.nodes):  # readers come behind
        weighted = id(node) in leaves or node.op_type in WEIGHTED
        if (weighted and id(node) not in integer) or (node.op_type in MOVES and float_tensors & set(node.output)):
            float_readers.add(id(node))
            float_tensors.update(node.input)
    return float_readers


def quantised_tensors(graph: FloatGraph, leaves: Mapping[str, int]) -> dict[str, int]:
    """Return the width of each tensor that gets a Q/DQ pair when `leaves` have activations of so many bits, in order of
    production. A tensor that layers of two widths share takes the narrower, which integer kernels need."""
    readers: dict[str, list[int]] = {}
    for index, node in enumerate(graph.nodes):
        for name in node.input:
            readers.setdefault(name, []).append(index)
    result = {value.name for value in graph.source.graph.output}
    widths: dict[str, int] = {}
    for name, leaf in graph.leaves.items():
        if name not in leaves:
            continue
        ends = [leaf.node.input[0]]
        target = leaf.node.output[0]
        after = readers.get(target, [])
        if leaf.node.op_type == "MatMul" and len(after) == 1 and _adds_bias(graph, after[0]):
            target = graph.nodes[after[0]].output[0]
            after = readers.get(target, [])
        if len(after) == 1 and graph.nodes[after[0]].op_type in ("Relu", "Clip"):
            target = graph.nodes[after[0]].output[0]
        if target not in result:
            ends.append(target)
        widths |= {end: min(leaves[name], widths.get(end, 16)) for end in ends}
    return widths


def _adds_bias(graph: FloatGraph, index: int) -> bool:
    """Whether a node adds a vector of the network to a product: the bias of a linear layer at several positions."""
    node = graph.nodes[index]
    return node.op_type == "Add" and any(name in graph.tensors and graph.tensors[name].ndim == 1 for name in node.input)


def calibrate(graph: FloatGraph, tensors: Mapping[str, int], inputs: Arrays, threads: int,
              method: str) -> dict[str, Range]:
    """Choose ranges for `tensors` of so many bits by `method` from running the float graph on `inputs`."""
    if not tensors:
        return {}
    model = graph.to_model(list(tensors))
    runtime = Runtime(model.SerializeToString(), threads)
    draw = np.random.default_rng(0)
    seen: dict[str, list[np.ndarray]] = {name: [] for name in tensors}
    bounds = dict.fromkeys(tensors, (0.0, 0.0))
    first = next(iter(inputs.values()))
    one = runtime.run({name: values[:1] for name, values in inputs.items()})
    samples, rows = len(first), rows_of(sum(values.nbytes for values in one.values()), MOST_ROWS, LIVE_BYTES)
    for start in range(0, samples, rows):
        checkpoint("ranges of activations", start, samples)
        bound_memory()
        batch = {name: values[start:start + rows] for name, values in inputs.items()}
        values = {**runtime.run(batch), **batch}
        share = VALUES * len(first[start:start + rows]) // samples
        for name in tensors:
            flat = values[name].reshape(-1)
            low, high = bounds[name]
            bounds[name] = (min(low, float(flat.min())), max(high, float(flat.max())))
            if method != "minmax":
                # A copy, so that the runtime's arena is free for the next batch.
                seen[name].append(flat.copy() if len(flat) <= share else flat[draw.integers(0, len(flat), share)])
        del values, flat  # before the next batch is run
    return {name: choose_range(np.concatenate(seen[name] or [np.zeros(0)]), *bounds[name], bits, method)
            for name, bits in tensors.items()}
