"""From a folded network to the bytes of `model.onnx`: integer weights, packed, with Q/DQ on activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from torch import nn

from autocompress.errors import TrialError
from autocompress.formats.base import INPUT, Arrays, IntegerWeight, Mask
from autocompress.formats.onnx.activations import calibrate, quantised_tensors, reads_float
from autocompress.formats.onnx.graph import FloatGraph, Leaf, fill, swapped
from autocompress.formats.onnx.pads import fold_pads
from autocompress.formats.onnx.sparse import Packed, Writer, expand, pack_sparse, to_store
from autocompress.formats.onnx.template import Template
from autocompress.formats.packing import ALIGN, index_in, lookup, pack, tables
from autocompress.formats.ranges import Range, about_zero

OPSET_16 = 21  # the first in which 16-bit activations can be written


@dataclass(frozen=True)
class Built:
    """The bytes of a file, and the range of the input of each layer with quantised activations, by `NAME:input`."""

    data: bytes
    ranges: dict[str, Range]


def build(template: Template, model: nn.Module, weights: Mapping[str, IntegerWeight], half: set[str],
          quantised_activations: Mapping[str, int], calibration: np.ndarray | Arrays, threads: int = 1,
          method: str = "minmax", masks: Mapping[str, Mask] | None = None, symmetric: bool = False) -> Built:
    """Build the file of a folded network.

    `weights`: integer weights by module name; `half`: modules stored as float16; `quantised_activations`:
    modules with 8 or 16-bit activations, all of which must have integer weights of 8 bits or less.
    `calibration`: normalised inputs `(N, …)`, of a network with several by name, from which `method` chooses ranges.
    `masks`: of sparse weights, by module name. `symmetric`: activations are signed and about zero.
    TrialError when a planned module is not in the graph.
    """
    graph = fill(template, model)
    masks = masks or {}
    missing = sorted((set(weights) | half | set(masks)) - set(graph.leaves))
    if missing:
        raise TrialError(f"the exported graph has no node for {missing[0]}")
    graph.nodes = fold_pads(graph.nodes, graph.tensors, [graph.leaves[name].node for name in quantised_activations])
    tensors = quantised_tensors(graph, quantised_activations)
    inputs = {INPUT: calibration} if isinstance(calibration, np.ndarray) else calibration
    ranges = calibrate(graph, tensors, inputs, threads, method)
    if symmetric:
        ranges = {name: about_zero(span) for name, span in ranges.items()}
    writer = _Writer(graph, quantised_activations, ranges)
    writer.weights(weights, half, masks)
    writer.activations()
    by_layer = {f"{name}:input": ranges[leaf.node.input[0]] for name, leaf in writer.read_before.items()}
    return Built(writer.finish(), by_layer)


class _Writer:
    """Rewrites a float graph into the shipped one. Short names: at 50 kB names are a tenth of the file."""

    def __init__(self, graph: FloatGraph, quantised: Mapping[str, int], ranges: Mapping[str, Range]) -> None:
        self._graph, self._quantised, self._ranges = graph, quantised, ranges
        self._head: list[onnx.NodeProto] = []  # weight arithmetic: folded by the runtime when it loads
        self._tensors = dict(graph.tensors)
        self._names = 0
        copies = {name: Leaf(leaf.name, _copy(leaf.node), leaf.weight, leaf.bias, leaf.axis, leaf.at)
                  for name, leaf in graph.leaves.items() if name in quantised}
        self.read_before = copies

    def _name(self) -> str:
        self._names += 1
        return f"q{self._names}"

    def _constant(self, value: np.ndarray) -> str:
        name = self._name()
        self._tensors[name] = value
        return name

    def _node(self, op: str, inputs: list[str], outputs: int = 1, **attributes: Any) -> list[str]:
        names = [self._name() for _ in range(outputs)]
        self._head.append(helper.make_node(op, inputs, names, **attributes))
        return names

    def _put(self, leaf: Leaf, op: str, inputs: list[str], **attributes: Any) -> None:
        """Add the node that restores a weight, and let its readers read that in place of the stored one."""
        if leaf.arranged:
            self._head.append(helper.make_node(op, inputs, [leaf.weight], **attributes))
        else:
            (leaf.node.input[leaf.at],) = self._node(op, inputs, **attributes)

    def weights(self, weights: Mapping[str, IntegerWeight], half: set[str], masks: Mapping[str, Mask]) -> None:
        """Replace every planned weight by its stored form and the nodes that restore it."""
        bits = {name: weights[name].bits if name in weights else 16 if name in half else 32 for name in masks}
        sparse = to_store(masks, bits)
        self._sparse_floats({key: names for key, names in sparse.items() if key[0] > 8}, masks)
        done = {name for names in sparse.values() for name in names}
        for name in sorted(half - done):  # sorted: equal candidates have equal bytes
            leaf = self._graph.leaves[name]
            stored = self._constant(self._tensors.pop(leaf.weight).astype(np.float16))
            self._put(leaf, "Cast", [stored], to=TensorProto.FLOAT)
        widths: dict[int, list[str]] = {}
        for name in sorted(weights):
            widths.setdefault(weights[name].bits, []).append(name)
        for width, names in sorted(widths.items()):
            levels = {name: self._levels(name, weights[name]) for name in names}
            packed = {f"sparse {pattern}": self._pack(pattern, {name: levels.pop(name) for name in inside}, masks)
                      for (bits_of, pattern), inside in sparse.items() if bits_of == width}
            restored = self._restore(width, levels | {key: group.values for key, group in packed.items()})
            for key, group in packed.items():
                restored |= expand(self._writer, restored[key], group)
            for name in names:
                self._dequantise(self._graph.leaves[name], self._looked_up(restored[name], weights[name]),
                                 weights[name])

    def _sparse_floats(self, sparse: Mapping[tuple[int, str], list[str]], masks: Mapping[str, Mask]) -> None:
        for (bits, pattern), names in sparse.items():
            kind = np.float16 if bits == 16 else np.float32
            tensors = {name: self._tensors.pop(self._graph.leaves[name].weight).astype(kind) for name in names}
            packed = self._pack(pattern, tensors, masks)
            for name, whole in expand(self._writer, self._constant(packed.values), packed).items():
                leaf = self._graph.leaves[name]
                if bits == 16:
                    self._put(leaf, "Cast", [whole], to=TensorProto.FLOAT)
                elif leaf.arranged:
                    self._put(leaf, "Identity", [whole])
                else:
                    leaf.node.input[leaf.at] = whole

    def _pack(self, pattern: str, tensors: Mapping[str, np.ndarray], masks: Mapping[str, Mask]) -> Packed:
        leaves = self._graph.leaves
        flags = {name: swapped(masks[name].kept.numpy()) if leaves[name].axis == 1 else masks[name].kept.numpy()
                 for name in tensors}
        return pack_sparse(pattern, tensors, flags, {name: 1 - leaves[name].axis for name in tensors})

    @property
    def _writer(self) -> Writer:
        return Writer(self._constant, self._node, self._unpack)

    def _levels(self, name: str, weight: IntegerWeight) -> np.ndarray:
        levels: np.ndarray = weight.levels.numpy()
        if weight.table is not None:
            levels = index_in(levels, weight.table.numpy())
        return swapped(levels) if self._graph.leaves[name].axis == 1 else levels

    def _restore(self, bits: int, levels: Mapping[str, np.ndarray]) -> dict[str, str]:
        """Restore weights as INT8 tensors and return their names; below 8 bits all layers of one width share one packed
        stream."""
        if bits == 8:
            return {name: self._constant(value) for name, value in levels.items()}
        stream = np.concatenate([value.reshape(-1) for value in levels.values()])
        padding = -len(stream) % ALIGN
        whole = self._unpack(np.pad(stream, (0, padding), constant_values=1), bits)
        sizes = [value.size for value in levels.values()] + ([padding] if padding else [])
        pieces = self._node("Split", [whole, self._constant(np.array(sizes, np.int64))], len(sizes))
        shaped = {}
        for (name, value), piece in zip(levels.items(), pieces, strict=False):
            (shaped[name],) = self._node("Reshape", [piece, self._constant(np.array(value.shape, np.int64))])
        return shaped

    def _unpack(self, stream: np.ndarray, bits: int) -> str:
        """Store `integers(bits)`, a multiple of `ALIGN` of them, and restore them as flat INT8."""
        planes = []
        flat = self._constant(np.array([-1], np.int64))
        for plane, table in zip(pack(stream, bits), tables(bits), strict=True):
            (index,) = self._node("Cast", [self._constant(plane)], to=TensorProto.INT32)
            (codes,) = self._node("Gather", [self._constant(table), index])
            planes += self._node("Reshape", [codes, flat])
        return planes[0] if len(planes) == 1 else self._sum(planes)

    def _sum(self, planes: list[str]) -> str:
        """Add INT8 planes by way of INT32, the only integer type every runtime adds."""
        wide = [self._node("Cast", [plane], to=TensorProto.INT32)[0] for plane in planes]
        total = wide[0]
        for plane in wide[1:]:
            (total,) = self._node("Add", [total, plane])
        return self._node("Cast", [total], to=TensorProto.INT8)[0]

    def _looked_up(self, restored: str, weight: IntegerWeight) -> str:
        """Replace unpacked integers by the levels for which they stand in the weight's table."""
        if weight.table is None:
            return restored
        (index,) = self._node("Cast", [restored], to=TensorProto.INT32)
        return self._node("Gather", [self._constant(lookup(weight.table.numpy(), weight.bits)), index])[0]

    def _dequantise(self, leaf: Leaf, restored: str, weight: IntegerWeight) -> None:
        shape = self._tensors.pop(leaf.weight).shape
        scale: np.ndarray = weight.scale.numpy().astype(np.float32)
        if leaf.name in self._quantised:
            scale = self._safe(leaf, scale)
            (leaf.node.input[leaf.at],) = self._node("DequantizeLinear", [restored, self._constant(scale)],
                                                     axis=leaf.axis)
        else:
            # A plain product is folded into float weights at load; a DequantizeLinear would run every time.
            along = [-1 if axis == leaf.axis else 1 for axis in range(len(shape))]
            (wide,) = self._node("Cast", [restored], to=TensorProto.FLOAT)
            steps = self._constant(scale.reshape(along)) if weight.factors is None else \
                self._steps(leaf, scale, weight.factors.numpy(), weight.group, shape)
            self._put(leaf, "Mul", [wide, steps])

    def _steps(self, leaf: Leaf, scale: np.ndarray, factors: np.ndarray, group: int, shape: tuple[int, ...]) -> str:
        """Compute a step for each weight from a factor for each run; the last run of a row may be cut short."""
        (wide,) = self._node("Cast", [self._constant(factors[:, :, None])], to=TensorProto.FLOAT)
        (steps,) = self._node("Mul", [wide, self._constant(scale.reshape(-1, 1, 1))])
        (steps,) = self._node("Expand", [steps, self._constant(np.array([1, 1, group], np.int64))])
        (steps,) = self._node("Reshape", [steps, self._constant(np.array([len(scale), -1], np.int64))])
        columns = prod(shape) // len(scale)
        rest = factors.shape[1] * group - columns
        if rest:
            steps, _ = self._node("Split", [steps, self._constant(np.array([columns, rest], np.int64))], 2, axis=1)
        if leaf.axis == 1 and len(shape) == 2:
            return self._node("Transpose", [steps])[0]
        if len(shape) > 2:
            by_output = (shape[1], shape[0], *shape[2:]) if leaf.axis == 1 else shape
            (steps,) = self._node("Reshape", [steps, self._constant(np.array(by_output, np.int64))])
        if leaf.axis == 1:
            (steps,) = self._node("Transpose", [steps], perm=[1, 0, *range(2, len(shape))])
        return steps

    def _safe(self, leaf: Leaf, scale: np.ndarray) -> np.ndarray:
        """Keep the runtime's int32 bias, bias / (input scale * weight scale), inside its type."""
        source = self._ranges[leaf.node.input[0]].scale
        bias = np.abs(self._tensors[leaf.bias]) if leaf.bias in self._tensors else np.zeros_like(scale)
        floor = np.maximum(bias / (source * 2.0**30), 1e-12)
        safe: np.ndarray = np.maximum(scale, floor.astype(np.float32))
        return safe

    def activations(self) -> None:
        """Insert Q/DQ behind the producer of every chosen tensor and let its readers take the DQ's result."""
        stay_float = reads_float(self._graph, self._quantised)
        pairs: dict[str, list[onnx.NodeProto]] = {}
        renamed = {}
        for tensor, span in self._ranges.items():
            scale = self._constant(np.array(span.scale, np.float32))
            zero = self._constant(np.array(span.zero_point, span.dtype))
            code, real = self._name(), self._name()
            pairs[tensor] = [helper.make_node("QuantizeLinear", [tensor, scale, zero], [code]),
                             helper.make_node("DequantizeLinear", [code, scale, zero], [real])]
            renamed[tensor] = real
        produced = {name for node in self._graph.nodes for name in node.output}
        nodes = [pair for tensor, both in pairs.items() if tensor not in produced for pair in both]  # inputs, constants
        for node in self._graph.nodes:
            if id(node) not in stay_float:
                node.input[:] = [renamed.get(name, name) for name in node.input]
            nodes.append(node)
            nodes += [pair for name in node.output for pair in pairs.get(name, [])]
        self._graph.nodes = nodes

    def finish(self) -> bytes:
        """Check the model and serialise it."""
        graph = FloatGraph(self._graph.source, [*self._head, *self._graph.nodes], self._tensors)
        model = graph.to_model()
        if any(span.bits == 16 for span in self._ranges.values()):
            next(opset for opset in model.opset_import if not opset.domain).version = OPSET_16
        onnx.checker.check_model(model)
        data: bytes = model.SerializeToString()
        return data


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    return copied


def float_bytes(template: Template, model: nn.Module) -> bytes:
    """Write the folded network as a plain float32 file."""
    data: bytes = fill(template, model).to_model().SerializeToString()
    return data
