"""Averages of weights: along one training, and over trainings of one structure.

Polyak & Juditsky, "Acceleration of Stochastic Approximation by Averaging" (1992), as a moving average; Wortsman et
al., "Model Soups" (ICML 2022).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from autocompress.backend.compress import Compressed, quantize, weight_bits
from autocompress.backend.quantization import QuantizedWeight, per_channel, quantize_weight, round_to_levels
from autocompress.core.plan import Receipt

_STRUCTURE = ("drop", "prune", "decompose")


class MovingAverage:
    """Exponential moving average of `parameters`, in step with them.

    The decay rises from 0.1 as (1 + n) / (10 + n) up to `decay`, so that the average of a short training is not
    that of its beginning.
    """

    def __init__(self, parameters: Sequence[Tensor], decay: float) -> None:
        self._parameters = [p.detach() for p in parameters]
        self._average = [p.clone() for p in self._parameters]
        self._decay, self._updates = decay, 0

    def update(self) -> None:
        """Take in the parameters as they are now."""
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        self._updates += 1
        torch._foreach_lerp_(self._average, self._parameters, 1 - decay)

    def apply(self) -> None:
        """Give the parameters, in place, their averages."""
        torch._foreach_copy_(self._parameters, self._average)


def soup(members: Sequence[Compressed], calibration: Tensor) -> Compressed:
    """One network with the mean weights of `members`, of the first one's plan: rounded again where that has integer
    weights, norms re-estimated on `calibration` `(N, …)`. Members are left alone.

    ValueError unless all were dropped, pruned and decomposed alike: only then is a weight of one the same weight in
    another.
    """
    first = members[0]
    if any(_structure(member) != _structure(first) for member in members):
        raise ValueError("the members of a soup must be dropped, pruned and decomposed alike, but they are not")
    receipts = [receipt for receipt in first.receipts if receipt.technique != "quantize"]
    result = Compressed(copy.deepcopy(first.model), first.plan, receipts)
    for name, parameter in result.model.named_parameters():
        parameter.data.copy_(_mean([_value(member, name) for member in members]))
    integers = {}
    for name, bits in weight_bits(result.model, result.plan).items():
        if bits > 8:
            continue
        weight = result.model.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        known = [member.weights[name] for member in members if name in member.weights]
        integers[name] = _rounded(weight.detach(), bits, known, len(members))
        result.latent[name] = weight.detach().clone()
        weight.data.copy_(integers[name].dequantized())
    quantize(result, calibration, integers)
    result.receipts.append(Receipt("", "soup", {"members": [member.plan.fingerprint for member in members]}))
    return result


def _structure(member: Compressed) -> tuple[list[Receipt], dict[str, torch.Size]]:
    receipts = [receipt for receipt in member.receipts if receipt.technique in _STRUCTURE]
    return receipts, {name: tensor.shape for name, tensor in member.model.state_dict().items()}


def _value(member: Compressed, name: str) -> Tensor:
    """A parameter before it was rounded, where that is known."""
    module, _, kind = name.rpartition(".")
    if kind == "weight" and module in member.latent:
        return member.latent[module]
    return member.model.get_parameter(name).detach()


def _mean(values: Sequence[Tensor]) -> Tensor:
    """Running, so that the mean of equal tensors is exactly they."""
    mean = values[0].clone()
    for count, value in enumerate(values[1:], start=2):
        mean.lerp_(value, 1 / count)
    return mean


def _rounded(weight: Tensor, bits: int, known: Sequence[QuantizedWeight], count: int) -> QuantizedWeight:
    """On the grid of mean scales where all `count` members have this width, else on a new one."""
    if len(known) < count or {q.bits for q in known} != {bits}:
        return quantize_weight(weight, bits)
    scale = _mean([q.scale for q in known])
    return QuantizedWeight(bits, round_to_levels(weight / per_channel(scale, weight), bits).to(torch.int8), scale)
