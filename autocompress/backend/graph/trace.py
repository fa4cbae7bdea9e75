"""Tracing of a network into its layer table: layers, norms that fold into convolutions, lifetimes of tensors.

The facts are read from `torch.export`'s graph, the same one that the exported file comes from, and from one forward
pass with hooks, which tells whether a module is really called (some parents read a child's weights directly).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import torch
from torch import Tensor, fx, nn

from autocompress.backend.graph.aten_ops import MOVES, op_name
from autocompress.backend.graph.coupling import Coupling
from autocompress.backend.graph.coupling_groups import record_coupling
from autocompress.backend.graph.dataflow import Dataflow
from autocompress.backend.graph.kept import left_whole
from autocompress.backend.graph.label_propagation import Propagation
from autocompress.backend.graph.parameter_uses import ParameterUses
from autocompress.backend.graph.rescalable_pairs import find_scalings, unsafe_rescalings
from autocompress.backend.graph.rescale import Scaling
from autocompress.backend.graph.residual_blocks import find_blocks
from autocompress.backend.graph.sample_axes import Call, SampleAxis, Seen, observe_calls
from autocompress.backend.graph.untraceable import exported
from autocompress.backend.layers.kinds import CONV_OPS, RECURRENT_OPS, Conv, Norm
from autocompress.backend.layers.recurrent import Gates, count_steps, stepwise
from autocompress.backend.layers.transposed import TransposedConv
from autocompress.core.layer import Layer, LayerTable
from autocompress.errors import InputError
from autocompress.tensors.named import Inputs, zeros

# Operators that are one Relu or Clip in the exported file.
_FUSED = {"relu", "relu_", "relu6", "relu6_", "hardtanh", "hardtanh_", "clamp", "clamp_"}
# Operators that the exported file does not have.
_VANISH = {"dropout", "dropout_", "feature_dropout", "contiguous", "alias", "detach", "clone"}


def trace(model: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype = torch.float32,
          inputs: Inputs | None = None, keep: Sequence[str] = ()) -> tuple[LayerTable, Coupling]:
    """Return the layer table of a network and its recorded coupling.

    Args:
        model: The network, in eval mode.
        input_shape: The shape of one sample.
        dtype: The type of the network's input.
        inputs: Real inputs `(M, …)`, which tell in which axis the samples lie; random ones where None.
        keep: Patterns of names of modules that no technique may change, see `kept`.

    Raises:
        InputError: The network cannot be traced, or a pattern names nothing.
    """
    example = torch.zeros(2, *input_shape, dtype=dtype) if inputs is None else zeros(inputs, 2)
    program = exported(copy.deepcopy(model), example)  # tracing leaves marks in some
    nodes = [n for n in program.graph.nodes if n.op == "call_function"]
    owner, uses = _owners(program), ParameterUses(model, program)
    calls: dict[str, list[fx.Node]] = {}
    for node in nodes:
        if _op(node) in CONV_OPS | {"linear", "batch_norm", "embedding"} and len(node.args) > 1:
            name = owner.get(getattr(node.args[_op(node) != "embedding"], "name", ""))
            if name is not None:
                calls.setdefault(name, []).append(node)
        elif _op(node) in RECURRENT_OPS:
            for weight in _weights(node):
                if weight.name in owner:
                    calls.setdefault(owner[weight.name], []).append(node)
    if inputs is None:  # 0 and 1 where tokens are asked for
        inputs = (2 * torch.rand(7, *input_shape, generator=torch.Generator().manual_seed(0))).to(dtype)
    with stepwise(model):
        seen = observe_calls(model, inputs, [name for name, module in model.named_modules() if _own_params(module)])
    steps = count_steps(model, example)
    folds = uses.folds([name for name in seen if _op_of(calls.get(name, [])) == "batch_norm"])
    ends = {name: _ends(node_list[0], _op(node_list[0]) != "batch_norm" and name in folds.values())
            for name, node_list in calls.items() if _op(node_list[0]) != "embedding" and name not in steps}
    layers = [msgspec.structs.replace(_layer(name, module, calls.get(name, []), seen, folds, uses, steps.get(name, 1)),
                                      **dict(zip(("reads", "writes"), ends.get(name, ("", "")), strict=True)))
              for name, module in _in_order(model, seen) if _own_params(module)]
    layers = left_whole(layers, keep)
    names = {layer.name for layer in layers}
    flow = Dataflow(program, {k: name for k, name in owner.items() if name in names}, len(example))
    table = LayerTable(
        input_shape=tuple(input_shape), outputs=_outputs(program), layers=tuple(layers),
        activations=tuple(flow.activations()), operations=tuple(flow.operations(layers)),
    )
    coupling = record_coupling(model, example, table, _propagate(program, table, owner))
    scalings, unscaled = _scalings(model, example, nodes, table, owner)
    source = {reader: name for name, scaling in scalings.items() for reader in scaling.readers}
    facts = tuple(
        msgspec.structs.replace(
            layer,
            not_prunable_reason=coupling.refused.get(layer.name, ""),
            scales_with=source.get(layer.name, ""),
            not_rescalable_reason=unscaled.get(layer.name, ""),
        )
        for layer in table.layers
    )
    return msgspec.structs.replace(table, layers=facts, groups=coupling.groups, blocks=find_blocks(model, example)), \
        replace(coupling, scalings=scalings)


def _scalings(model: nn.Module, example: Inputs, nodes: list[fx.Node], table: LayerTable,
              owner: dict[str, str]) -> tuple[dict[str, Scaling], dict[str, str]]:
    """Return the proved scalings by source, and by reader why the other readers have none."""
    scalings, refused = find_scalings(nodes, table, owner)
    failed = unsafe_rescalings(model, example, scalings)
    refused |= {reader: why for source, why in failed.items() for reader in scalings[source].readers}
    return {source: scaling for source, scaling in scalings.items() if source not in failed}, refused


def _propagate(program: torch.export.ExportedProgram, table: LayerTable, owner: dict[str, str]) -> Propagation:
    """Return the propagation of channel labels through the traced graph."""
    signature = program.graph_signature
    stored = {**signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants}
    values = {**program.state_dict, **program.constants}
    constants = {placeholder: values[name] for placeholder, name in stored.items() if isinstance(values[name], Tensor)}
    return Propagation(program.graph.nodes, table, owner, constants, dict(signature.inputs_to_parameters))


def _op(node: fx.Node) -> str:
    return str(getattr(node.target, "_opname", node.target))


def _owners(program: torch.export.ExportedProgram) -> dict[str, str]:
    """Return the name of the module that owns each `weight` parameter, by the parameter's placeholder.

    The nodes that transposed convolutions read, weights in another order of axes, are included by their names.
    """
    owner = {placeholder: name.rpartition(".")[0]
             for placeholder, name in program.graph_signature.inputs_to_parameters.items()
             if name.rpartition(".")[2] == "weight"}
    for node in program.graph.nodes:
        if _op(node).startswith("conv_transpose"):
            source = weight = node.args[1]
            while source.op == "call_function" and op_name(source) in MOVES and len(source.all_input_nodes) == 1:
                (source,) = source.all_input_nodes
            if source.name in owner:
                owner[weight.name] = owner[source.name]
    return owner


def _weights(node: fx.Node) -> list[fx.Node]:
    """Return all nodes that a recurrent operator reads its weights from."""
    return [part for argument in node.args if isinstance(argument, list | tuple) for part in argument
            if isinstance(part, fx.Node)]


def _outputs(program: torch.export.ExportedProgram) -> int:
    (output,) = [n for n in program.graph.nodes if n.op == "output"]
    results = [result.meta.get("val") for result in output.args[0] if hasattr(result, "meta")]
    if not results or not all(isinstance(result, Tensor) and result.dim() for result in results):
        raise InputError("the network must return tensors (N, …), but returns something else beside them")
    return sum(int(result.shape[-1]) if result.dim() > 1 else 1 for result in results)


def _in_order(model: nn.Module, shapes: Mapping[str, Call]) -> list[tuple[str, nn.Module]]:
    """Return modules in the order of their first call; those that are never called come last."""
    modules = dict(model.named_modules())
    return [(n, modules[n]) for n in shapes] + [(n, m) for n, m in modules.items() if n not in shapes]


def _own_params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters(recurse=False))


def _op_of(nodes: list[fx.Node]) -> str:
    return _op(nodes[0]) if nodes else ""


def _ends(node: fx.Node, folds: bool) -> tuple[str, str]:
    """Return the names of the tensors that a layer reads and writes in the exported file (see `Layer.reads`)."""
    source = node.all_input_nodes[0]
    while _op(source) in _VANISH:
        source = source.all_input_nodes[0]
    if folds:
        (node,) = node.users
    readers = _readers(node)
    if len(readers) == 1 and _op(readers[0]) in _FUSED:
        node, readers = readers[0], _readers(readers[0])
    return source.name, "" if any(reader.op == "output" for reader in readers) else node.name


def _readers(node: fx.Node) -> list[fx.Node]:
    return [reader for user in node.users for reader in (_readers(user) if _op(user) in _VANISH else [user])]


def _layer(name: str, module: nn.Module, nodes: list[fx.Node], seen: Mapping[str, Call], folds: dict[str, str],
           uses: ParameterUses, steps: int) -> Layer:
    call = seen.get(name, Call(Seen((), SampleAxis(0)), Seen((), SampleAxis(0))))
    samples = call.reads.samples
    common: dict[str, Any] = {
        "name": name, "in_shape": call.reads.shape, "out_shape": call.writes.shape, "params": _own_params(module),
        "frames": 1 if samples is None else samples.each, "samples_first": samples is not None and samples.first,
        "not_compressible_reason": _locked(name, module, nodes, seen, uses),
    }
    if isinstance(module, Gates):
        if steps > 1:  # the observed call is one of these steps
            common |= {end: (steps, *common[end]) for end in ("in_shape", "out_shape")}
        return Layer(kind="recurrent", in_channels=module.in_features, out_channels=module.out_features,
                     bias=module.bias is not None, **common)
    if isinstance(module, Conv):
        return Layer(kind="conv", in_channels=module.in_channels, out_channels=module.out_channels,
                     transposed=isinstance(module, TransposedConv),
                     groups=module.groups, kernel=tuple(module.kernel_size), stride=tuple(module.stride),
                     bias=module.bias is not None, **common)
    if isinstance(module, nn.Linear):
        return Layer(kind="linear", in_channels=module.in_features, out_channels=module.out_features,
                     bias=module.bias is not None, **common)
    if isinstance(module, nn.Embedding):
        return Layer(kind="embedding", in_channels=module.embedding_dim, out_channels=module.num_embeddings, **common)
    if isinstance(module, Norm):
        return Layer(kind="norm", in_channels=module.num_features, out_channels=module.num_features,
                     folds_into=folds.get(name, ""), **common)
    return Layer(kind="other", out_channels=common["params"], in_channels=1, **common)


def _locked(name: str, module: nn.Module, nodes: list[fx.Node], seen: Mapping[str, Call], uses: ParameterUses) -> str:
    """Return why no technique may change a layer, or nothing where one may."""
    if isinstance(module, Norm):
        return ""
    if not isinstance(module, Conv | nn.Linear | nn.Embedding):
        return f"no technique for {type(module).__name__}"
    if name not in seen:
        return "its parent reads its weights directly, or it is never executed"
    if isinstance(module, nn.Embedding) and module.max_norm is not None:
        return "max_norm changes its weights while it runs"
    if uses.shared(name) and not isinstance(module, Gates):  # gates may serve every step
        return uses.shared(name)
    if not nodes:
        return "the traced graph does not show its weights as one layer"
    if isinstance(module, Conv) and len(seen[name].reads.shape) != module.weight.dim() - 1:
        return "it is called without an axis of samples"
    if _departs(module, seen[name].reads.shape):
        return f"the forward of {type(module).__name__} computes more than its weights do"
    if not module.weight.is_floating_point():
        return f"weights of type {module.weight.dtype}"
    if isinstance(module, Conv) and module.padding_mode != "zeros":
        return f"padding mode {module.padding_mode!r}"
    if isinstance(module, Conv) and isinstance(module.padding, str):
        return f"padding given as {module.padding!r}"
    return ""


_BASES = (nn.Conv1d, nn.Conv2d, nn.Conv3d, TransposedConv, nn.Linear, nn.Embedding)


def _departs(module: nn.Module, in_shape: tuple[int, ...]) -> bool:
    """Tell whether a subclass computes more than its base layer (it pads or scales): factors in its place would not."""
    base = next(kind for kind in _BASES if isinstance(module, kind))
    if type(module).forward is base.forward:
        return False
    tokens = base is nn.Embedding
    inputs = torch.zeros(2, *in_shape, dtype=torch.int64) if tokens else torch.ones(2, *in_shape)
    with torch.no_grad():
        try:
            actual, plain = module(inputs), base.forward(module, inputs)  # type: ignore[arg-type]
        except RuntimeError:  # a layer that pads by itself takes inputs that are smaller than its kernel
            return True
    return actual.shape != plain.shape or not torch.allclose(actual, plain, rtol=1e-4, atol=1e-6)
