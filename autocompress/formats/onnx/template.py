"""The ONNX skeleton of a network: exported once, filled with the tensors of any candidate.

`torch.onnx.export` takes seconds; filling a skeleton takes milliseconds. The skeleton is exported from a
copy whose tensors hold distinct random values, because the exporter merges equal and drops zero
initialisers, and because a tensor is then recognised in the graph by its values alone.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from autocompress.errors import InputError
from autocompress.formats.onnx.pads import unfold_pads
from autocompress.formats.onnx.torch_onnx import Example, exporting, free_shapes, input_names, output_names

OPSET = 20
LARGEST_BYTES = 2**31 - 1  # of one protobuf message; tensors beside the file are not written
# Index of the input of a node that is the weight of a layer, by operator.
WEIGHT_INPUT = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "Gather": 0}


@dataclass(frozen=True)
class Slot:
    """The state-dict key of an initialiser; `transposed` when its first two axes are swapped."""

    key: str
    transposed: bool = False


@dataclass(frozen=True)
class Template:
    """`model` is the graph without the tensors in `slots` (initialiser name → place in the state dict).

    `anchors` maps the index of a Conv, ConvTranspose, Gemm, MatMul or Gather node to the name of the layer it executes.
    `arranged` maps the initialiser of any other weight, which the graph arranges in another order before operators read
    it (gates of a recurrent layer, groups of a transposed convolution), to the name of its layer.
    """

    model: onnx.ModelProto
    slots: dict[str, Slot]
    anchors: dict[int, str]
    arranged: dict[str, str] = field(default_factory=dict)

    @property
    def skeleton_bytes(self) -> int:
        """Bytes of the graph without any tensor of the state dict."""
        return len(self.model.SerializeToString())

    def packed(self) -> bytes:
        """The template as bytes: a line of JSON, and the graph."""
        places = {name: [slot.key, slot.transposed] for name, slot in self.slots.items()}
        header = {"slots": places, "anchors": [*self.anchors.items()], "arranged": self.arranged}
        graph: bytes = self.model.SerializeToString(deterministic=True)
        return json.dumps(header).encode() + b"\n" + graph

    @classmethod
    def unpacked(cls, data: bytes) -> Template:
        """A template of the bytes that `packed` made."""
        line, _, graph = data.partition(b"\n")
        header = json.loads(line)
        slots = {name: Slot(key, transposed) for name, (key, transposed) in header["slots"].items()}
        return cls(onnx.ModelProto.FromString(graph), slots, dict(header["anchors"]), header["arranged"])


def export_template(model: nn.Module, example: Example, free_sizes: bool = False) -> Template:
    """Export the structure of `model` (eval mode, norms folded) with a free number of samples.

    Args:
        example: what the network is called with, of two samples.
        free_sizes: leave sizes of inputs free as well, where the network does not fix them.

    Raises:
        TrialError: when it cannot be exported.
        InputError: when an input is not used, or it does not fit into one file.
    """
    weights_bytes = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    if weights_bytes > LARGEST_BYTES:
        raise InputError(f"the weights of the original must fit into one ONNX file, {LARGEST_BYTES / 1e9:.2f} GB at "
                         f"most, but they take {weights_bytes / 1e9:.2f} GB: take a smaller original")
    proto = _export(_randomised(model), example, free_sizes)
    values = {key: value.detach().numpy() for key, value in _randomised(model).state_dict().items()
              if value.is_floating_point()}
    slots = {}
    for initializer in proto.graph.initializer:
        slot = _recognise(numpy_helper.to_array(initializer), initializer.name, values)
        if slot is not None:
            slots[initializer.name] = slot
    for initializer in [i for i in proto.graph.initializer if i.name in slots]:
        proto.graph.initializer.remove(initializer)
    _fold_transposes(proto, slots)
    unfold_pads(proto, {name: model.get_submodule(slot.key.removesuffix(".weight")) for name, slot in slots.items()
                        if slot.key.endswith(".weight")})
    slots = _shorten(proto, slots)
    readers = Counter(name for node in proto.graph.node for name in node.input)
    anchors = {}
    for index, node in enumerate(proto.graph.node):
        weight = node.input[WEIGHT_INPUT[node.op_type]] if node.op_type in WEIGHT_INPUT else ""
        if weight in slots and readers[weight] == 1:
            key = slots[weight].key
            if key.endswith(".weight"):
                anchors[index] = key.removesuffix(".weight")
    rest = {name: slot.key.removesuffix(".weight") for name, slot in slots.items() if slot.key.endswith(".weight")}
    arranged = {name: layer for name, layer in rest.items()
                if layer not in anchors.values() and values[f"{layer}.weight"].ndim > 1}
    return Template(proto, slots, anchors, arranged)


def _randomised(model: nn.Module) -> nn.Module:
    """Copy a network with distinct, positive, moderate values: variances of BatchNorm stay legal."""
    generator = torch.Generator().manual_seed(1)
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        for tensor in model.state_dict(keep_vars=True).values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + 0.25)
    return model


def _export(model: nn.Module, example: Example, free_sizes: bool) -> onnx.ModelProto:
    with exporting():
        names = output_names(model, example)
        program = torch.export.export(model, (example,), dynamic_shapes=(free_shapes(model, example, free_sizes),))
        exported = torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False, optimize=False,
                                     input_names=input_names(example), output_names=names)
        assert exported is not None
        _simplify(exported, program)
        proto: onnx.ModelProto = exported.model_proto
    _free_flattens(proto)
    _free_reshapes(proto)
    if len(proto.graph.output) != len(names) or len(proto.graph.input) != len(input_names(example)):
        raise InputError(f"the exported graph must read {', '.join(input_names(example))} and put out "
                         f"{', '.join(names)}, but has {len(proto.graph.input)} inputs and {len(proto.graph.output)} "
                         "outputs: every input must be used, and every output computed from them")
    _name_free_axes(proto)
    return proto


# Names of the axes behind the channels of maps, the last ones first.
_OF_MAPS = ("width", "height", "depth")


def _name_free_axes(proto: onnx.ModelProto) -> None:
    """Name what is free in the inputs: `batch`, and `height`, `width` or `length` where sizes are."""
    names: dict[str, str] = {}
    for value in proto.graph.input:
        dims = value.type.tensor_type.shape.dim
        for axis, dim in enumerate(dims):
            if dim.dim_param and dim.dim_param not in names:
                name = "batch" if axis == 0 else _OF_MAPS[len(dims) - 1 - axis] if len(dims) > 3 else "length"
                taken = sum(other.startswith(name) for other in names.values())
                names[dim.dim_param] = f"{name}_{taken}" if taken else name
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]


def _simplify(exported: torch.onnx.ONNXProgram, program: torch.export.ExportedProgram) -> None:
    """Run the exporter's optimisations, but fold no arithmetic on the network's tensors: it would be folded with the
    values at hand, which are not those of any candidate. A graph input has no value to compute with."""
    graph = exported.model.graph
    tensors = [graph.initializers[name] for name in program.state_dict if name in graph.initializers]
    graph.inputs.extend(tensors)
    exported.optimize()
    for tensor in tensors:
        graph.inputs.remove(tensor)


def _free_flattens(proto: onnx.ModelProto) -> None:
    """Replace a reshape to `(N, width)` by a Flatten, which infers the width: the exporter writes the original's
    channel count into the graph. Both sides must begin with the samples: frames may be folded into them on one."""
    batch = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    shapes = {v.name: v.type.tensor_type.shape.dim
              for v in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output)}
    constants = {i.name: i for i in proto.graph.initializer}
    for node in proto.graph.node:
        dims, input_dims = (shapes.get(name, ()) for name in (node.output[0], node.input[0] if node.input else ""))
        if not input_dims or input_dims[0].dim_param != batch:
            continue  # such as states `(layers, N, hidden)`: their first axis is not that of samples
        if (node.op_type == "Reshape" and node.input[1] in constants and len(dims) == 2
                and dims[0].dim_param == batch and dims[1].dim_value):
            node.op_type = "Flatten"  # axis 1 by default: rows stay samples, whatever the width
            del node.input[1:]
            del node.attribute[:]
    _drop_unused(proto)


def _free_reshapes(proto: onnx.ModelProto) -> None:
    """Replace one axis of other reshapes that keep the batch by -1, so that it is inferred: the one made of several;
    of two, that of attention heads, which change places with the positions, or else the longer one; of three, the
    middle one (heads, between queries, keys, values and head sizes). Where another axis is cut, the file does not
    compute what the network computes, and the parity check finds it."""
    shapes = {value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
              for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output)}
    constants = {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}
    heads = {node.input[0] for node in proto.graph.node if node.op_type == "Transpose"
             and any(list(attribute.ints) == [0, 2, 1, 3] for attribute in node.attribute)}
    for node in proto.graph.node:
        if node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        before, after = shapes.get(node.input[0], []), shapes.get(node.output[0], [])
        free = _freed(before, after, node.output[0] in heads)
        if free is not None:
            name = "shape_" + "_".join(map(str, free))
            if name not in constants:
                constants[name] = np.array(free, np.int64)
                proto.graph.initializer.append(numpy_helper.from_array(constants[name], name))
            node.input[1] = name
            del node.attribute[:]
    _drop_unused(proto)


def _freed(before: list[int | str], after: list[int | str], heads: bool = False) -> list[int] | None:
    """Return the target of a reshape from `before` to `after` (names are free sizes) with 0 for every leading axis that
    stays and -1 for the one that is inferred; None where the reshape does not keep the batch. `heads`: whether its axes
    1 and 2 change places afterwards."""
    stay = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), 0)
    same = 0
    while same < min(len(before), len(after)) - stay and before[-1 - same] == after[-1 - same]:
        same += 1
    new = after[stay:len(after) - same]
    if not stay or not isinstance(before[0], str) or not 1 <= len(new) <= 3 or 0 in new \
            or not all(isinstance(size, int) for size in after[stay:]):
        return None
    sizes = [int(size) for size in after[stay:]]
    of_two = 0 if heads and stay == 2 else sizes.index(max(sizes[:2]))
    sizes[(0, of_two, 1)[len(new) - 1]] = -1
    return [0] * stay + sizes


def _drop_unused(proto: onnx.ModelProto) -> None:
    """Remove nodes and initialisers that no output needs, those of subgraphs counted."""
    import onnx_ir  # with sympy three quarters of a second, which opening a study need not take
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    model = onnx_ir.from_proto(proto)
    RemoveUnusedNodesPass()(model)
    proto.CopyFrom(onnx_ir.to_proto(model))


def _recognise(value: np.ndarray, name: str, values: dict[str, np.ndarray]) -> Slot | None:
    if value.dtype != np.float32 or value.size == 0:
        return None
    for key in (name, *values):
        tensor = values.get(key)
        if tensor is not None and tensor.shape == value.shape and np.array_equal(tensor, value):
            return Slot(key)
    for key, tensor in values.items():
        if tensor.ndim == 2 and tensor.T.shape == value.shape and np.array_equal(tensor.T, value):
            return Slot(key, transposed=True)
    return None


def _fold_transposes(proto: onnx.ModelProto, slots: dict[str, Slot]) -> None:
    """Store a weight with its first two axes swapped where a Transpose swaps them before one node reads it."""
    graph = proto.graph
    readers = Counter(name for node in graph.node for name in node.input)
    for node in [n for n in graph.node if n.op_type == "Transpose" and n.input[0] in slots]:
        perm = [list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"]
        swaps = len(perm) == 1 and perm[0] == [1, 0, *range(2, len(perm[0]))]
        if swaps and not slots[node.input[0]].transposed and readers[node.output[0]] == 1:
            slots[node.output[0]] = Slot(slots[node.input[0]].key, transposed=True)
            graph.node.remove(node)
    read = {name for node in graph.node for name in node.input}
    for name in [name for name in slots if name not in read]:
        del slots[name]


def _shorten(proto: onnx.ModelProto, slots: dict[str, Slot]) -> dict[str, Slot]:
    """Shorten every tensor's name and remove names of nodes, metadata and attributes at their defaults: together they
    are a tenth of a small file. onnx_ir has passes for metadata, but none for names of nodes or for defaults."""
    graph = proto.graph
    names: dict[str, str] = {name: name for name in (*(value.name for value in (*graph.input, *graph.output)), "")}
    unchanged = len(names)

    def short(name: str) -> str:
        return names.setdefault(name, f"{'p' if name in slots else 't'}{len(names) - unchanged}")

    for initializer in graph.initializer:
        initializer.name = short(initializer.name)
    for node in graph.node:
        node.input[:] = [short(name) for name in node.input]
        node.output[:] = [short(name) for name in node.output]
        for unused in ("name", "doc_string", "metadata_props"):
            node.ClearField(unused)
        needed = [attribute for attribute in node.attribute if not _is_default(node, attribute)]
        del node.attribute[:]
        node.attribute.extend(needed)
    for value in (*graph.input, *graph.output):
        del value.metadata_props[:]
    del graph.value_info[:]
    del graph.metadata_props[:]
    del proto.metadata_props[:]
    del proto.functions[:]
    graph.name = "g"
    graph.doc_string = ""
    proto.producer_name, proto.producer_version = "autocompress", ""
    return {names[name]: slot for name, slot in slots.items() if name in names}


def _is_default(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> bool:
    if attribute.name in ("strides", "dilations"):
        return all(size == 1 for size in attribute.ints)
    if attribute.name == "pads":
        return not any(attribute.ints)
    declared = onnx.defs.get_schema(node.op_type, OPSET, node.domain).attributes.get(attribute.name)
    if declared is None or declared.default_value.type != attribute.type:
        return False
    value = onnx.helper.get_attribute_value
    return bool(value(declared.default_value) == value(attribute))


def state_arrays(model: nn.Module) -> dict[str, np.ndarray]:
    """The float tensors of a network as numpy arrays, by state-dict key."""
    state: dict[str, Tensor] = model.state_dict()
    return {key: value.detach().cpu().numpy() for key, value in state.items() if value.is_floating_point()}
