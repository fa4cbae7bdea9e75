"""Where activations are quantised, and their ranges.

Q/DQ pairs stand on the input of each quantised layer and on its output behind the following Relu or Clip:
the pattern that runtimes fuse into integer kernels. Float layers read the float tensor, because between a DQ
and a Q a runtime may quantise float weights on its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autocompress.export.graph import FloatGraph
from autocompress.export.runtime import Runtime

SAMPLES_PER_BATCH = 16384
CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)
"""Ranges tried, as shares of the observed one."""


@dataclass(frozen=True)
class Range:
    """Affine uint8: real = (code - zero_point) * scale."""

    scale: float
    zero_point: int


def quantised_tensors(graph: FloatGraph, leaves: set[str]) -> list[str]:
    """Tensors that get a Q/DQ pair when `leaves` have 8-bit activations; in order of production."""
    readers: dict[str, list[int]] = {}
    for index, node in enumerate(graph.nodes):
        for name in node.input:
            readers.setdefault(name, []).append(index)
    result = {value.name for value in graph.source.graph.output}
    chosen: dict[str, None] = {}
    for name, leaf in graph.leaves.items():
        if name not in leaves:
            continue
        chosen.setdefault(leaf.node.input[0])
        target = leaf.node.output[0]
        after = readers.get(target, [])
        if leaf.node.op_type == "MatMul" and len(after) == 1 and _adds_bias(graph, after[0]):
            target = graph.nodes[after[0]].output[0]
            after = readers.get(target, [])
        if len(after) == 1 and graph.nodes[after[0]].op_type in ("Relu", "Clip"):
            target = graph.nodes[after[0]].output[0]
        if target not in result:
            chosen.setdefault(target)
    return list(chosen)


def _adds_bias(graph: FloatGraph, index: int) -> bool:
    """Whether a node is the sum of a product and a vector of the network's: a linear layer at several positions."""
    node = graph.nodes[index]
    return node.op_type == "Add" and any(name in graph.tensors and graph.tensors[name].ndim == 1 for name in node.input)


def calibrate(graph: FloatGraph, tensors: list[str], inputs: np.ndarray, threads: int = 1) -> dict[str, Range]:
    """Ranges of least squared error for `tensors`, from running the float graph on `inputs` `(N, …)`."""
    if not tensors:
        return {}
    model = graph.to_model(tensors)
    runtime = Runtime(model.SerializeToString(), threads)
    names = [output.name for output in model.graph.output]
    seen: dict[str, list[np.ndarray]] = {name: [] for name in tensors}
    bounds = dict.fromkeys(tensors, (0.0, 0.0))
    for start in range(0, len(inputs), 64):
        batch = inputs[start:start + 64]
        values = dict(zip(names, runtime.run_all(batch), strict=True))
        values[model.graph.input[0].name] = batch
        for name in tensors:
            flat = values[name].reshape(-1)
            low, high = bounds[name]
            bounds[name] = (min(low, float(flat.min())), max(high, float(flat.max())))
            seen[name].append(flat[::max(1, len(flat) // SAMPLES_PER_BATCH)])
    return {name: choose_range(np.concatenate(seen[name]), *bounds[name]) for name in tensors}


def choose_range(sample: np.ndarray, low: float, high: float) -> Range:
    """The uint8 range inside [low, high] (which holds 0) of least squared error on `sample`."""
    best, best_error = Range(1.0, 0), np.inf
    for share in CLIPS:
        scale = max((high - low) * share / 255, 1e-8)
        zero = round(min(255.0, max(0.0, -low * share / scale)))
        codes = np.clip(np.rint(sample / scale) + zero, 0, 255)
        error = float(np.square((codes - zero) * scale - sample).mean())
        if error < best_error:
            best, best_error = Range(float(np.float32(scale)), zero), error
    return best
