"""A plan carried out: prune, decompose, recover, quantise, on a copy of the original.

The whole plan is checked and resolved on facts before a tensor is touched. The result is a deterministic
function of weights, plan, calibration data and seed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from autocompress.backend.calibration import correct_biases, input_means, reestimate_norms
from autocompress.backend.coupling import Coupling, channel_scores, cut_channels
from autocompress.backend.factorize import factorize
from autocompress.backend.quantization import QuantizedWeight, quantize_weight
from autocompress.core.layer import Group, LayerTable
from autocompress.core.plan import Plan, Receipt, Step
from autocompress.techniques import resolve


@dataclass
class Compressed:
    """A network with a plan applied. `model`'s quantised weights hold exactly the values of `weights`.

    `weights` is by module name of the compressed network (`layer1.0.conv1`, or `layer1.0.conv1.2` for a factor).
    """

    model: nn.Module
    plan: Plan
    receipts: list[Receipt] = field(default_factory=list)
    weights: dict[str, QuantizedWeight] = field(default_factory=dict)


class Compressor:
    """Applies plans to one original (eval mode, CPU, float32); the original is never changed."""

    def __init__(self, model: nn.Module, table: LayerTable, coupling: Coupling) -> None:
        self._model, self._table, self._coupling = model, table, coupling
        self._groups = {group.name: group for group in table.groups}
        self._order: dict[str, np.ndarray] = {}

    def restructure(self, plan: Plan) -> Compressed:
        """Prune and decompose; weights stay float. InputError or ValueError when a step cannot be carried out."""
        resolve(self._table, plan)
        result = Compressed(copy.deepcopy(self._model), plan)
        for technique, apply in _STRUCTURE.items():
            steps = list(plan.find(technique).values())
            result.receipts += apply(self, result.model, steps)
        return result

    def compress(self, plan: Plan, calibration: Tensor) -> Compressed:
        """The whole plan without training: structure, integer weights, norms re-estimated, biases corrected.

        `calibration`: normalised inputs `(N, …)`.
        """
        result = self.restructure(plan)
        if result.plan.steps:
            reestimate_norms(result.model, calibration)
        quantize(result, calibration)
        return result

    def kept_channels(self, group: Group, keep: int) -> np.ndarray:
        """Indices of the `keep` most important channels, equally many in each block, ascending."""
        if group.name not in self._order:
            scores = channel_scores(self._model, self._coupling.items[group.name], group.channels)
            # Stable sort: of equal scores the lower index stays, on every machine.
            blocks = np.argsort(-scores.reshape(group.blocks, -1), axis=1, kind="stable")
            self._order[group.name] = blocks + np.arange(group.blocks)[:, None] * blocks.shape[1]
        return np.sort(self._order[group.name][:, :keep // group.blocks].reshape(-1))

    def _prune(self, model: nn.Module, steps: list[Step]) -> list[Receipt]:
        kept = {step.site: self.kept_channels(self._groups[step.site], int(step.args["keep"])) for step in steps}
        cut_channels(model, self._coupling.items, kept)
        return [Receipt(site, "prune", {"kept": channels.tolist()}) for site, channels in kept.items()]

    def _decompose(self, model: nn.Module, steps: list[Step]) -> list[Receipt]:
        receipts = []
        for step in steps:
            module = model.get_submodule(step.site)
            args = {name: value for name, value in step.args.items() if isinstance(value, int)}
            factors = factorize(module, str(step.args["method"]), args)
            replace_module(model, step.site, factors)
            receipts.append(Receipt(step.site, "decompose", {
                "method": step.args["method"], **args, "weights_before": sum(p.numel() for p in module.parameters()),
                "weights_after": sum(p.numel() for p in factors.parameters())}))
        return receipts


_STRUCTURE: dict[str, Callable[[Compressor, nn.Module, list[Step]], list[Receipt]]] = {
    "prune": Compressor._prune, "decompose": Compressor._decompose,
}
"""The techniques that change structure, in the order of application; quantisation follows recovery."""


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` in the place of the submodule `name`."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def weight_bits(model: nn.Module, plan: Plan) -> dict[str, int]:
    """Width of the weight of each planned leaf module of the compressed network, factors named one by one."""
    widths = {}
    for site, step in plan.find("quantize").items():
        module = model.get_submodule(site)
        leaves = [f"{site}.{i}" for i in range(len(module))] if isinstance(module, nn.Sequential) else [site]
        widths.update(dict.fromkeys(leaves, int(step.args["weight_bits"])))
    return widths


def quantize(result: Compressed, calibration: Tensor, weights: dict[str, QuantizedWeight] | None = None) -> None:
    """Put weights on their integer grids, in place, and repair what that shifts.

    Norms are re-estimated behind the quantised weights; layers without a norm behind them get their bias
    corrected by the mean shift (Nagel et al., "Data-Free Quantization", ICCV 2019, section 4.2, from
    calibration data). `weights` are ready integers from training, otherwise scales of least squared error.
    """
    widths = weight_bits(result.model, result.plan)
    integer = [name for name, bits in widths.items() if bits <= 8]
    means = input_means(result.model, calibration, integer) if weights is None else {}
    shifts = {}
    with torch.no_grad():
        for name, bits in widths.items():
            module = result.model.get_submodule(name)
            weight = module.weight
            assert isinstance(weight, Tensor)
            if bits == 16:
                weight.copy_(weight.half().float())
            elif bits <= 8:
                chosen = weights[name] if weights is not None else quantize_weight(weight, bits)
                if name in means:
                    shifts[name] = chosen.dequantized() - weight
                weight.copy_(chosen.dequantized())
                result.weights[name] = chosen
    correct_biases(result.model, shifts, means)
    if result.plan.steps:
        reestimate_norms(result.model, calibration)
    for site, step in result.plan.find("quantize").items():
        result.receipts.append(Receipt(site, "quantize", {
            "weight_bits": step.args["weight_bits"],
            "scales": {name: [round(float(s), 9) for s in q.scale[:4]] for name, q in result.weights.items()
                       if name == site or name.rpartition(".")[0] == site},
        }))
