"""Which channels must be cut together, found once by torch-pruning's dependency graph and recorded.

The graph itself cannot be copied or sent to a worker; the record (module name, side, channel indices) can,
and replaying it on a copy of the network costs milliseconds.

Source of the dependency analysis: Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import lcm

import numpy as np
import torch
from torch import Tensor, nn

from autocompress.core.layer import Group, Layer, LayerTable, Member

Side = str


@dataclass(frozen=True)
class Item:
    """Cutting channel `roots[i]` of the group takes index `indices[i]` of the module's `side`."""

    module: str
    side: Side
    indices: np.ndarray
    roots: np.ndarray


@dataclass(frozen=True)
class Coupling:
    """Groups as plain facts, the items behind each, and why channels of other layers stay."""

    groups: tuple[Group, ...]
    items: dict[str, tuple[Item, ...]]
    refused: dict[str, str] = field(default_factory=dict)


def record_coupling(model: nn.Module, example: Tensor, table: LayerTable) -> Coupling:
    """All groups that can really be cut: each survives a forward pass of a cut copy with the same output shape."""
    import torch_pruning

    names = {module: name for name, module in model.named_modules()}
    refused: dict[str, str] = {}
    recorded: dict[str, tuple[Group, tuple[Item, ...]]] = {}
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=example, verbose=False)
            for raw in graph.get_all_groups(root_module_types=[nn.Conv1d, nn.Conv2d, nn.Linear]):
                name = names.get(raw[0].dep.target.module, "")
                try:
                    recorded[name] = _record(name, raw, names, graph, table)
                except _Refused as error:
                    refused[name] = str(error)
    except Exception as error:  # the analysis fails on some architectures; everything else still works
        cause = next(iter(str(error).splitlines()), "")
        return Coupling((), {}, {"*": f"no dependency graph ({type(error).__name__}: {cause})"})
    kept = _survivors(model, example, recorded, refused)
    return Coupling(tuple(recorded[n][0] for n in kept), {n: recorded[n][1] for n in kept}, refused)


class _Refused(Exception):
    """A group that is left alone, with the reason."""


def _record(name: str, raw: object, names: Mapping[nn.Module, str], graph: object,
            table: LayerTable) -> tuple[Group, tuple[Item, ...]]:
    items: dict[tuple[str, Side], Item] = {}
    for entry in raw:  # type: ignore[attr-defined]
        module, target = entry.dep.target.module, names.get(entry.dep.target.module)
        if isinstance(module, nn.Parameter):
            raise _Refused(f"a bare parameter ({entry.dep.target.name}) depends on its channels")
        if target is None or not list(module.parameters(recurse=False)):
            continue  # elementwise operators, pooling, reshapes: they follow their input
        if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear | nn.BatchNorm1d | nn.BatchNorm2d):
            raise _Refused(f"{target} is a {type(module).__name__}, whose channels cannot be cut")
        locked = table.by_name[target].locked
        if locked:
            raise _Refused(f"{target}: {locked}")
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) or _depthwise(table.by_name[target]):
            side = "out"
        else:
            side = "out" if graph.is_out_channel_pruning_fn(entry.dep.handler) else "in"  # type: ignore[attr-defined]
        if (target, side) not in items:
            items[target, side] = Item(target, side, np.asarray(entry.idxs), np.asarray(entry.root_idxs))
    channels = table.by_name[name].out_channels
    blocks = 1
    members = []
    for item in items.values():
        layer = table.by_name[item.module]
        per_channel, rest = divmod(len(item.indices), channels)
        if rest or (np.bincount(item.roots, minlength=channels) != per_channel).any():
            raise _Refused(f"its channels reach {item.module} unevenly")
        members.append(Member(item.module, item.side, per_channel))  # type: ignore[arg-type]
        if layer.kind == "conv" and layer.groups > 1 and not _depthwise(layer):
            if not np.array_equal(item.indices, item.roots):
                raise _Refused(f"its channels reach the grouped convolution {item.module} out of order")
            blocks = lcm(blocks, layer.groups)
    if channels % blocks:
        raise _Refused("grouped convolutions of different group counts share its channels")
    return Group(name=name, channels=channels, members=tuple(members), blocks=blocks), tuple(items.values())


def _depthwise(layer: Layer) -> bool:
    return layer.groups > 1 and layer.groups == layer.in_channels == layer.out_channels


