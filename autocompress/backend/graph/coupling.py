"""Coupling groups as a record of which channels must be cut together, and structured pruning by that record.

The analysis (`label_propagation`, `coupling_groups`) runs once. Its record (module name, side, channel indices) can be
copied or sent to a worker, and replaying it on a copy of the network costs milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from autocompress.backend.graph.rescale import Scaling
from autocompress.backend.layers.kinds import Conv, Norm
from autocompress.core.layer import Group

Side = str


@dataclass(frozen=True)
class Item:
    """The share of one module in a group: cutting the group's channel `roots[i]` removes `indices[i]` of its `side`."""

    module: str
    side: Side
    indices: np.ndarray
    roots: np.ndarray


@dataclass(frozen=True)
class Coupling:
    """The coupling groups of a network, the items of each by its name, and by layer why other layers are not pruned."""

    groups: tuple[Group, ...]
    items: dict[str, tuple[Item, ...]]
    refused: dict[str, str] = field(default_factory=dict)
    # The proved scalings, by the module whose output channels can be rescaled.
    scalings: dict[str, Scaling] = field(default_factory=dict)


def cut_channels(model: nn.Module, items: Mapping[str, tuple[Item, ...]], remaining: Mapping[str, np.ndarray]) -> None:
    """Remove from `model`, in place, every channel of each group that is not in `kept[group]`."""
    modules = dict(model.named_modules())
    for (name, side), gone in sorted(removed_indices(items, remaining).items()):
        if gone and name in modules:  # not where the layer's block was dropped
            _cut(modules[name], side, gone)


def removed_indices(items: Mapping[str, tuple[Item, ...]],
                    remaining: Mapping[str, np.ndarray]) -> dict[tuple[str, Side], set[int]]:
    """Return the original's indices that each side of each module loses; all cuts of one side are made at once."""
    removed: dict[tuple[str, Side], set[int]] = {}
    for name, channels in remaining.items():
        alive = set(np.asarray(channels).tolist())
        for item in items[name]:
            gone = {int(i) for i, root in zip(item.indices, item.roots, strict=True) if int(root) not in alive}
            removed.setdefault((item.module, item.side), set()).update(gone)
    return removed


def _cut(module: nn.Module, side: Side, gone: set[int]) -> None:
    if isinstance(module, Norm):
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
    elif isinstance(module, Conv):
        _cut_conv(module, side, gone)


def _cut_conv(module: Conv, side: Side, gone: set[int]) -> None:
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
    selected = tensor.detach().index_select(dim, keep).contiguous()
    setattr(module, name, nn.Parameter(selected) if isinstance(tensor, nn.Parameter) else selected)
