"""Rescaling the channels between one layer and those that read it, which leaves the network's function as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.backend.network.compressed import leaves


@dataclass(frozen=True)
class Scaling:
    """Output channels of the module `source` (a layer, or the norm behind one) are the input channels of all `readers`
    and go nowhere else. A reader has each so many times in a row: more than once where a map was flattened. `cap`: the
    least value at which something in between clips, if anything does."""

    source: str
    readers: dict[str, int]
    cap: float | None = None


def fits(model: nn.Module, scaling: Scaling) -> bool:
    """Whether a network that was cut still has each of the source's channels so many times in a row."""
    channels = len(model.get_submodule(leaves(model, scaling.source)[-1]).weight)  # type: ignore[arg-type]
    widths = [input_columns(first_leaf(model, name)).shape for name in scaling.readers]
    return all(groups * columns == channels * repeat
               for (groups, _, columns, _), repeat in zip(widths, scaling.readers.values(), strict=True))


def rescale(model: nn.Module, scaling: Scaling, factor: Tensor) -> None:
    """Write the source's channels times `factor` (C,), all above 0, and let the readers divide by it, in place."""
    scale_output(model, scaling.source, factor)
    for name, repeat in scaling.readers.items():
        scale_input(model, name, 1 / factor.repeat_interleave(repeat))


def scale_output(model: nn.Module, name: str, factor: Tensor) -> None:
    """Multiply what a layer, the last factor of one, or a norm writes by `factor` (C,)."""
    module: Any = model.get_submodule(leaves(model, name)[-1])
    with torch.no_grad():
        module.weight.mul_(factor.reshape(-1, *[1] * (module.weight.dim() - 1)))
        if isinstance(module.bias, Tensor):
            module.bias.mul_(factor)


def scale_input(model: nn.Module, name: str, factor: Tensor) -> None:
    """Multiply what a layer, or the first factor of one, sees by `factor` (C_in,)."""
    columns = input_columns(first_leaf(model, name))
    with torch.no_grad():
        columns.mul_(factor.reshape(len(columns), 1, -1, 1))


def first_leaf(model: nn.Module, name: str) -> Any:
    """The layer itself, or the first factor of one."""
    return model.get_submodule(leaves(model, name)[0])


def input_columns(module: Any) -> Tensor:
    """A view of a layer's weight: (groups, rows of a group, columns of a group, taps)."""
    weight: Tensor = module.weight.detach()
    return weight.view(getattr(module, "groups", 1), -1, weight.shape[1], weight[0, 0].numel())
