"""Importance of the channels of a coupling group, by the criteria of the pruning literature.

A group cuts rows and columns of several layers at once. Each layer's scores are scaled to a mean of one before they
are added, so that no tensor dominates the others (group importance, Fang et al., "DepGraph", CVPR 2023, section 3.3).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from autocompress.backend.graph.coupling import Item
from autocompress.backend.layers.kinds import Conv, Norm
from autocompress.backend.statistics.moments import Statistics
from autocompress.backend.statistics.reconstruct import as_matrix, removal_damage

# A criterion: scores by index of an item's side, or None where the criterion does not apply to the module.
Score = Callable[[nn.Module, Item, Statistics], Tensor | None]


def channel_scores(criterion: str, model: nn.Module, items: tuple[Item, ...], channels: int,
                   statistics: Statistics) -> np.ndarray:
    """Score the channels of a group; the larger, the more important.

    Where a criterion applies to no layer of the group (no norm for `bn-scale`, no reader for the activation ones), the
    L2 norm decides.

    Args:
        criterion: A criterion of `techniques.prune.CRITERIA`.
        model: The network.
        items: The items of the group.
        channels: The number of channels of the group.
        statistics: Statistics of the network on calibration data.

    Returns:
        The scores `(channels,)`.
    """
    if criterion == "random":
        return np.random.default_rng(zlib.crc32(items[0].module.encode())).random(channels)
    modules = dict(model.named_modules())
    total, scored = np.zeros(channels), False
    for item in items:
        values = _CRITERIA[criterion](modules[item.module], item, statistics)
        if values is None:
            continue
        scored = True
        scores = np.bincount(item.roots, weights=values.double().numpy()[item.indices % len(values)],
                             minlength=channels)
        total += scores / max(float(scores.mean()), 1e-30)
    return total if scored else channel_scores("l2", model, items, channels, statistics)


def _by_index(module: nn.Module, item: Item) -> Tensor | None:
    """Reshape the weight to `(indices of the item's side, rest)`; None for norms, which have no matrix."""
    if not isinstance(module, Conv | nn.Linear):
        return None
    weight = module.weight.detach()
    rows = weight if item.side == "out" or weight.shape[1] == 1 else weight.transpose(0, 1)
    return rows.flatten(1)


def _l2(module: nn.Module, item: Item, _: Statistics) -> Tensor | None:
    """Magnitude: the squared L2 norm of a channel's weights."""
    rows = _by_index(module, item)
    return None if rows is None else rows.double().square().sum(1)


def _l1(module: nn.Module, item: Item, _: Statistics) -> Tensor | None:
    """Magnitude: the L1 norm of a channel's weights (Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017).
    """
    rows = _by_index(module, item)
    return None if rows is None else rows.abs().sum(1)


def _lamp(module: nn.Module, item: Item, statistics: Statistics) -> Tensor | None:
    """LAMP: squared norm over those of all channels at least as large (Lee et al., "Layer-adaptive Sparsity for the
    Magnitude-based Pruning", ICLR 2021, for whole channels)."""
    squares = _l2(module, item, statistics)
    if squares is None:
        return None
    order = squares.argsort()
    left = squares[order].flip(0).cumsum(0).flip(0)
    return torch.empty_like(squares).scatter_(0, order, squares[order] / left.clamp_min(1e-30))


def _fpgm(module: nn.Module, item: Item, _: Statistics) -> Tensor | None:
    """FPGM: the sum of distances to all other channels (He et al., "Filter Pruning via Geometric Median", CVPR 2019).
    """
    rows = _by_index(module, item)
    return None if rows is None else torch.cdist(rows, rows).sum(1)


def _bn_scale(module: nn.Module, item: Item, _: Statistics) -> Tensor | None:
    """Network slimming: the factor of the norm (Liu et al., "Learning Efficient Convolutional Networks through Network
    Slimming", ICCV 2017)."""
    if isinstance(module, Norm) and module.weight is not None:
        return module.weight.detach().abs()
    return None


def _activation(module: nn.Module, item: Item, statistics: Statistics) -> Tensor | None:
    """The mean absolute value of a channel of the reader's input."""
    moments = statistics.moments(item.module) if item.side == "in" else None
    return None if moments is None else moments.magnitude


def _apoz(module: nn.Module, item: Item, statistics: Statistics) -> Tensor | None:
    """APoZ: the share of values that are not zero (Hu et al., "Network Trimming", 2016)."""
    moments = statistics.moments(item.module) if item.side == "in" else None
    return None if moments is None else moments.active


def _taylor(module: nn.Module, item: Item, statistics: Statistics) -> Tensor | None:
    """First-order Taylor importance: (gradient · weight)² (Molchanov et al., "Importance Estimation for Neural Network
    Pruning", CVPR 2019)."""
    sensitivity = statistics.sensitivity(item.module)
    return None if sensitivity is None else sensitivity.taylor(item.side == "out")


def _fisher(module: nn.Module, item: Item, statistics: Statistics) -> Tensor | None:
    """Diagonal Fisher information times squared weights (LeCun et al., "Optimal Brain Damage", 1990)."""
    sensitivity = statistics.sensitivity(item.module)
    return None if sensitivity is None else sensitivity.fisher(item.side == "out")


def _reconstruction(module: nn.Module, item: Item, statistics: Statistics) -> Tensor | None:
    """OBS: the output variance that is lost when a channel goes and its reader is refitted on the others (Hassibi &
    Stork, "Second Order Derivatives for Network Pruning", NIPS 1992)."""
    moments = statistics.moments(item.module) if item.side == "in" else None
    if moments is None or len(moments.mean) > 1:
        return None
    assert isinstance(module.weight, Tensor)
    d = moments.mean.shape[1]
    return removal_damage(as_matrix(module.weight.detach(), d), moments.covariance[0], d // len(moments.magnitude),
                          item.module)


_CRITERIA: dict[str, Score] = {
    "l1": _l1, "l2": _l2, "bn-scale": _bn_scale, "lamp": _lamp, "fpgm": _fpgm, "activation": _activation,
    "apoz": _apoz, "taylor": _taylor, "fisher": _fisher, "reconstruction": _reconstruction,
}
