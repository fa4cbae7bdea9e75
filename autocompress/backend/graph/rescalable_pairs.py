"""Search for rescalable pairs: a layer whose output channels can be multiplied by factors that its readers divide by.

Such a rescaling leaves the network's function as it is. It needs operations in between that let a positive factor
through, channel by channel: ReLU and its relatives, pooling, reshaping. The search reads the traced graph, and each
result is proved on the network itself with random weights: the readers' outputs must change when the source alone is
scaled, and must not change when source and readers are.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from autocompress.backend.graph import aten_ops as ops
from autocompress.backend.graph.channel_labels import along_axis, compact, core, varying
from autocompress.backend.graph.cut_check import close, layer_outputs, randomised
from autocompress.backend.graph.rescale import Scaling, rescale, scale_output
from autocompress.backend.layers.kinds import CONV_OPS
from autocompress.core.layer import LayerTable
from autocompress.tensors.named import Inputs, uniform

# Operators that let a positive factor through. Those of `_CLIPS` let it through below their upper end only.
ELEMENTWISE = {"relu", "leaky_relu", "prelu", "abs", "dropout", "feature_dropout", "alpha_dropout", "contiguous",
               "clone", "detach", "alias"}
_CLIPS = {"hardtanh", "relu6", "clamp", "clamp_max", "clamp_min"}
_REDUCTIONS = {"mean", "sum", "amax", "amin"}
_MOVES = {"view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "movedim", "squeeze",
          "unsqueeze"}
# Operators whose result can be scaled by their weight and bias, with the position of the weight among the operands.
_SOURCES = dict.fromkeys((*CONV_OPS, "linear", "batch_norm"), 1) | {"layer_norm": 2}


@dataclass
class _FollowedChannels:
    """A tensor that holds the channels of a source.

    Attributes:
        node: The node that makes the tensor.
        axis: The axis that the channels lie along.
        index: The source's channel at each position of that axis, `(M,)`.
        cap: The least value at which an operation on the way clips the tensor; None where none does.
    """

    node: fx.Node
    axis: int
    index: Tensor
    cap: float | None = None


class _NotRescalable(Exception):
    """Channels cannot be rescaled; the message says why."""


def find_scalings(nodes: Iterable[fx.Node], table: LayerTable,
                  owner: Mapping[str, str]) -> tuple[dict[str, Scaling], dict[str, str]]:
    """Find every `Scaling` that the graph allows; none of them is proved yet.

    Args:
        nodes: The nodes of the traced graph, in order.
        table: The layer table of the network.
        owner: The module that owns a weight, by the weight's placeholder.

    Returns:
        The scalings by the name of their source, and for every other layer the reason why its input cannot be rescaled.
    """
    nodes = list(nodes)
    search = _ScalingSearch(table, owner, nodes)
    scalings: dict[str, Scaling] = {}
    refused: dict[str, str] = {}
    for node in nodes:
        name = search.layer_of(node)
        if name is not None and table.by_name[name].kind in ("conv", "linear") and table.by_name[name].compressible:
            try:
                scaling = search.scaling(node)
                scalings[scaling.source] = scaling
            except _NotRescalable as why:
                refused[name] = str(why)
    return scalings, refused


class _ScalingSearch:
    """Walks from a reader back to the source of its channels, and from there to all of their readers."""

    def __init__(self, table: LayerTable, owner: Mapping[str, str], nodes: Iterable[fx.Node]) -> None:
        self._table, self._owner = table, owner
        self._called = Counter(filter(None, map(self.layer_of, nodes)))

    def layer_of(self, node: fx.Node) -> str | None:
        """Name the module whose weight the operator multiplies with; None where it is no layer."""
        at = _SOURCES.get(ops.op_name(node)) if node.op == "call_function" else None
        return None if at is None or len(node.args) <= at else self._owner.get(ops.name_of(node.args[at]))

    def scaling(self, reader: fx.Node) -> Scaling:
        """Return the scaling of the channels that the layer at node `reader` reads, or raise `_NotRescalable`."""
        node = reader.args[0]
        assert isinstance(node, fx.Node)
        while not (source := self.layer_of(node)):
            if node.op == "placeholder":
                raise _NotRescalable("it reads the network's input")
            if not _passes_factors(node):
                raise _NotRescalable(f"it reads the result of {ops.place_of(node)}")
            node = node.all_input_nodes[0]
        name = ops.op_name(node)
        layer = self._table.by_name.get(source)
        if layer is None or self._called[source] > 1 or (layer.not_compressible_reason and name != "layer_norm"):
            raise _NotRescalable(f"it reads what {source} writes, and that cannot be changed")
        shape = ops.shape_of(node)
        if name == "layer_norm" and (len(node.args[1]) != 1 or not shape):  # type: ignore[arg-type]
            raise _NotRescalable(f"it reads what {source} writes, which is a norm over more than channels")
        axis = len(shape) - 1 if name in ("linear", "layer_norm") else 1
        readers: dict[str, int] = {}
        caps = [cap for cap in self._follow(_FollowedChannels(node, axis, torch.arange(shape[axis])), source, readers)
                if cap is not None]
        return Scaling(source, readers, min(caps, default=None))

    def _follow(self, path: _FollowedChannels, source: str, readers: dict[str, int]) -> list[float | None]:
        """Enter every layer that reads the channels in `readers`, and return the cap in front of each of them."""
        caps = []
        for user in path.node.users:
            name = self.layer_of(user)
            if user.op == "output":
                raise _NotRescalable(f"what {source} writes is the network's output")
            if name is not None and ops.op_name(user) in (*CONV_OPS, "linear"):
                readers[name] = self._read(path, user, name, source)
                caps.append(path.cap)
            elif _passes_factors(user):
                caps += self._follow(_behind(path, user), source, readers)
            else:
                raise _NotRescalable(f"what {source} writes also reaches {ops.place_of(user)}")
        return caps

    def _read(self, path: _FollowedChannels, user: fx.Node, name: str, source: str) -> int:
        """Count how often in a row the reader `name` has each channel, or raise `_NotRescalable`."""
        layer = self._table.by_name.get(name)
        if layer is None or layer.not_compressible_reason or self._called[name] > 1 or user.args.count(path.node) != 1 \
                or user.args[0] is not path.node:
            raise _NotRescalable(f"what {source} writes also reaches {name}, which cannot be changed")
        axis = len(ops.shape_of(path.node)) - 1 if layer.kind == "linear" else 1
        channels = int(path.index.max()) + 1
        repeat = len(path.index) // channels
        if path.axis != axis or not torch.equal(path.index, torch.arange(channels).repeat_interleave(repeat)):
            raise _NotRescalable(f"what {source} writes reaches {name} in another order")
        return repeat


def _passes_factors(node: fx.Node) -> bool:
    """Tell whether the operator lets a positive factor on a channel through."""
    name = ops.op_name(node)
    if name in _CLIPS:
        low, _ = _clip(node)
        return low in (None, 0)
    return bool(name in ELEMENTWISE | _REDUCTIONS | _MOVES or ops.WINDOWS.fullmatch(name)) \
        and isinstance(node.meta.get("val"), Tensor)


def _clip(node: fx.Node) -> tuple[Any, Any]:
    """Return the lower and the upper end of a clipping operator; None for an end that it does not have."""
    name = ops.op_name(node)
    if name == "relu6":
        return 0, 6.0
    if name == "hardtanh":
        return ops.argument(node, "min_val"), ops.argument(node, "max_val")
    return ops.argument(node, "min"), ops.argument(node, "max")


def _behind(path: _FollowedChannels, user: fx.Node) -> _FollowedChannels:
    """Return where the channels lie in the result of an operator, or raise `_NotRescalable`."""
    name, shape = ops.op_name(user), ops.shape_of(path.node)
    axis, index, cap = path.axis, path.index, path.cap
    if name in _CLIPS:
        high = _clip(user)[1]
        if isinstance(high, fx.Node) or (high is not None and high <= 0):
            raise _NotRescalable(f"{ops.place_of(user)} clips")
        cap = cap if high is None else min(float(high), cap if cap is not None else float(high))
    elif name in _REDUCTIONS:
        dim_argument = ops.argument(user, "dim")
        dim_list = [dim_argument] if isinstance(dim_argument, int) else dim_argument or range(len(shape))
        dims = {dim % len(shape) for dim in dim_list}
        if axis in dims:
            raise _NotRescalable(f"{ops.place_of(user)} mixes its channels")
        axis -= 0 if ops.argument(user, "keepdim") else sum(dim < axis for dim in dims)
    elif window := ops.WINDOWS.fullmatch(name):
        if axis >= len(shape) - int(next(filter(None, window.groups()))):
            raise _NotRescalable(f"{ops.place_of(user)} mixes its channels")
    elif name in _MOVES:
        labels = along_axis(index + 1, axis, shape)  # from 1, since label 0 means "no channel"
        operator: Any = torch.reshape if name in ("view", "_unsafe_view") else user.target
        labels_behind = compact(operator(labels, *user.args[1:], **user.kwargs))
        axes = varying(labels_behind)
        if len(axes) != 1:
            raise _NotRescalable(f"{ops.place_of(user)} mixes its channels")
        axis, index = axes[0], core(labels_behind).flatten() - 1
    return _FollowedChannels(user, axis, index, cap)


# Share of the clip's value that clipped channels are scaled down to for the proof: no value may reach the clip.
_CLIP_MARGIN = 1 / 16


def unsafe_rescalings(model: nn.Module, example: Inputs, scalings: Mapping[str, Scaling]) -> dict[str, str]:
    """Check scalings on a copy of the network with random weights.

    All are tried at once, and each by itself only where that fails.

    Args:
        model: The network; it stays as it is.
        example: An input `(N, …)`, for its shape and its type.
        scalings: The scalings to check, by source.

    Returns:
        The reason against each source whose rescaling changes what the network computes.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        redrawn = randomised(copy.deepcopy(model).eval())
        inputs = uniform(example)
        factors: dict[str, Tensor] = {}
        for source in scalings:
            weight = redrawn.get_submodule(source).weight
            assert isinstance(weight, Tensor)
            factors[source] = 2.0 ** torch.randint(-2, 3, (len(weight),))  # powers of two are exact in floating point
    for source, scaling in scalings.items():
        if scaling.cap is not None:
            scale_output(redrawn, source, torch.full_like(factors[source], _CLIP_MARGIN * scaling.cap / 6))
    before = layer_outputs(redrawn, inputs)

    def problem(tried: Mapping[str, Scaling]) -> str:
        """Say what goes wrong when these sources are rescaled, or return nothing."""
        one_sided, both = copy.deepcopy(redrawn), copy.deepcopy(redrawn)
        for source, scaling in tried.items():
            scale_output(one_sided, source, factors[source])
            rescale(both, scaling, factors[source])
        changed, after = layer_outputs(one_sided, inputs), layer_outputs(both, inputs)
        for name, expected in before.items():
            if name in tried:
                axis = -1 if isinstance(redrawn.get_submodule(name), nn.Linear) else 1
                expected = expected * along_axis(factors[name], axis % expected.dim(), tuple(expected.shape))
            if not close(after[name], expected):
                return f"{name or 'the network'} answers differently when its input is rescaled"
        unaffected = [name for scaling in tried.values() for name in scaling.readers
                      if close(changed[name], before[name])]
        return f"{unaffected[0]} does not react to its input" if unaffected else ""

    if not scalings or not problem(scalings):
        return {}
    alone = {source: why for source, scaling in scalings.items() if (why := problem({source: scaling}))}
    return alone or dict.fromkeys(scalings, "it cannot be rescaled together with other layers")
