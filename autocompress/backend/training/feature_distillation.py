"""What a student can learn of its teacher besides the answer: its features, or where in them it is active.

Zagoruyko & Komodakis, "Paying More Attention to Attention" (ICLR 2017), activation-based. A map is taken over the
channels, so that it has the same shape however many of them a student still has: no projection is to be learned. For
the features themselves one is, see `Projections`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autocompress.backend.graph.coupling import Coupling, removed_indices
from autocompress.backend.network.compressed import Compressed
from autocompress.core.layer import Layer, LayerTable
from autocompress.core.plan import Plan
from autocompress.errors import InputError
from autocompress.techniques.quantize import equalized

MOST_HOOK_POINTS = 4


@dataclass(frozen=True)
class Original:
    """The network that a student was made from: `model` in eval mode on the device of the training, its facts, and
    which channels hang together."""

    model: nn.Module
    table: LayerTable
    coupling: Coupling


def find_hook_points(table: LayerTable, plan: Plan) -> tuple[Layer, ...]:
    """Layers whose input is compared: at each resolution the last one to read it, so that sums and activations
    before it are seen; of more than `MOST_HOOK_POINTS` resolutions the last ones. Blocks that the plan drops are
    passed over,
    and inputs that it rescales, whose channels count for more or less than the original's: where those were all, there
    is nothing to compare.

    InputError where no layer reads a map: `(C, …)` before a convolution, `(…, C)` before a linear layer, of more than
    one place, and not the network's own input, which is the same for every student.
    """
    gone, rescaled = table.gone(plan.find("drop")), equalized(table, plan)
    last: dict[tuple[int, ...], Layer] = {}
    found = False
    for layer in table.layers:
        places = layer.in_shape[1:] if layer.kind == "conv" else layer.in_shape[:-1]
        first = bool(layer.reads) and layer.reads == table.layers[0].reads
        if layer.kind not in ("conv", "linear") or layer.not_compressible_reason or first or prod(places) == 1 \
                or not layer.samples_first:
            continue
        found = True
        if layer.name not in gone and layer.scales_with not in rescaled:
            last.pop(places, None)  # in the order of the layers that stay
            last[places] = layer
    if not found:
        raise InputError("attention_weight and feature_weight must be 0 for a network without feature maps, but one is "
                         f"not, and none of the layers {', '.join(layer.name for layer in table.layers)} reads a map "
                         "of more than one place that an earlier layer made")
    return tuple(last.values())[-MOST_HOOK_POINTS:]


def channel_axis(layer: Layer) -> int:
    """Where the channels lie of what a layer reads."""
    return -1 if layer.kind == "linear" else 1


def inputs_left(layer: Layer, student: Compressed, original: Original) -> Tensor | None:
    """Indices `(C,)` of the original's channels that `layer` still reads in a student, as its receipts tell; None where
    it lost none."""
    kept = {receipt.site: np.array(receipt.facts["kept"]) for receipt in student.receipts
            if receipt.technique == "prune"}
    depthwise = layer.groups > 1 and layer.groups == layer.in_channels == layer.out_channels
    side = "out" if layer.kind == "norm" or depthwise else "in"  # the same channels, recorded once
    gone = removed_indices(original.coupling.items, kept).get((layer.name, side))
    channels = layer.in_channels or layer.out_channels
    return torch.tensor([i for i in range(channels) if i not in gone]) if gone else None


@contextmanager
def recorded(model: nn.Module, taps: Sequence[Layer]) -> Iterator[dict[str, Tensor]]:
    """What the layers `taps` of `model` read while this is open, by their names, `(N, C, …)` or `(N, …, C)`."""
    features: dict[str, Tensor] = {}

    def hook(layer: Layer, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        features[layer.name] = args[0].clone()  # a shortcut may be added to it in place

    handles = [model.get_submodule(layer.name).register_forward_pre_hook(partial(hook, layer)) for layer in taps]
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()


def wanted_features(original: Original, taps: Sequence[Layer], inputs: Tensor) -> dict[str, Tensor]:
    """What the layers `taps` of the original read when it is given `inputs` `(N, …)`."""
    with torch.no_grad(), recorded(original.model, taps) as wanted:
        original.model(inputs)
    return wanted


def attention_map(features: Tensor, axis: int) -> Tensor:
    """Mean square over the channels, which lie on `axis`, as vectors `(N, places)` of length 1."""
    return F.normalize(features.float().square().mean(axis).flatten(1), dim=1)


def attention_loss(student: dict[str, Tensor], wanted: dict[str, Tensor], taps: Sequence[Layer]) -> Tensor:
    """Squared distance, 0 to 2, of the student's attention maps from those of the original: mean over taps and
    samples."""
    axes = {layer.name: channel_axis(layer) for layer in taps}
    distances = [(attention_map(student[name], axis) - attention_map(wanted[name], axis)).square().sum(1).mean()
                 for name, axis in axes.items()]
    return torch.stack(distances).mean()


class Projections(nn.Module):
    """For each of `taps` a learned map, the same at every place, from the channels of a student to the original's.

    Romero et al., "FitNets: Hints for Thin Deep Nets" (ICLR 2015). Each begins as the selection of the channels that
    the student kept, so that where nothing was changed there is nothing to learn. Thrown away after the training.
    """

    def __init__(self, taps: Sequence[Layer], student: Compressed, original: Original) -> None:
        super().__init__()
        self._taps = taps
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for layer in taps:
            whole, left = torch.eye(layer.in_channels), inputs_left(layer, student, original)
            self.weights.append(nn.Parameter(whole if left is None else whole[:, left]))
            self.biases.append(nn.Parameter(torch.zeros(layer.in_channels)))

    def loss(self, student: dict[str, Tensor], wanted: dict[str, Tensor]) -> Tensor:
        """Squared error of the projected features as a share of the original's energy: mean over taps."""
        errors = []
        for layer, weight, bias in zip(self._taps, self.weights, self.biases, strict=True):
            axis, name = channel_axis(layer), layer.name
            projected = F.linear(student[name].float().movedim(axis, -1), weight, bias).movedim(-1, axis)
            aim = wanted[name].float()
            errors.append((projected - aim).square().mean() / aim.square().mean().clamp_min(1e-12))
        return torch.stack(errors).mean()
