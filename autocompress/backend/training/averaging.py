"""Averages of weights: the moving average of one training, and the soup of several trainings of one structure.

Sources: Polyak & Juditsky, "Acceleration of Stochastic Approximation by Averaging" (1992), as a moving average;
Wortsman et al., "Model Soups" (ICML 2022).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from autocompress.backend.network.compressed import Compressed, IntegerLayer, integer_layers, without_rounding
from autocompress.backend.network.quantized_weight import QuantizedWeight, round_to_levels
from autocompress.backend.quantize.rounding import quantize, start_weight
from autocompress.core.plan import Receipt
from autocompress.techniques.decompose import DECOMPOSE
from autocompress.techniques.drop import DROP
from autocompress.techniques.prune import PRUNE

_STRUCTURE = (DROP.name, PRUNE.name, DECOMPOSE.name)


class MovingAverage:
    """The exponential moving average of parameters that are being trained.

    The decay rises from 0.1 as (1 + n) / (10 + n) up to `decay`, so that the average of a short training is not
    that of its beginning.
    """

    def __init__(self, parameters: Sequence[Tensor], decay: float) -> None:
        self._parameters = [p.detach() for p in parameters]
        self._average = [p.clone() for p in self._parameters]
        self._decay, self._updates = decay, 0

    def update(self) -> None:
        """Add the present parameters to the average."""
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        self._updates += 1
        torch._foreach_lerp_(self._average, self._parameters, 1 - decay)

    def apply(self) -> None:
        """Overwrite the parameters, in place, by their averages."""
        torch._foreach_copy_(self._parameters, self._average)


def soup(members: Sequence[Compressed], calibration: Tensor) -> Compressed:
    """Average networks to one: the model soup of `members`, under the first member's plan.

    Integer weights are rounded again, and norms are re-estimated.

    Args:
        members: Trained networks; they stay as they are.
        calibration: Normalised inputs `(N, …)`.

    Raises:
        ValueError: The members were not dropped, pruned, decomposed and sparsified alike, so that a weight of one is
            not the same weight in another.
    """
    first = members[0]
    if any(_structure(member) != _structure(first) or not _same_masks(first, member) for member in members):
        raise ValueError("the members of a soup must be dropped, pruned, decomposed and sparse alike, but they are not")
    receipts = without_rounding(first.receipts)
    result = Compressed(copy.deepcopy(first.model), first.plan, receipts, masks=first.masks)
    for name, parameter in result.model.named_parameters():
        parameter.data.copy_(_mean([_latent_parameter(member, name) for member in members]))
    integers = {}
    for layer in integer_layers(result):
        weights = [member.weights[layer.name] for member in members if layer.name in member.weights]
        integers[layer.name] = _rounded(layer, weights, len(members))
        result.latent[layer.name] = layer.weight.detach().clone()
        layer.weight.data.copy_(integers[layer.name].dequantized())
    quantize(result, calibration, integers)
    result.receipts.append(Receipt("", "soup", {"members": [member.plan.fingerprint for member in members]}))
    return result


def _structure(member: Compressed) -> tuple[list[Receipt], dict[str, torch.Size]]:
    receipts = [receipt for receipt in member.receipts if receipt.technique in _STRUCTURE]
    return receipts, {name: tensor.shape for name, tensor in member.model.state_dict().items()}


def _same_masks(one: Compressed, other: Compressed) -> bool:
    return one.masks.keys() == other.masks.keys() and all(
        torch.equal(mask.kept, other.masks[name].kept) for name, mask in one.masks.items())


def _latent_parameter(member: Compressed, name: str) -> Tensor:
    """Return a parameter as it was before it was rounded, where the member has it, or else as it is."""
    module, _, kind = name.rpartition(".")
    if kind == "weight" and module in member.latent:
        return member.latent[module]
    return member.model.get_parameter(name).detach()


def _mean(values: Sequence[Tensor]) -> Tensor:
    """Compute a running mean, which for equal tensors is exactly these."""
    mean = values[0].clone()
    for count, value in enumerate(values[1:], start=2):
        mean.lerp_(value, 1 / count)
    return mean


def _rounded(layer: IntegerLayer, weights: Sequence[QuantizedWeight], count: int) -> QuantizedWeight:
    """Round a weight on the grid with the members' mean scales where all `count` have one grid, else on a new grid."""
    weight = layer.weight.detach()
    if len(weights) < count or not all(_on_one_grid(weights[0], other) for other in weights):
        return start_weight(weight, layer.args, mask=layer.mask)
    mean = replace(weights[0], scale=_mean([q.scale for q in weights]))
    levels = round_to_levels(weight / mean.steps(), mean.bits, mean.table, mean.limit)
    return replace(mean, levels=(levels if layer.mask is None else levels * layer.mask).to(torch.int8))


def _on_one_grid(one: QuantizedWeight, other: QuantizedWeight) -> bool:
    return (one.bits, one.limit) == (other.bits, other.limit) and _equal(one.table, other.table) \
        and _equal(one.factors, other.factors)


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other or (one is not None and other is not None and torch.equal(one, other))
