"""Weights that one candidate has won by training, as the start of another of the same network.

Each channel of a compressed network is a channel of the original. A layer whose channels are among those that a trained
relative kept takes the relative's values for them (weights shared across widths: Yu et al., "Slimmable Neural
Networks", ICLR 2019), refitted where it reads fewer channels than that; the others keep what compression gave them.
Whether that is a better start is measured without labels, by the divergence of the answers from the original's.
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
from autocompress.core.batch_sizes import rows_at_once
from autocompress.core.layer import Layer, LayerTable
from autocompress.core.plan import Plan, Receipt
from autocompress.techniques.apply import Techniques, at_hand, resolve
from autocompress.techniques.decompose import DECOMPOSE
from autocompress.techniques.drop import dropped_layers
from autocompress.techniques.quantize import level_limit
from autocompress.techniques.table import TECHNIQUES
from autocompress.tensors.likelihood import CATEGORICAL, Likelihood
from autocompress.tensors.named import Inputs

_GRID = ("weight_bits", "grid", "group")
"""What must be the same in two quantize steps for the levels of one to be those of the other."""


@dataclass(frozen=True)
class Places:
    """Where the output and input channels `(C,)` of a layer are among those of the relative's; None: as they are.
    `inputs`: which of the original's input channels the relative's has."""

    rows: np.ndarray | None = None
    columns: np.ndarray | None = None
    inputs: np.ndarray | None = None


def agreements(table: LayerTable, items: Mapping[str, tuple[Item, ...]], own: Structure,
               relative: Structure) -> dict[str, Places]:
    """The layers of `own` that can take their values from `relative`, by original name.

    Those have no channel that the relative's lost, and the same factors if any; in grouped convolutions the same inputs
    too, because a block's columns are counted within it.
    """
    mine, other = (removed_indices(items, {name: np.asarray(kept) for name, kept in one.kept.items()})
                   for one in (own, relative))
    gone, missing = (dropped_layers(table, one.plan) for one in (own, relative))
    factors, others = own.plan.find(DECOMPOSE.name), relative.plan.find(DECOMPOSE.name)
    found = {}
    for layer in table.layers:
        name = layer.name
        if name in gone or name in missing or factors.get(name) != others.get(name):
            continue
        lost = {side: (mine.get((name, side), set()), other.get((name, side), set())) for side in ("out", "in")}
        if all(theirs <= ours for ours, theirs in lost.values()) and \
                (not _in_blocks(layer) or lost["in"][0] == lost["in"][1]):
            found[name] = Places(_places(layer.out_channels, *lost["out"]), _places(layer.in_channels, *lost["in"]),
                                 _kept(layer.in_channels, lost["in"][1]))
    return found


def _in_blocks(layer: Layer) -> bool:
    return layer.groups > 1 and not layer.groups == layer.in_channels == layer.out_channels


def _places(count: int, mine: set[int], theirs: set[int]) -> np.ndarray | None:
    if mine == theirs:
        return None
    return np.searchsorted(_kept(count, theirs), _kept(count, mine))


def _kept(count: int, lost: set[int]) -> np.ndarray:
    return np.array([i for i in range(count) if i not in lost], dtype=np.int64)


def overlap(table: LayerTable, own: Plan, relative: Plan, shared: Sequence[str],
            techniques: Techniques = TECHNIQUES) -> float:
    """How near two plans are: of the weights that one or the other has, the share that is in both (Jaccard), where of
    the layers `shared` all those of `own` are. 1 for plans that differ in bits alone."""
    mine, theirs = (sum(part.weights for parts in resolve(table, plan, techniques).values() for part in parts)
                    for plan in (own, at_hand(relative, techniques)))
    parts = resolve(table, own, techniques)
    both = sum(part.weights for name in shared for part in parts.get(name, ()))  # a norm that folds has none
    return both / (mine + theirs - both)


@torch.no_grad()
def inherited(own: Compressed, relative: Trained, agreed: Mapping[str, Places], compressor: Compressor) -> Compressed:
    """A copy of `own` with the relative's values in the layers `agreed`, rounded as the plan of `own` says, and norms
    re-estimated. What a layer loses of the relative's inputs, the others make up for, as if they were the original's.
    A layer is left out where a shape, or the zeros of a sparse weight, differ, or values are not finite.

    The copy has one receipt more, of technique "inherit", whose `layers` are those that took the relative's values.
    """
    receipts = without_rounding(own.receipts)
    result = Compressed(copy.deepcopy(own.model), own.plan, receipts, masks=own.masks, moments=own.moments)
    state, owner = result.model.state_dict(), _owners(result.model, agreed)
    taken: dict[str, Tensor] = {}
    refused = set()
    for key, value in state.items():
        module, _, kind = key.rpartition(".")
        if module in owner:
            places = _of(agreed, owner[module], module, kind, result.model)
            new = _value(key, relative, partial(_taken, compressor, owner[module], module, places))
            if new is None or new.shape != value.shape or not new.isfinite().all() \
                    or (kind == "weight" and not _same_zeros(own, relative, module)):
                refused.add(owner[module])
            else:
                taken[key] = new
    chosen = {module: layer for module, layer in owner.items() if layer not in refused}
    for key, new in taken.items():
        if key.rpartition(".")[0] in chosen:
            state[key].copy_(new)  # what state_dict() gives shares memory with the network
    integers = dict(own.weights)
    result.latent = {name: value for name, value in own.latent.items() if name not in chosen}
    for layer in integer_layers(result):
        if layer.name not in chosen:
            continue
        places = _of(agreed, chosen[layer.name], layer.name, "weight", result.model)
        known = _inherited_grid(own.plan, relative, layer.name, places)
        if known is None:  # rounded on another grid: what it computed with is what it was trained to be
            integers[layer.name] = start_weight(layer.weight.detach(), layer.args, kept=layer.kept)
            result.latent[layer.name] = layer.weight.detach().clone()
        else:
            float_weight = relative.tensors[f"{layer.name}.weight"]
            latent = _taken(compressor, chosen[layer.name], layer.name, places, float_weight)
            integers[layer.name], result.latent[layer.name] = _rounded(known, latent, layer.kept), latent
    layers = sorted(set(chosen.values()))
    result.norms = {name: seen for name, seen in own.norms.items() if name not in layers}
    quantize(result, compressor.calibration, integers)
    result.receipts.append(Receipt("", "inherit", {"from": relative.structure.plan.fingerprint, "layers": layers}))
    return result


def _owners(model: nn.Module, agreed: Mapping[str, Places]) -> dict[str, str]:
    """The layers agreed on by the names of the modules that hold their tensors: factors have one each."""
    return {module: layer for layer in agreed for module in leaves(model, layer)}


def _of(agreed: Mapping[str, Places], layer: str, module: str, kind: str, model: nn.Module) -> Places:
    """Which channels of one tensor: the first factor alone reads the layer's input, the last alone writes its output,
    and vectors have no columns."""
    names, places = leaves(model, layer), agreed[layer]
    owner: Any = model.get_submodule(module)
    columns = kind == "weight" and owner.weight.dim() > 1 and getattr(owner, "groups", 1) == 1
    return Places(places.rows if module == names[-1] else None,
                  places.columns if module == names[0] and columns else None, places.inputs)


def _value(key: str, relative: Trained, taken: Callable[[Tensor], Tensor]) -> Tensor | None:
    """What is `taken` of the value that the relative computes with."""
    module, _, kind = key.rpartition(".")
    known = relative.integers.get(module) if kind == "weight" else None
    value = relative.tensors.get(key) if known is None else known.dequantized()
    return None if value is None else taken(value)


def _taken(compressor: Compressor, layer: str, module: str, places: Places, value: Tensor) -> Tensor:
    """The channels `places` of a tensor of the relative's, the columns that stay of a weight changed for those that
    go where the moments of the layer's input are known."""
    moments = compressor.statistics.moments(layer) if places.columns is not None and module == layer else None
    if places.columns is None or places.inputs is None or moments is None or len(moments.mean) > 1:
        return _sliced(value, places)
    rows = _sliced(value, Places(places.rows))
    seen = compressor.output_moments(layer, moments.channels(torch.from_numpy(places.inputs)))
    area = seen.shape[1] // len(places.inputs)
    stay = (torch.from_numpy(places.columns)[:, None] * area + torch.arange(area)).flatten()
    changed = on_remaining(as_matrix(rows, seen.shape[1]), seen, stay, layer)
    return from_matrix(changed, (len(rows), len(places.columns), *value.shape[2:]))


