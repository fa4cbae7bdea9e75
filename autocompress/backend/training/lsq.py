"""LSQ: quantisers with learned step sizes, so that weights are trained as they will be stored.

Source: Esser et al., "Learned Step Size Quantization" (ICLR 2020).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autocompress.backend.network.compressed import Compressed, integer_layers
from autocompress.backend.network.mask import Mask, Masked
from autocompress.backend.network.quantized_weight import (
    QuantizedWeight,
    largest_level,
    per_channel,
    round_to_levels,
    spread,
    top_level,
)
from autocompress.backend.quantize.rounding import start_weight


class _RoundToGrid(torch.autograd.Function):
    """Fake quantisation with the gradients of LSQ: the nearest level times the scale.

    Backward, weights inside the grid get the gradient straight through, and clipped weights get none. The scale gets
    level - ratio inside the grid and the top level outside (LSQ, equation 3), times `damping`. `factors` multiply the
    scale; they have the weight's shape, or are a single 1. All this takes few passes over memory, which is what costs
    at a few samples a step.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor, start: QuantizedWeight, factors: Tensor,
                damping: float) -> Tensor:
        step = per_channel(scale, weight) * factors
        ratio = weight / step
        levels = round_to_levels(ratio, start.bits, start.table, start.limit)
        ctx.save_for_backward(ratio, levels, factors)
        ctx.top, ctx.damping = top_level(start), damping
        return levels * step

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (gradient,), (ratio, levels, factors) = gradients, ctx.saved_tensors
        inside = torch.ops.aten.hardtanh_backward(gradient, ratio, -ctx.top, ctx.top)
        by_weight = (gradient * levels).addcmul_(inside, ratio, value=-1)
        if factors.dim():
            by_weight *= factors
        return inside, by_weight.sum(tuple(range(1, by_weight.dim()))) * ctx.damping, None, None, None


class LsqStep(nn.Module):
    """A parametrisation that rounds a weight to its grid with a learned scale per output channel (LSQ).

    The rest of the grid stays: a codebook as it was fitted, and the factors of runs of weights. The parameter is the
    scale in a unit in which the levels are about as large as evenly spaced ones; the unit is a power of two, which is
    exact. The scale's gradient is divided by the root of the number of its weights times the top level.
    """

    def __init__(self, start: QuantizedWeight) -> None:
        super().__init__()
        self._start = start
        largest = 1 if start.factors is None else 256
        self._unit = 2.0 ** round(math.log2(largest * top_level(start) / largest_level(start.bits, start.limit)))
        self.scale = nn.Parameter(start.scale * self._unit)
        self._damping = 1 / math.sqrt(start.levels[0].numel() * largest_level(start.bits, start.limit))
        if start.factors is None:
            self.register_buffer("factors", torch.ones(()), persistent=False)
        else:
            self.register_buffer("factors", spread(start.factors, start.group, start.levels), persistent=False)
        self.factors: Tensor

    def forward(self, weight: Tensor) -> Tensor:
        """Round a float weight to the values that it has in the file."""
        value: Tensor = _RoundToGrid.apply(  # type: ignore[no-untyped-call]
            weight, self._scale(), self._start, self.factors, self._damping)
        return value

    @torch.no_grad()
    def quantized(self, weight: Tensor) -> QuantizedWeight:
        """Return the trained weight as integers."""
        grid = replace(self._start, scale=self._scale().cpu())
        levels = round_to_levels(weight.detach().cpu() / grid.steps(), grid.bits, grid.table, grid.limit)
        return replace(grid, levels=levels.to(torch.int8))

    def _scale(self) -> Tensor:
        return self.scale.abs().clamp_min(1e-8) / self._unit


def learn_steps(start: Compressed) -> dict[str, LsqStep]:
    """Parametrise the weights of a network for training, in place: integer weights by LSQ, sparse weights by masks.

    Returns:
        The parametrisations of the integer weights, by module name.
    """
    model = start.model
    steps = {}
    for layer in integer_layers(start):
        weight = start.weights.get(layer.name) or start_weight(layer.weight.detach().cpu(), layer.args, mask=layer.mask)
        if layer.name in start.latent:
            layer.weight.data.copy_(start.latent[layer.name])
        steps[layer.name] = LsqStep(weight).to(layer.weight.device)
        parametrize.register_parametrization(model.get_submodule(layer.name), "weight", steps[layer.name], unsafe=True)
    for name, mask in start.masks.items():  # behind the rounding, whose grid may have no zero
        module = model.get_submodule(name)
        assert isinstance(module.weight, Tensor)
        parametrize.register_parametrization(module, "weight", Masked(mask).to(module.weight.device))
    return steps


def freeze_steps(model: nn.Module, steps: dict[str, LsqStep],
                 masks: dict[str, Mask]) -> tuple[dict[str, QuantizedWeight], dict[str, Tensor]]:
    """Remove the parametrisations, in place; return integers and the float weights behind them, by module name."""
    learned, latent = {}, {}
    for name, step in steps.items():
        module = model.get_submodule(name)
        original = module.parametrizations.weight.original.detach().clone()  # type: ignore[union-attr, operator]
        learned[name], latent[name] = step.quantized(original), original
        if name in masks:
            learned[name] = replace(learned[name], levels=learned[name].levels * masks[name].kept)
    for name in {*steps, *masks}:
        parametrize.remove_parametrizations(model.get_submodule(name), "weight", leave_parametrized=True)
    return learned, latent
