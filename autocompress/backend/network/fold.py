"""Batch-norm folding: norms are absorbed into the layers before them, as in the exported file."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from autocompress.backend.layers.kinds import Norm
from autocompress.backend.network.compressed import Compressed, replace_module, weight_bits
from autocompress.backend.network.mask import Mask
from autocompress.backend.network.quantized_weight import QuantizedWeight, per_channel
from autocompress.core.layer import LayerTable
from autocompress.techniques.drop import dropped_layers


@dataclass(frozen=True)
class Folded:
    """A network without foldable norms, its integer weights after folding and its masks, by module name."""

    model: nn.Module
    weights: dict[str, QuantizedWeight]
    masks: dict[str, Mask] = field(default_factory=dict)


def fold_norms(compressed: Compressed, table: LayerTable) -> Folded:
    """Return a copy of a network in which every norm of `table` that folds is absorbed; integers stay integers.

    A norm's factor per output channel moves into the scales of a quantised weight exactly; a weight of 16 bits is
    rounded again, as the file stores it.
    """
    model = copy.deepcopy(compressed.model).cpu().eval()
    weights = dict(compressed.weights)
    gone = dropped_layers(table, compressed.plan)
    with torch.no_grad():
        for layer in table.layers:
            if not layer.folds_into or layer.name in gone:
                continue
            norm = model.get_submodule(layer.name)
            name, target = _last_leaf(model, layer.folds_into)
            factor, offset = _affine(norm)
            bias = target.bias if isinstance(target.bias, Tensor) else torch.zeros_like(offset)
            target.bias = nn.Parameter(bias * factor + offset)
            if name in weights:
                weights[name] = weights[name].rescaled(factor)
                target.weight = nn.Parameter(weights[name].dequantized())
            else:
                assert isinstance(target.weight, Tensor)
                target.weight = nn.Parameter(target.weight * per_channel(factor, target.weight))
            replace_module(model, layer.name, behind_norm(norm))
        for name, bits in weight_bits(model, compressed.plan).items():
            if bits == 16:
                weight = model.get_submodule(name).weight
                assert isinstance(weight, Tensor)
                weight.copy_(weight.half())
    return Folded(model, weights, compressed.masks)


def behind_norm(norm: nn.Module) -> nn.Module:
    """Return the modules that a norm runs after the normalisation: the activation of a subclass that has one."""
    rest = [child for child in norm.children() if not isinstance(child, nn.Identity | nn.Dropout)]
    return nn.Sequential(*rest) if rest else nn.Identity()


def _last_leaf(model: nn.Module, name: str) -> tuple[str, nn.Module]:
    """Return the name and module of a layer, or of the last factor of a decomposed layer."""
    module = model.get_submodule(name)
    if isinstance(module, nn.Sequential):
        return f"{name}.{len(module) - 1}", module[-1]
    return name, module


def _affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the factor and offset of a BatchNorm in eval mode, each `(C,)`."""
    assert isinstance(norm, Norm)
    assert norm.running_mean is not None and norm.running_var is not None
    gamma = norm.weight if norm.weight is not None else torch.ones_like(norm.running_var)
    beta = norm.bias if norm.bias is not None else torch.zeros_like(norm.running_mean)
    factor = gamma / torch.sqrt(norm.running_var + norm.eps)
    return factor, beta - norm.running_mean * factor