def _sliced(value: Tensor, places: Places) -> Tensor:
    for axis, chosen in enumerate((places.rows, places.columns)):
        if chosen is not None and value.dim() > axis:
            value = value.index_select(axis, torch.from_numpy(chosen))
    return value


def _same_zeros(own: Compressed, relative: Trained, module: str) -> bool:
    mine, theirs = own.masks.get(module), relative.masks.get(module)
    if mine is None or theirs is None:
        return mine is None and theirs is None
    return torch.equal(mine.kept, theirs)


def _inherited_grid(plan: Plan, relative: Trained, name: str, places: Places) -> QuantizedWeight | None:
    """The relative's integers of these channels, where they are on the grid that `plan` asks for."""
    known = relative.integers.get(name)
    if known is None:
        return None
    asked, had = (step_of(name, one).args for one in (plan, relative.structure.plan))
    if any(asked.get(what) != had.get(what) for what in _GRID) or level_limit(asked) != known.limit \
            or (known.group and places.columns is not None):
        return None
    rows = Places(places.rows, None)
    factors = None if known.factors is None else _sliced(known.factors, rows)
    return replace(known, levels=_sliced(known.levels, places), scale=_sliced(known.scale, rows), factors=factors)


def _rounded(known: QuantizedWeight, latent: Tensor, kept: Tensor | None) -> QuantizedWeight:
    levels = round_to_levels(latent / known.steps(), known.bits, known.table, known.limit)
    return replace(known, levels=(levels if kept is None else levels * kept).to(torch.int8))


