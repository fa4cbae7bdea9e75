"""Warm starts: the values of a trained network as initial weights of another one compressed from the same original.

Each channel of a compressed network is a channel of the original. A layer whose channels are among those that a trained
relative kept takes the relative's values for them (weights shared across widths: Yu et al., "Slimmable Neural
Networks", ICLR 2019), refitted by least squares where it reads fewer channels than the relative's; the others keep the
values that compression gave them. Whether that is a better start is measured without labels, by the divergence of the
outputs from the original's.

A relative is a trained network whose plan is near. Arguments named `compressed` are the network that is to be trained,
arguments named `relative` the one that lends its values.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autocompress.backend.compress import Compressor
from autocompress.backend.graph.coupling import Item, removed_indices
from autocompress.backend.network.checkpoint import Structure, Trained
from autocompress.backend.network.compressed import Compressed, integer_layers, leaves, step_of, without_rounding
from autocompress.backend.network.quantized_weight import QuantizedWeight, round_to_levels
from autocompress.backend.quantize.rounding import quantize, start_weight
from autocompress.backend.statistics.calibration import BATCH
from autocompress.backend.statistics.reconstruct import as_matrix, from_matrix, on_remaining
from autocompress.core.batch_sizes import rows_of
from autocompress.core.layer import Layer, LayerTable
from autocompress.core.plan import Plan, Receipt
from autocompress.techniques.apply import Techniques, at_hand, resolve
from autocompress.techniques.decompose import DECOMPOSE
from autocompress.techniques.drop import dropped_layers
from autocompress.techniques.quantize import level_limit
from autocompress.techniques.table import TECHNIQUES
from autocompress.tensors.footprint import footprint
from autocompress.tensors.likelihood import CATEGORICAL, Likelihood
from autocompress.tensors.named import Inputs

# Arguments that two quantize steps must share for the levels of one to be those of the other.
_GRID = ("weight_bits", "grid", "group")


@dataclass(frozen=True)
class ChannelPositions:
    """The channels of a layer as positions among the relative's channels.

    Attributes:
        outputs: positions `(C_out,)` of the layer's output channels among the relative's; None when both have the same.
        inputs: positions `(C_in,)` of the layer's input channels among the relative's; None when both have the same.
        relative_inputs: the original's input channels `(C,)` that the relative's layer reads; None for one tensor of
            which no columns are taken.
    """

    outputs: np.ndarray | None = None
    inputs: np.ndarray | None = None
    relative_inputs: np.ndarray | None = None


def transferable_layers(table: LayerTable, items: Mapping[str, tuple[Item, ...]], structure: Structure,
                        relative: Structure) -> dict[str, ChannelPositions]:
    """Return the layers that can take their values from the relative, with the positions of their channels.

    Such a layer has no channel that the relative's lost, and the same factors if any; in grouped convolutions the same
    inputs too, because a block's columns are counted within it.

    Args:
        table: the original's layers.
        items: the layers' shares in each coupling group.
        structure: the plan and the channels of the network to be trained.
        relative: the plan and the channels of the trained one.

    Returns:
        Positions by the layer's name in the original.
    """
    removed, relative_removed = (
        removed_indices(items, {name: np.asarray(channels) for name, channels in side.kept.items()})
        for side in (structure, relative))
    dropped, relative_dropped = (dropped_layers(table, side.plan) for side in (structure, relative))
    factors, relative_factors = structure.plan.find(DECOMPOSE.name), relative.plan.find(DECOMPOSE.name)
    positions = {}
    for layer in table.layers:
        name = layer.name
        if name in dropped or name in relative_dropped or factors.get(name) != relative_factors.get(name):
            continue
        lost = {side: (removed.get((name, side), set()), relative_removed.get((name, side), set()))
                for side in ("out", "in")}
        if all(by_relative <= by_layer for by_layer, by_relative in lost.values()) and \
                (not _has_blocks(layer) or lost["in"][0] == lost["in"][1]):
            positions[name] = ChannelPositions(
                _positions(layer.out_channels, *lost["out"]), _positions(layer.in_channels, *lost["in"]),
                _remaining(layer.in_channels, lost["in"][1]))
    return positions


def _has_blocks(layer: Layer) -> bool:
    """Return whether a layer is a grouped convolution that is not depthwise."""
    return layer.groups > 1 and not layer.groups == layer.in_channels == layer.out_channels


def _positions(count: int, lost: set[int], lost_by_relative: set[int]) -> np.ndarray | None:
    if lost == lost_by_relative:
        return None
    return np.searchsorted(_remaining(count, lost_by_relative), _remaining(count, lost))


def _remaining(count: int, lost: set[int]) -> np.ndarray:
    return np.array([i for i in range(count) if i not in lost], dtype=np.int64)


def overlap(table: LayerTable, plan: Plan, relative: Plan, transferable: Sequence[str],
            techniques: Techniques = TECHNIQUES) -> float:
    """Return the Jaccard similarity of the weights of two plans, in [0, 1]; 1 for plans that differ in bits alone.

    The weights in both are those that `plan` leaves to the layers `transferable`, whose channels the relative has too.
    """
    weights, relative_weights = (
        sum(part.weights for parts in resolve(table, one, techniques).values() for part in parts)
        for one in (plan, at_hand(relative, techniques)))
    layer_parts = resolve(table, plan, techniques)
    both = sum(part.weights for name in transferable for part in layer_parts.get(name, ()))  # no parts: a folded norm
    return both / (weights + relative_weights - both)


@torch.no_grad()
def inherited(compressed: Compressed, relative: Trained, transferable: Mapping[str, ChannelPositions],
              compressor: Compressor) -> Compressed:
    """Return a copy of a network with the relative's values in the layers `transferable`.

    Weights are rounded as the network's plan says, and norms re-estimated. Input channels that the relative's layer
    reads and this one does not are made up for by least squares, as if they were the original's. A layer keeps its
    values where a shape, or the zeros of a sparse weight, differ, or values are not finite.

    The copy has one receipt more, of technique "inherit", whose `layers` are those that took the relative's values.
    """
    receipts = without_rounding(compressed.receipts)
    result = Compressed(copy.deepcopy(compressed.model), compressed.plan, receipts, masks=compressed.masks,
                        moments=compressed.moments)
    state, layer_of = result.model.state_dict(), _layer_of_module(result.model, transferable)
    values: dict[str, Tensor] = {}
    refused = set()
    for key, value in state.items():
        module, _, kind = key.rpartition(".")
        if module in layer_of:
            positions = _positions_in(transferable, layer_of[module], module, kind, result.model)
            new = _value(key, relative, partial(_transferred, compressor, layer_of[module], module, positions))
            if new is None or new.shape != value.shape or not new.isfinite().all() \
                    or (kind == "weight" and not _same_zeros(compressed, relative, module)):
                refused.add(layer_of[module])
            else:
                values[key] = new
    inheriting = {module: layer for module, layer in layer_of.items() if layer not in refused}
    for key, new in values.items():
        if key.rpartition(".")[0] in inheriting:
            state[key].copy_(new)  # what state_dict() gives shares memory with the network
    integers = dict(compressed.weights)
    result.latent = {name: value for name, value in compressed.latent.items() if name not in inheriting}
    for layer in integer_layers(result):
        if layer.name not in inheriting:
            continue
        positions = _positions_in(transferable, inheriting[layer.name], layer.name, "weight", result.model)
        quantized = _inherited_grid(compressed.plan, relative, layer.name, positions)
        if quantized is None:  # rounded on another grid: what it computed with is what it was trained to be
            integers[layer.name] = start_weight(layer.weight.detach(), layer.args, mask=layer.mask)
            result.latent[layer.name] = layer.weight.detach().clone()
        else:
            float_weight = relative.tensors[f"{layer.name}.weight"]
            latent = _transferred(compressor, inheriting[layer.name], layer.name, positions, float_weight)
            integers[layer.name], result.latent[layer.name] = _rounded(quantized, latent, layer.mask), latent
    layers = sorted(set(inheriting.values()))
    result.norms = {name: norm for name, norm in compressed.norms.items() if name not in layers}
    quantize(result, compressor.calibration, integers)
    result.receipts.append(Receipt("", "inherit", {"from": relative.structure.plan.fingerprint, "layers": layers}))
    return result


def _layer_of_module(model: nn.Module, transferable: Mapping[str, ChannelPositions]) -> dict[str, str]:
    """Return the transferable layers by the names of the modules that hold their tensors: factors have one each."""
    return {module: layer for layer in transferable for module in leaves(model, layer)}


def _positions_in(transferable: Mapping[str, ChannelPositions], layer: str, module: str, kind: str,
                  model: nn.Module) -> ChannelPositions:
    """Return the channel positions that apply to one tensor of a layer.

    The first factor alone reads the layer's input, the last alone writes its output, and vectors have no columns.
    """
    names, positions = leaves(model, layer), transferable[layer]
    leaf: Any = model.get_submodule(module)
    has_columns = kind == "weight" and leaf.weight.dim() > 1 and getattr(leaf, "groups", 1) == 1
    return ChannelPositions(positions.outputs if module == names[-1] else None,
                            positions.inputs if module == names[0] and has_columns else None,
                            positions.relative_inputs)


def _value(key: str, relative: Trained, transfer: Callable[[Tensor], Tensor]) -> Tensor | None:
    """Return what `transfer` makes of the tensor `key` that the relative computes with; None where it has none."""
    module, _, kind = key.rpartition(".")
    quantized = relative.integers.get(module) if kind == "weight" else None
    value = relative.tensors.get(key) if quantized is None else quantized.dequantized()
    return None if value is None else transfer(value)


def _transferred(compressor: Compressor, layer: str, module: str, positions: ChannelPositions, value: Tensor) -> Tensor:
    """Return the channels at `positions` of a tensor of the relative's.

    Where columns are left out of a weight, those that stay are refitted by least squares, if the moments of the layer's
    input have been measured.
    """
    moments = compressor.statistics.moments(layer) if positions.inputs is not None and module == layer else None
    if positions.inputs is None or positions.relative_inputs is None or moments is None or len(moments.mean) > 1:
        return _sliced(value, positions)
    rows = _sliced(value, ChannelPositions(positions.outputs))
    second = compressor.output_moments(layer, moments.channels(torch.from_numpy(positions.relative_inputs)))
    area = second.shape[1] // len(positions.relative_inputs)
    stay = (torch.from_numpy(positions.inputs)[:, None] * area + torch.arange(area)).flatten()
    refitted = on_remaining(as_matrix(rows, second.shape[1]), second, stay, layer)
    return from_matrix(refitted, (len(rows), len(positions.inputs), *value.shape[2:]))


def _sliced(value: Tensor, positions: ChannelPositions) -> Tensor:
    for axis, channels in enumerate((positions.outputs, positions.inputs)):
        if channels is not None and value.dim() > axis:
            value = value.index_select(axis, torch.from_numpy(channels))
    return value


def _same_zeros(compressed: Compressed, relative: Trained, module: str) -> bool:
    mask, relative_mask = compressed.masks.get(module), relative.masks.get(module)
    if mask is None or relative_mask is None:
        return mask is None and relative_mask is None
    return torch.equal(mask.kept, relative_mask)


def _inherited_grid(plan: Plan, relative: Trained, name: str, positions: ChannelPositions) -> QuantizedWeight | None:
    """Return the relative's integers of these channels; None where they are not on the grid that `plan` says."""
    quantized = relative.integers.get(name)
    if quantized is None:
        return None
    args, relative_args = (step_of(name, one).args for one in (plan, relative.structure.plan))
    if any(args.get(key) != relative_args.get(key) for key in _GRID) or level_limit(args) != quantized.limit \
            or (quantized.group and positions.inputs is not None):
        return None
    rows = ChannelPositions(positions.outputs, None)
    factors = None if quantized.factors is None else _sliced(quantized.factors, rows)
    return replace(quantized, levels=_sliced(quantized.levels, positions), scale=_sliced(quantized.scale, rows),
                   factors=factors)


