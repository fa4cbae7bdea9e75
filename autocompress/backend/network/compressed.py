"""A network with a plan applied, and where its parts are found by name."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from autocompress.backend.network.mask import Mask
from autocompress.backend.network.quantized_weight import QuantizedWeight
from autocompress.backend.statistics.calibration import NormInputs
from autocompress.backend.statistics.moments import Moments
from autocompress.core.plan import Plan, Receipt, Scalar, Step
from autocompress.core.sparsity import UNSTRUCTURED
from autocompress.techniques.quantize import QUANTIZE, steps_of


@dataclass
class Compressed:
    """A network with a plan applied. `model`'s quantised weights hold exactly the values of `weights`.

    `weights` is by module name of the compressed network (`layer1.0.conv1`, or `layer1.0.conv1.2` for a factor).
    """

    model: nn.Module
    plan: Plan
    receipts: list[Receipt] = field(default_factory=list)
    weights: dict[str, QuantizedWeight] = field(default_factory=dict)
    latent: dict[str, Tensor] = field(default_factory=dict)
    """Trained float weights that `weights` were rounded from, by the same names: training and averaging go on there."""
    moments: dict[str, Moments] = field(default_factory=dict)
    """Of the inputs that layers still have, by original name; only those with pruned inputs."""
    masks: dict[str, Mask] = field(default_factory=dict)
    """Of sparse weights, by module name: zero and kept zero wherever their `kept` is False."""
    norms: dict[str, NormInputs] = field(default_factory=dict)
    """What the original's norms see, of the channels that are left; empty once norms have learned in training."""

    def zero(self, module: str, kept: Tensor) -> None:
        """Set the weights of a module to zero where `kept` (bool, of the weight's shape) is False; training and the
        file keep them zero."""
        weight = self.model.get_submodule(module).weight
        assert isinstance(weight, Tensor)
        with torch.no_grad():
            weight.mul_(kept)
        self.masks[module] = Mask(UNSTRUCTURED, kept)


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` in the place of the submodule `name`."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def only_modules(model: nn.Module, names: Iterable[str]) -> nn.Module:
    """Copies of the named modules in their places, and nothing else."""
    bare = nn.Module()
    for name in names:
        place = bare
        *parents, child = name.split(".")
        for parent in parents:
            if parent not in place._modules:
                place.add_module(parent, nn.Module())
            place = place.get_submodule(parent)
        place.add_module(child, copy.deepcopy(model.get_submodule(name)))
    return bare


def leaves(model: nn.Module, site: str) -> list[str]:
    """The layer itself, or its factors."""
    module = model.get_submodule(site)
    return [f"{site}.{i}" for i in range(len(module))] if isinstance(module, nn.Sequential) else [site]


def weight_bits(model: nn.Module, plan: Plan) -> dict[str, int]:
    """Width of the weight of each planned leaf module of the compressed network, factors named one by one."""
    widths = {}
    for site, step in steps_of(plan).items():
        widths.update(dict.fromkeys(leaves(model, site), int(step.args["weight_bits"])))
    return widths


@dataclass(frozen=True)
class IntegerLayer:
    """A leaf module whose weight the plan stores in 8 bits or less: the weight as it is, the arguments of the step, and
    which weights stay where it is sparse."""

    name: str
    weight: Tensor
    args: Mapping[str, Scalar]
    kept: Tensor | None


def integer_layers(result: Compressed) -> list[IntegerLayer]:
    """All of them, in the order of the plan."""
    layers = []
    for name, bits in weight_bits(result.model, result.plan).items():
        if bits <= 8:
            weight = result.model.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            kept = result.masks[name].kept if name in result.masks else None
            layers.append(IntegerLayer(name, weight, step_of(name, result.plan).args, kept))
    return layers


def step_of(name: str, plan: Plan) -> Step:
    """The quantize step of a leaf module, which may be a factor of the layer that the step names."""
    steps = steps_of(plan)
    return steps.get(name) or steps[name.rpartition(".")[0]]


def without_rounding(receipts: Iterable[Receipt]) -> list[Receipt]:
    """The receipts but those of rounding, which is done anew after training."""
    return [receipt for receipt in receipts if receipt.technique != QUANTIZE.name]
