"""Where channels can be rescaled without a change of what the network computes: written times a factor, read by the
layers behind divided by it.

That needs operations between them that let a positive factor through, channel by channel: ReLU and its relatives,
pooling, reshaping. They are found in the traced graph, and each find is proved on the network itself, with weights
drawn afresh: scaled by one side alone the readers must answer differently, by both sides the same.
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

ELEMENTWISE = {"relu", "leaky_relu", "prelu", "abs", "dropout", "feature_dropout", "alpha_dropout", "contiguous",
               "clone", "detach", "alias"}
"""Operators that let a positive factor through; those of `_CLIPS` do below their upper end."""
_CLIPS = {"hardtanh", "relu6", "clamp", "clamp_max", "clamp_min"}
_SUMS = {"mean", "sum", "amax", "amin"}
_MOVES = {"view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "movedim", "squeeze",
          "unsqueeze"}
_SOURCES = dict.fromkeys((*CONV_OPS, "linear", "batch_norm"), 1) | {"layer_norm": 2}
"""Operators whose result can be scaled by their weight and bias, and the operand that is the weight."""


@dataclass
class _Path:
    """A tensor that holds channels of a source: `index` (M,) says which along its `axis`."""

    node: fx.Node
    axis: int
    index: Tensor
    cap: float | None = None


class _Stop(Exception):
    """Why a tensor cannot be followed further."""


def find_scalings(nodes: Iterable[fx.Node], table: LayerTable,
                  owner: Mapping[str, str]) -> tuple[dict[str, Scaling], dict[str, str]]:
    """By the name of the source; and why there is none, for the other layers that read.

    `owner`: placeholder of a weight → module.
    """
    nodes = list(nodes)
    search = _Search(table, owner, nodes)
    found: dict[str, Scaling] = {}
    refused: dict[str, str] = {}
    for node in nodes:
        name = search.layer_of(node)
        if name is not None and table.by_name[name].kind in ("conv", "linear") and table.by_name[name].compressible:
            try:
                scaling = search.scaling(node)
                found[scaling.source] = scaling
            except _Stop as why:
                refused[name] = str(why)
    return found, refused


class _Search:
    def __init__(self, table: LayerTable, owner: Mapping[str, str], nodes: Iterable[fx.Node]) -> None:
        self._table, self._owner = table, owner
        self._called = Counter(filter(None, map(self.layer_of, nodes)))

    def layer_of(self, node: fx.Node) -> str | None:
        """The module whose weight an operator multiplies with."""
        place = _SOURCES.get(ops.op_name(node)) if node.op == "call_function" else None
        return None if place is None or len(node.args) <= place else self._owner.get(ops.name_of(node.args[place]))

    def scaling(self, reader: fx.Node) -> Scaling:
        """Of what `reader` reads."""
        node = reader.args[0]
        assert isinstance(node, fx.Node)
        while not (known := self.layer_of(node)):
            if node.op == "placeholder":
                raise _Stop("it reads the network's input")
            if not _passes(node):
                raise _Stop(f"it reads the result of {ops.place_of(node)}")
            node = node.all_input_nodes[0]
        name = ops.op_name(node)
        layer = self._table.by_name.get(known)
        if layer is None or self._called[known] > 1 or (layer.not_compressible_reason and name != "layer_norm"):
            raise _Stop(f"it reads what {known} writes, and that cannot be changed")
        shape = ops.shape_of(node)
        if name == "layer_norm" and (len(node.args[1]) != 1 or not shape):  # type: ignore[arg-type]
            raise _Stop(f"it reads what {known} writes, which is a norm over more than channels")
        axis = len(shape) - 1 if name in ("linear", "layer_norm") else 1
        readers: dict[str, int] = {}
        caps = [cap for cap in self._follow(_Path(node, axis, torch.arange(shape[axis])), known, readers)
                if cap is not None]
        return Scaling(known, readers, min(caps, default=None))

    def _follow(self, path: _Path, source: str, readers: dict[str, int]) -> list[float | None]:
        """Fill `readers` with all that read it; the values at which it is clipped before each."""
        caps = []
        for user in path.node.users:
            name = self.layer_of(user)
            if user.op == "output":
                raise _Stop(f"what {source} writes is the network's output")
            if name is not None and ops.op_name(user) in (*CONV_OPS, "linear"):
                readers[name] = self._read(path, user, name, source)
                caps.append(path.cap)
            elif _passes(user):
                caps += self._follow(_moved(path, user), source, readers)
            else:
                raise _Stop(f"what {source} writes also reaches {ops.place_of(user)}")
        return caps

    def _read(self, path: _Path, user: fx.Node, name: str, source: str) -> int:
        layer = self._table.by_name.get(name)
        if layer is None or layer.not_compressible_reason or self._called[name] > 1 or user.args.count(path.node) != 1 \
                or user.args[0] is not path.node:
            raise _Stop(f"what {source} writes also reaches {name}, which cannot be changed")
        axis = len(ops.shape_of(path.node)) - 1 if layer.kind == "linear" else 1
        channels = int(path.index.max()) + 1
        repeat = len(path.index) // channels
        if path.axis != axis or not torch.equal(path.index, torch.arange(channels).repeat_interleave(repeat)):
            raise _Stop(f"what {source} writes reaches {name} in another order")
        return repeat


def _passes(node: fx.Node) -> bool:
    """Whether a positive factor on a channel goes through the operator."""
    name = ops.op_name(node)
    if name in _CLIPS:
        low, _ = _clip(node)
        return low in (None, 0)
    return bool(name in ELEMENTWISE | _SUMS | _MOVES or ops.WINDOWS.fullmatch(name)) \
        and isinstance(node.meta.get("val"), Tensor)


def _clip(node: fx.Node) -> tuple[Any, Any]:
    """Lower and upper end, None where there is none."""
    name = ops.op_name(node)
    if name == "relu6":
        return 0, 6.0
    if name == "hardtanh":
        return ops.argument(node, "min_val"), ops.argument(node, "max_val")
    return ops.argument(node, "min"), ops.argument(node, "max")


def _moved(path: _Path, user: fx.Node) -> _Path:
    """The same channels behind an operator."""
    name, shape = ops.op_name(user), ops.shape_of(path.node)
    axis, index, cap = path.axis, path.index, path.cap
    if name in _CLIPS:
        high = _clip(user)[1]
        if isinstance(high, fx.Node) or (high is not None and high <= 0):
            raise _Stop(f"{ops.place_of(user)} clips")
        cap = cap if high is None else min(float(high), cap if cap is not None else float(high))
    elif name in _SUMS:
        asked = ops.argument(user, "dim")
        dims = {dim % len(shape) for dim in ([asked] if isinstance(asked, int) else asked or range(len(shape)))}
        if axis in dims:
            raise _Stop(f"{ops.place_of(user)} mixes its channels")
        axis -= 0 if ops.argument(user, "keepdim") else sum(dim < axis for dim in dims)
    elif window := ops.WINDOWS.fullmatch(name):
        if axis >= len(shape) - int(next(filter(None, window.groups()))):
            raise _Stop(f"{ops.place_of(user)} mixes its channels")
    elif name in _MOVES:
        labels = along_axis(index + 1, axis, shape)  # 0 would not do for labels
        operator: Any = torch.reshape if name in ("view", "_unsafe_view") else user.target
        moved = compact(operator(labels, *user.args[1:], **user.kwargs))
        axes = varying(moved)
        if len(axes) != 1:
            raise _Stop(f"{ops.place_of(user)} mixes its channels")
        axis, index = axes[0], core(moved).flatten() - 1
    return _Path(user, axis, index, cap)


_SHRINK = 1 / 16
"""What clipped channels are made smaller by for the proof: nothing is to reach the clip."""


def unsafe_rescalings(model: nn.Module, example: Tensor, found: Mapping[str, Scaling]) -> dict[str, str]:
    """Those that change what the network computes after all, with the reason. All are tried at once; only if that
    fails, each by itself."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = randomised(copy.deepcopy(model).eval())
        inputs = (2 * torch.rand(example.shape)).to(example.dtype)  # 0 and 1 where tokens are asked for
        factors: dict[str, Tensor] = {}
        for source in found:
            weight = drawn.get_submodule(source).weight
            assert isinstance(weight, Tensor)
            factors[source] = 2.0 ** torch.randint(-2, 3, (len(weight),))  # powers of two round nothing
    for source, scaling in found.items():
        if scaling.cap is not None:
            scale_output(drawn, source, torch.full_like(factors[source], _SHRINK * scaling.cap / 6))
    before = layer_outputs(drawn, inputs)

    def problem(chosen: Mapping[str, Scaling]) -> str:
        one_sided, both = copy.deepcopy(drawn), copy.deepcopy(drawn)
        for source, scaling in chosen.items():
            scale_output(one_sided, source, factors[source])
            rescale(both, scaling, factors[source])
        changed, after = layer_outputs(one_sided, inputs), layer_outputs(both, inputs)
        for name, expected in before.items():
            if name in chosen:
                axis = -1 if isinstance(drawn.get_submodule(name), nn.Linear) else 1
                expected = expected * along_axis(factors[name], axis % expected.dim(), tuple(expected.shape))
            if not close(after[name], expected):
                return f"{name or 'the network'} answers differently when its input is rescaled"
        deaf = [name for scaling in chosen.values() for name in scaling.readers if close(changed[name], before[name])]
        return f"{deaf[0]} does not react to its input" if deaf else ""

    if not found or not problem(found):
        return {}
    alone = {source: why for source, scaling in found.items() if (why := problem({source: scaling}))}
    return alone or dict.fromkeys(found, "it cannot be rescaled together with other layers")