@torch.no_grad()
def divergence(model: nn.Module, inputs: Inputs, original: Tensor, likelihood: Likelihood = CATEGORICAL) -> float:
    """Mean divergence (`Likelihood.divergence`) of a network's outputs for `inputs` `(N, …)` from the `original`'s, in
    canonical form. Infinite where it is not a number."""
    rows = rows_at_once(tuple(inputs.shape[1:]), BATCH)
    outputs = torch.cat([likelihood.canonical(model(batch))
                         for batch in torch.split(inputs, rows)])  # type: ignore[no-untyped-call]
    value = likelihood.divergence(outputs, original)
    return value if math.isfinite(value) else math.inf


def better_start(own: Compressed, relative: Trained, agreed: Mapping[str, Places], compressor: Compressor,
                 wanted: Tensor) -> tuple[Compressed, bool]:
    """The one of `own` and the network that inherits whose answers to calibration data are nearer to the original's
    outputs `wanted` in canonical form, and whether it inherits. Either has a receipt "inherit" with both divergences,
    in that of `own` there are no layers."""
    heir = inherited(own, relative, agreed, compressor)
    before, after = (divergence(one.model, compressor.calibration, wanted, compressor.likelihood)
                     for one in (own, heir))
    *receipts, receipt = heir.receipts
    facts = receipt.facts | {"own_divergence": round(before, 6), "inherited_divergence": round(after, 6)}
    if after < before:
        heir.receipts = [*receipts, Receipt("", "inherit", facts)]
        return heir, True
    own.receipts = [*own.receipts, Receipt("", "inherit", facts | {"layers": []})]
    return own, False
