"""Channels made more alike before they are quantised, by rescaling them between one layer and those that read it.

Every weight has a scale for each of its rows, every activation one scale for all its channels. So rescaling what is
written costs nothing, and unevenness can be moved between the columns of a reader's weight and the channels of the
activation in front of it. `"weights"` takes the range of a channel from the weights that write it (Nagel et al.,
"Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.1), `"activations"` from
calibration data (Xiao et al., "SmoothQuant", ICML 2023). Both then meet the columns halfway.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from autocompress.backend.graph.rescale import Scaling, first_leaf, input_columns, rescale
from autocompress.backend.network.compressed import leaves
from autocompress.backend.statistics.calibration import BATCH
from autocompress.core.batch_sizes import rows_at_once
from autocompress.core.cancellation import checkpoint

SWEEPS, SETTLED = 20, 1e-3
"""Most rounds over the network, and the relative change of all factors at which they end: what a layer reads and what
it writes are rescaled, and each moves the ranges of the other side."""
FLOOR = 1e-4
"""A channel of a smaller range than this share of the largest counts as having it: little is known of one so quiet."""
HEADROOM = 0.8
"""Share of the value at which an activation is clipped that a channel may reach on calibration data, before and after:
one that reaches further stays as it is, since clipped it would be another function."""


def equalize(model: nn.Module, scalings: Mapping[str, Scaling], asked: Mapping[str, str], folds: Mapping[str, str],
             calibration: Tensor) -> dict[str, Tensor]:
    """Rescale the output channels of the sources `asked`, by name "weights" or "activations", in place.

    `scalings` are those of the network, in the order of its graph; `folds`: the layer that a norm folds into.
    Returns the factors `(C,)` by source. The network computes what it did, unless data drive a clipped activation
    `1 / HEADROOM` times as far as `calibration` (N, …) does.
    """
    chosen = {source: scaling for source, scaling in scalings.items() if source in asked}
    seen, reached = _ranges(model, chosen, calibration)
    factors = {source: torch.ones_like(values) for source, values in seen.items()}
    for _ in range(SWEEPS):
        moved = 0.0
        for source, scaling in chosen.items():
            known = factors[source]
            rows = _rows(model, source, folds.get(source, "")) / known
            columns, own_scales = _columns(model, scaling)
            written = seen[source] if asked[source] == "activations" else rows
            room = None if scaling.cap is None else HEADROOM * scaling.cap / reached[source].clamp_min(1e-12)
            factor = _halfway(written, columns * known, own_scales, room)
            rescale(model, scaling, factor / known)
            factors[source] = factor
            moved = max(moved, float((factor / known - 1).abs().max()))
        if moved < SETTLED:
            break
    return {source: factors[source] for source in chosen}


def _halfway(written: Tensor, read: Tensor, own_scales: bool, room: Tensor | None) -> Tensor:
    """Factors `(C,)` by which the ranges of channels as `written` and as `read` become alike. Where each channel has a
    scale of its own at the reader, those written are all made equal.

    `room`: the largest factor of each channel; one of less than 1 stays as it is. The others follow those that stay,
    or else have a geometric mean of 1. A channel that is not used, or not finite, stays too.
    """
    usable = (written > 0) & (read > 0) & written.isfinite() & read.isfinite()
    free = usable if room is None else usable & (room > 1)
    if not free.any():
        return torch.ones_like(written)
    written, read = (ranges.clamp_min(FLOOR * float(ranges[usable].max())) for ranges in (written, read))
    balance = 1 / written if own_scales else (read / written).sqrt()
    leading = usable & ~free if (usable & ~free).any() else free
    factor = balance / balance[leading].log().mean().exp()
    return torch.where(free, factor if room is None else torch.minimum(factor, room), 1.0)


def _columns(model: nn.Module, scaling: Scaling) -> tuple[Tensor, bool]:
    """Largest weight on each channel at any reader `(C,)`, and whether every channel has a row of its own there."""
    ranges, own = [], True
    for name, repeat in scaling.readers.items():
        columns = input_columns(first_leaf(model, name))
        own &= len(columns) > 1 and columns.shape[2] == 1
        ranges.append(columns.abs().amax((1, 3)).flatten().reshape(-1, repeat).amax(1))
    return torch.stack(ranges).amax(0), own


def _rows(model: nn.Module, source: str, folds_into: str) -> Tensor:
    """Largest weight that writes each channel `(C,)`, with the norm behind folded in; of a norm alone its factors."""
    module: Any = model.get_submodule(leaves(model, source)[-1])
    own: Tensor = module.weight.detach().reshape(len(module.weight), -1).abs().amax(1)
    if not folds_into:
        return own
    layer: Any = model.get_submodule(leaves(model, folds_into)[-1])
    rows: Tensor = layer.weight.detach().flatten(1).abs().amax(1)
    spread: Tensor = (module.running_var + module.eps).sqrt()
    return own * rows / spread


def _ranges(model: nn.Module, chosen: Mapping[str, Scaling],
            calibration: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Largest magnitude of each source's channels where they are read, and largest value where they are written,
    `(C,)`, the latter for those that are clipped in between."""
    seen: dict[str, Tensor] = {}
    reached: dict[str, Tensor] = {}

    def keep(found: dict[str, Tensor], source: str, values: Tensor, axis: int, repeat: int = 1) -> None:
        top = values.detach().movedim(axis, -1).flatten(0, -2).amax(0).reshape(-1, repeat).amax(1)
        found[source] = torch.maximum(found[source], top) if source in found else top

    def before(source: str, name: str, repeat: int) -> RemovableHandle:
        module: nn.Module = first_leaf(model, name)
        axis = -1 if isinstance(module, nn.Linear) else 1
        return module.register_forward_pre_hook(lambda _, args: keep(seen, source, args[0].abs(), axis, repeat))

    def behind(source: str) -> RemovableHandle:
        module = model.get_submodule(leaves(model, source)[-1])
        axis = -1 if isinstance(module, nn.Linear | nn.LayerNorm) else 1
        return module.register_forward_hook(lambda _, __, output: keep(reached, source, output, axis))

    handles = [before(source, name, repeat) for source, scaling in chosen.items()
               for name, repeat in scaling.readers.items()]
    handles += [behind(source) for source, scaling in chosen.items() if scaling.cap is not None]
    try:
        with torch.no_grad():
            for batch in torch.split(calibration, rows_at_once(tuple(calibration.shape[1:]), BATCH)):
                checkpoint()
                model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return seen, reached