def _survivors(model: nn.Module, example: Tensor, recorded: dict[str, tuple[Group, tuple[Item, ...]]],
               refused: dict[str, str]) -> list[str]:
    """Cut copies must run and keep the output's shape: catches hard-coded sizes and the classifier itself."""
    with torch.no_grad():
        expected = model(example).shape

    def runs(groups: list[str]) -> str:
        kept = {n: _half(recorded[n][0]) for n in groups}
        cut = copy.deepcopy(model)
        try:
            cut_channels(cut, {n: recorded[n][1] for n in groups}, kept)
            with torch.no_grad():
                shape = cut(example).shape
        except Exception as error:  # any failure of the user's forward is a reason to leave the group alone
            return f"the network does not run with fewer of its channels ({next(iter(str(error).splitlines()), '')})"
        return "" if shape == expected else "its channels are the network's outputs"

    open_groups = [n for n in recorded if recorded[n][0].channels >= 2 * recorded[n][0].blocks]
    for name in open_groups[-1:]:  # the classifier is nearly always last: test it alone, then all others at once
        if problem := runs([name]):
            refused[name] = problem
            open_groups.remove(name)
    if runs(open_groups):
        for name in list(open_groups):
            if problem := runs([name]):
                refused[name] = problem
                open_groups.remove(name)
    return open_groups


def _half(group: Group) -> np.ndarray:
    per_block = group.channels // group.blocks
    return np.concatenate([np.arange(b * per_block, b * per_block + per_block // 2) for b in range(group.blocks)])


def cut_channels(model: nn.Module, items: Mapping[str, tuple[Item, ...]], kept: Mapping[str, np.ndarray]) -> None:
    """Remove from `model`, in place, every channel of each group that is not in `kept[group]`."""
    modules = dict(model.named_modules())
    for (name, side), gone in sorted(removed_indices(items, kept).items()):
        if gone and name in modules:  # not where the layer's block was dropped
            _cut(modules[name], side, gone)


def removed_indices(items: Mapping[str, tuple[Item, ...]],
                    kept: Mapping[str, np.ndarray]) -> dict[tuple[str, Side], set[int]]:
    """Indices of the original that each module's side loses: all cuts of one side are made at once."""
    removed: dict[tuple[str, Side], set[int]] = {}
    for name, channels in kept.items():
        alive = set(np.asarray(channels).tolist())
        for item in items[name]:
            gone = {int(i) for i, root in zip(item.indices, item.roots, strict=True) if int(root) not in alive}
            removed.setdefault((item.module, item.side), set()).update(gone)
    return removed


def _cut(module: nn.Module, side: Side, gone: set[int]) -> None:
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        keep = _rest(module.num_features, gone)
        for name in ("weight", "bias", "running_mean", "running_var"):
            _select(module, name, keep, 0)
        module.num_features = len(keep)
    elif isinstance(module, nn.Linear):
        keep = _rest(module.out_features if side == "out" else module.in_features, gone)
        _select(module, "weight", keep, 0 if side == "out" else 1)
        if side == "out":
            _select(module, "bias", keep, 0)
            module.out_features = len(keep)
        else:
            module.in_features = len(keep)
    elif isinstance(module, nn.Conv1d | nn.Conv2d):
        _cut_conv(module, side, gone)


def _cut_conv(module: nn.Conv1d | nn.Conv2d, side: Side, gone: set[int]) -> None:
    depthwise = module.groups > 1 and module.groups == module.in_channels == module.out_channels
    if side == "out":
        keep = _rest(module.out_channels, gone)
        _select(module, "weight", keep, 0)
        _select(module, "bias", keep, 0)
        module.out_channels = len(keep)
        if depthwise:
            module.in_channels = module.groups = len(keep)
    elif module.groups == 1:
        keep = _rest(module.in_channels, gone)
        _select(module, "weight", keep, 1)
        module.in_channels = len(keep)
    else:
        per_block, rows = module.in_channels // module.groups, module.out_channels // module.groups
        keep = _rest(module.in_channels, gone)
        blocks = [module.weight[b * rows:(b + 1) * rows, keep[keep // per_block == b] - b * per_block]
                  for b in range(module.groups)]
        module.weight = nn.Parameter(torch.cat(blocks).detach())
        module.in_channels = len(keep)


def _rest(count: int, gone: set[int]) -> Tensor:
    return torch.tensor([i for i in range(count) if i not in gone], dtype=torch.long)


def _select(module: nn.Module, name: str, keep: Tensor, dim: int) -> None:
    tensor = getattr(module, name, None)
    if tensor is None:
        return
    chosen = tensor.detach().index_select(dim, keep).contiguous()
    setattr(module, name, nn.Parameter(chosen) if isinstance(tensor, nn.Parameter) else chosen)