def _rounded(grid: QuantizedWeight, latent: Tensor, mask: Tensor | None) -> QuantizedWeight:
    """Return a float weight rounded to the nearest levels of `grid`, zero where `mask` (bool) is False."""
    levels = round_to_levels(latent / grid.steps(), grid.bits, grid.table, grid.limit)
    return replace(grid, levels=(levels if mask is None else levels * mask).to(torch.int8))


@torch.no_grad()
def divergence(model: nn.Module, inputs: Inputs, original: Tensor, likelihood: Likelihood = CATEGORICAL) -> float:
    """Return the mean divergence (`Likelihood.divergence`) of a network's outputs from the original's.

    Args:
        model: the network.
        inputs: normalised inputs `(N, …)`.
        original: the original's outputs for them `(N, …)`, in canonical form.
        likelihood: what the outputs stand for.

    Returns:
        The divergence; infinite where it is not a finite number.
    """
    rows = rows_of(footprint(model, inputs).live, BATCH)
    outputs = torch.cat([likelihood.compared(likelihood.canonical(model(batch)), batch)
                         for batch in torch.split(inputs, rows)])  # type: ignore[no-untyped-call]
    value = likelihood.divergence(outputs, original)
    return value if math.isfinite(value) else math.inf


def better_start(compressed: Compressed, relative: Trained, transferable: Mapping[str, ChannelPositions],
                 compressor: Compressor, original_outputs: Tensor) -> tuple[Compressed, bool]:
    """Return `compressed` with its values or with the relative's, whichever diverges less from the original.

    Args:
        compressed: the network that is to be trained.
        relative: the trained network that lends its values.
        transferable: the layers that can take them (`transferable_layers`).
        compressor: the compressor that made `compressed`; the divergence is measured on its calibration data.
        original_outputs: the original's outputs for the calibration data `(N, …)`, in canonical form.

    Returns:
        The network and whether it inherits. It has a receipt "inherit" with both divergences; without inheritance the
        receipt's `layers` are empty.
    """
    with_values = inherited(compressed, relative, transferable, compressor)
    before, after = (divergence(one.model, compressor.calibration, original_outputs, compressor.likelihood)
                     for one in (compressed, with_values))
    *receipts, receipt = with_values.receipts
    facts = receipt.facts | {"own_divergence": round(before, 6), "inherited_divergence": round(after, 6)}
    if after < before:
        with_values.receipts = [*receipts, Receipt("", "inherit", facts)]
        return with_values, True
    compressed.receipts = [*compressed.receipts, Receipt("", "inherit", facts | {"layers": []})]
    return compressed, False
