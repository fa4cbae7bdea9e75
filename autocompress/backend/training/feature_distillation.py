"""Feature distillation: training towards the original's feature maps, or its attention maps, at hook points.

Sources: Zagoruyko & Komodakis, "Paying More Attention to Attention" (ICLR 2017), activation-based. An attention
map sums over the channels, so that it has the same shape however many of them a student still has. The features
themselves need a learned projection (Romero et al., "FitNets", ICLR 2015; see `Projections`).
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
from autocompress.techniques.drop import dropped_layers
from autocompress.techniques.prune import kept_channels
from autocompress.techniques.quantize import equalized

# Largest number of layers whose inputs are compared.
MOST_HOOK_POINTS = 4


@dataclass(frozen=True)
class Original:
    """The network that a student was compressed from.

    Attributes:
        model: The network in eval mode, on the device of the training.
        table: Its layer table.
        coupling: Its coupling groups.
    """

    model: nn.Module
    table: LayerTable
    coupling: Coupling


def find_hook_points(table: LayerTable, plan: Plan) -> tuple[Layer, ...]:
    """Choose the layers whose inputs are compared: the last reader at each resolution.

    The last reader sees the sums and activations before it. Of more than `MOST_HOOK_POINTS` resolutions the last ones
    are taken. Blocks that the plan drops are passed over, and so are inputs that it rescales, whose channels have other
    sizes than the original's; where nothing else is left the result is empty.

    Args:
        table: The layer table of the original.
        plan: The plan of the student.

    Raises:
        InputError: No layer reads a feature map, `(C, …)` before a convolution or `(…, C)` before a linear layer, of
            more than one place. The network's input does not count: it is the same for every student.
    """
    gone, rescaled = dropped_layers(table, plan), equalized(table, plan)
    last: dict[tuple[int, ...], Layer] = {}
    has_maps = False
    for layer in table.layers:
        places = layer.in_shape[1:] if layer.kind == "conv" else layer.in_shape[:-1]
        first = bool(layer.reads) and layer.reads == table.layers[0].reads
        if layer.kind not in ("conv", "linear") or layer.not_compressible_reason or first or prod(places) == 1 \
                or not layer.samples_first:
            continue
        has_maps = True
        if layer.name not in gone and layer.scales_with not in rescaled:
            last.pop(places, None)  # in the order of the layers that stay
            last[places] = layer
    if not has_maps:
        raise InputError("attention_weight and feature_weight must be 0 for a network without feature maps, but one is "
                         f"not, and none of the layers {', '.join(layer.name for layer in table.layers)} reads a map "
                         "of more than one place that an earlier layer made")
    return tuple(last.values())[-MOST_HOOK_POINTS:]


def channel_axis(layer: Layer) -> int:
    """Return the axis of the channels in a layer's input."""
    return -1 if layer.kind == "linear" else 1


def inputs_left(layer: Layer, student: Compressed, original: Original) -> Tensor | None:
    """Return the indices `(C,)` of the original's channels that a layer still reads in a student.

    They follow from the student's receipts; None where the layer lost none.
    """
    remaining = {site: np.array(channels) for site, channels in kept_channels(student.receipts).items()}
    depthwise = layer.groups > 1 and layer.groups == layer.in_channels == layer.out_channels
    side = "out" if layer.kind == "norm" or depthwise else "in"  # both sides are the same channels here, recorded once
    gone = removed_indices(original.coupling.items, remaining).get((layer.name, side))
    channels = layer.in_channels or layer.out_channels
    return torch.tensor([i for i in range(channels) if i not in gone]) if gone else None


@contextmanager
def recorded(model: nn.Module, hook_points: Sequence[Layer]) -> Iterator[dict[str, Tensor]]:
    """Record the inputs of layers while the context is open, by layer name, `(N, C, …)` or `(N, …, C)`."""
    features: dict[str, Tensor] = {}

    def hook(layer: Layer, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        features[layer.name] = args[0].clone()  # a shortcut may be added to it in place

    handles = [model.get_submodule(layer.name).register_forward_pre_hook(partial(hook, layer))
               for layer in hook_points]
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()


def wanted_features(original: Original, hook_points: Sequence[Layer], inputs: Tensor) -> dict[str, Tensor]:
    """Return the original's features at the hook points for `inputs` `(N, …)`, by layer name."""
    with torch.no_grad(), recorded(original.model, hook_points) as features:
        original.model(inputs)
    return features


def attention_map(features: Tensor, axis: int) -> Tensor:
    """Compute the mean square over the channels, which lie along `axis`, as vectors `(N, places)` of length 1."""
    return F.normalize(features.float().square().mean(axis).flatten(1), dim=1)


def attention_loss(student: dict[str, Tensor], teacher: dict[str, Tensor], hook_points: Sequence[Layer]) -> Tensor:
    """Compute the squared distance, 0 to 2, of the student's attention maps from the original's.

    The mean is taken over hook points and samples.
    """
    axes = {layer.name: channel_axis(layer) for layer in hook_points}
    distances = [(attention_map(student[name], axis) - attention_map(teacher[name], axis)).square().sum(1).mean()
                 for name, axis in axes.items()]
    return torch.stack(distances).mean()


class Projections(nn.Module):
    """Learned linear maps, alike at every place, from the channels of a student to the original's, one a hook point.

    Each begins as the selection of the channels that the student kept, so that an unchanged student has no loss. They
    serve the training alone.

    Source: Romero et al., "FitNets: Hints for Thin Deep Nets" (ICLR 2015).
    """

    def __init__(self, hook_points: Sequence[Layer], student: Compressed, original: Original) -> None:
        super().__init__()
        self._taps = hook_points
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for layer in hook_points:
            whole, channels = torch.eye(layer.in_channels), inputs_left(layer, student, original)
            self.weights.append(nn.Parameter(whole if channels is None else whole[:, channels]))
            self.biases.append(nn.Parameter(torch.zeros(layer.in_channels)))

    def loss(self, student: dict[str, Tensor], teacher: dict[str, Tensor]) -> Tensor:
        """Compute the mean over hook points of the projected features' squared error over the original's energy."""
        errors = []
        for layer, weight, bias in zip(self._taps, self.weights, self.biases, strict=True):
            axis, name = channel_axis(layer), layer.name
            projected = F.linear(student[name].float().movedim(axis, -1), weight, bias).movedim(-1, axis)
            target = teacher[name].float()
            errors.append((projected - target).square().mean() / target.square().mean().clamp_min(1e-12))
        return torch.stack(errors).mean()
