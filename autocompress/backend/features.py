"""What a student can learn of its teacher besides the answer: where in its feature maps it is active.

Zagoruyko & Komodakis, "Paying More Attention to Attention" (ICLR 2017), activation-based. A map is taken over the
channels, so that it has the same shape however many of them a student still has: no projection is to be learned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autocompress.core.layer import Layer, LayerTable
from autocompress.core.plan import Plan
from autocompress.errors import InputError
from autocompress.techniques.quantize import equalized

MOST_TAPS = 4


@dataclass(frozen=True)
class Original:
    """The network that a student was made from: `model` in eval mode on the device of the training, and its facts."""

    model: nn.Module
    table: LayerTable


def find_taps(table: LayerTable, plan: Plan) -> tuple[Layer, ...]:
    """Layers whose input is compared: at each resolution the last one to read it, so that sums and activations
    before it are seen; of more than `MOST_TAPS` resolutions the last ones. Blocks that the plan drops are passed over,
    and inputs that it rescales, whose channels count for more or less than the original's.

    InputError where no layer reads a map: `(C, …)` before a convolution, `(…, C)` before a linear layer, of more than
    one place, and not the network's own input, which is the same for every student.
    """
    gone, rescaled = table.gone(plan.find("drop")), equalized(table, plan)
    last: dict[tuple[int, ...], Layer] = {}
    for layer in table.layers:
        places = layer.in_shape[1:] if layer.kind == "conv" else layer.in_shape[:-1]
        first = bool(layer.reads) and layer.reads == table.layers[0].reads
        if layer.kind in ("conv", "linear") and not layer.locked and layer.name not in gone and not first \
                and layer.scales_with not in rescaled and prod(places) > 1:
            last.pop(places, None)  # in the order of the layers that stay
            last[places] = layer
    if not last:
        raise InputError("attention_weight must be 0 for a network without feature maps, but it is not, and none of "
                         f"the layers {', '.join(layer.name for layer in table.layers)} reads a map of more than one "
                         "place that an earlier layer made; train without attention transfer")
    return tuple(last.values())[-MOST_TAPS:]


@contextmanager
def recorded(model: nn.Module, taps: Sequence[Layer]) -> Iterator[dict[str, Tensor]]:
    """Attention maps `(N, places)` of unit length that `model` shows while this is open, by the names of `taps`."""
    maps: dict[str, Tensor] = {}

    def hook(layer: Layer, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        maps[layer.name] = attention_map(args[0], 1 if layer.kind == "conv" else -1)

    handles = [model.get_submodule(layer.name).register_forward_pre_hook(partial(hook, layer)) for layer in taps]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def attention_map(features: Tensor, axis: int) -> Tensor:
    """Mean square over the channels, which lie on `axis`, as vectors `(N, places)` of length 1."""
    return F.normalize(features.float().square().mean(axis).flatten(1), dim=1)


def attention_loss(student: dict[str, Tensor], original: Original, taps: Sequence[Layer], inputs: Tensor) -> Tensor:
    """Squared distance, 0 to 2, of the student's maps from those that the original makes of `inputs` `(N, …)`: mean
    over taps and samples."""
    with torch.no_grad(), recorded(original.model, taps) as wanted:
        original.model(inputs)
    distances = [(student[layer.name] - wanted[layer.name]).square().sum(1).mean() for layer in taps]
    return torch.stack(distances).mean()
