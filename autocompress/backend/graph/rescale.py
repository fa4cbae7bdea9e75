"""Rescaling of the channels between one layer and its readers, which leaves the network's function as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.backend.network.compressed import leaves


@dataclass(frozen=True)
class Scaling:
    """A source of channels and all of their readers; the channels go nowhere else.

    Attributes:
        source: The module that writes the channels: a layer, or the norm behind one.
        readers: The layers that read them, each with the number of inputs in a row that it has for one channel (more
            than one where a feature map was flattened).
        cap: The least value at which an operation in between clips; None where none does.
    """

    source: str
    readers: dict[str, int]
    cap: float | None = None


def fits(model: nn.Module, scaling: Scaling) -> bool:
    """Tell whether the readers of a pruned network still have inputs for just the channels that the source writes."""
    channels = len(model.get_submodule(leaves(model, scaling.source)[-1]).weight)  # type: ignore[arg-type]
    widths = [input_columns(first_leaf(model, name)).shape for name in scaling.readers]
    return all(groups * columns == channels * repeat
               for (groups, _, columns, _), repeat in zip(widths, scaling.readers.values(), strict=True))


def rescale(model: nn.Module, scaling: Scaling, factor: Tensor) -> None:
    """Multiply the source's output channels by `factor` `(C,)`, all above 0, and divide the readers', in place."""
    scale_output(model, scaling.source, factor)
    for name, repeat in scaling.readers.items():
        scale_input(model, name, 1 / factor.repeat_interleave(repeat))


def scale_output(model: nn.Module, name: str, factor: Tensor) -> None:
    """Multiply the output channels of a layer, of its last factor, or of a norm by `factor` `(C,)`, in place."""
    module: Any = model.get_submodule(leaves(model, name)[-1])
    with torch.no_grad():
        module.weight.mul_(factor.reshape(-1, *[1] * (module.weight.dim() - 1)))
        if isinstance(module.bias, Tensor):
            module.bias.mul_(factor)


def scale_input(model: nn.Module, name: str, factor: Tensor) -> None:
    """Multiply the weights on input channels of a layer, or of its first factor, by `factor` `(C_in,)`, in place."""
    columns = input_columns(first_leaf(model, name))
    with torch.no_grad():
        columns.mul_(factor.reshape(len(columns), 1, -1, 1))


def first_leaf(model: nn.Module, name: str) -> Any:
    """Return the layer itself, or its first factor where it is decomposed."""
    return model.get_submodule(leaves(model, name)[0])


def input_columns(module: Any) -> Tensor:
    """Return a view of a layer's weight: `(groups, rows of a group, columns of a group, taps)`."""
    weight: Tensor = module.weight.detach()
    return weight.view(getattr(module, "groups", 1), -1, weight.shape[1], weight[0, 0].numel())
