"""The compressed network: a network with a plan applied, and its parts by module name."""

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
    """A network with a plan applied. Names are of modules of the compressed network (`layer1.0.conv1`, or
    `layer1.0.conv1.2` for a factor) where nothing else is said.

    Attributes:
        model: the torch module; its quantised weights hold exactly the values of `weights`.
        plan: that was applied.
        receipts: the outcomes of the plan's steps.
        weights: integer weights by module.
        latent: trained float weights that `weights` were rounded from, which training and averaging continue from.
        moments: of the remaining inputs of layers with pruned inputs, by original name.
        masks: of sparse weights, by module. A weight is zero and stays zero wherever its mask's `kept` is False.
        norms: statistics of the inputs of the original's norms on the remaining channels; empty once training has
            changed the norms.
    """

    model: nn.Module
    plan: Plan
    receipts: list[Receipt] = field(default_factory=list)
    weights: dict[str, QuantizedWeight] = field(default_factory=dict)
    latent: dict[str, Tensor] = field(default_factory=dict)
    moments: dict[str, Moments] = field(default_factory=dict)
    masks: dict[str, Mask] = field(default_factory=dict)
    norms: dict[str, NormInputs] = field(default_factory=dict)

    def zero(self, module: str, mask: Tensor) -> None:
        """Set weights of a module to zero, and keep them zero in training and in the exported file.

        Args:
            module: its name.
            mask: bool, of the weight's shape; False where the weight is to be zero.
        """
        weight = self.model.get_submodule(module).weight
        assert isinstance(weight, Tensor)
        with torch.no_grad():
            weight.mul_(mask)
        self.masks[module] = Mask(UNSTRUCTURED, mask)


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of a submodule.

    Args:
        model: changed in place.
        name: of the submodule.
        module: the new one.
    """
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def only_modules(model: nn.Module, names: Iterable[str]) -> nn.Module:
    """A module that holds copies of some modules of another one under their names, and nothing else.

    Args:
        model: the other one.
        names: of the modules.
    """
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
    """The module names of the factors of the layer `site` of a `model`; the layer itself where it is not decomposed."""
    module = model.get_submodule(site)
    return [f"{site}.{i}" for i in range(len(module))] if isinstance(module, nn.Sequential) else [site]


def weight_bits(model: nn.Module, plan: Plan) -> dict[str, int]:
    """The weight bits of each quantised leaf module of a compressed `model`, by a `plan`; each factor has its own
    entry."""
    widths = {}
    for site, step in steps_of(plan).items():
        widths.update(dict.fromkeys(leaves(model, site), int(step.args["weight_bits"])))
    return widths


@dataclass(frozen=True)
class IntegerLayer:
    """A leaf module whose weight the plan stores in 8 bits or less.

    Attributes:
        name: The module's name.
        weight: The float weight.
        args: The arguments of the quantize step.
        mask: Bool, of the weight's shape, False where a sparse weight is zero; None where it is not sparse.
    """

    name: str
    weight: Tensor
    args: Mapping[str, Scalar]
    mask: Tensor | None


def integer_layers(result: Compressed) -> list[IntegerLayer]:
    """All integer layers of a network, in the order of its plan.

    Args:
        result: the network.
    """
    layers = []
    for name, bits in weight_bits(result.model, result.plan).items():
        if bits <= 8:
            weight = result.model.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            mask = result.masks[name].kept if name in result.masks else None
            layers.append(IntegerLayer(name, weight, step_of(name, result.plan).args, mask))
    return layers


def step_of(name: str, plan: Plan) -> Step:
    """The quantize step of a `plan` for the leaf module `name`, which may be a factor of the layer that the step names.
    """
    steps = steps_of(plan)
    return steps.get(name) or steps[name.rpartition(".")[0]]


def without_rounding(receipts: Iterable[Receipt]) -> list[Receipt]:
    """The `receipts` except those of rounding, which is repeated after training."""
    return [receipt for receipt in receipts if receipt.technique != QUANTIZE.name]
