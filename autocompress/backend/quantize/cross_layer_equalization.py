"""Cross-layer equalisation: channels rescaled between a layer and its readers, so that their ranges are more alike.

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
from autocompress.core.batch_sizes import rows_of
from autocompress.core.cancellation import checkpoint
from autocompress.tensors.footprint import footprint

# Largest number of sweeps over the network, and the relative change of the factors below which they end. Several are
# needed, because a layer's inputs and its outputs are both rescaled, and either changes the ranges of the other side.
SWEEPS, SETTLED = 20, 1e-3
# Share of the largest range that every channel's range counts as having at least: calibration data say little about
# channels of smaller values.
FLOOR = 1e-4
# Share of an activation's upper clip that a channel may reach on calibration data, before and after it is rescaled. A
# channel that reaches further stays as it is: with its values clipped the network would compute another function.
HEADROOM = 0.8


def equalize(model: nn.Module, scalings: Mapping[str, Scaling], methods: Mapping[str, str], folds: Mapping[str, str],
             calibration: Tensor) -> dict[str, Tensor]:
    """Equalise the channels between sources and their readers, in place.

    The network computes what it did, unless data drive a clipped activation `1 / HEADROOM` times as far as the
    calibration data do.

    Args:
        model: The network, in eval mode.
        scalings: The network's rescalable pairs by source, in the order of its graph.
        methods: `"weights"` or `"activations"` for each source that is to be equalised.
        folds: The layer that a norm folds into, by the norm.
        calibration: Normalised inputs `(N, …)`.

    Returns:
        The factors `(C,)` that the outputs of each source were multiplied by.
    """
    to_equalize = {source: scaling for source, scaling in scalings.items() if source in methods}
    read_ranges, written_maxima = _ranges(model, to_equalize, calibration)
    factors = {source: torch.ones_like(values) for source, values in read_ranges.items()}
    for _ in range(SWEEPS):
        change = 0.0
        for source, scaling in to_equalize.items():
            present = factors[source]
            rows = _rows(model, source, folds.get(source, "")) / present
            columns, channel_scales = _columns(model, scaling)
            written = read_ranges[source] if methods[source] == "activations" else rows
            limits = None if scaling.cap is None else HEADROOM * scaling.cap / written_maxima[source].clamp_min(1e-12)
            factor = _halfway(written, columns * present, channel_scales, limits)
            rescale(model, scaling, factor / present)
            factors[source] = factor
            change = max(change, float((factor / present - 1).abs().max()))
        if change < SETTLED:
            break
    return {source: factors[source] for source in to_equalize}


def _halfway(written: Tensor, read: Tensor, channel_scales: bool, limits: Tensor | None) -> Tensor:
    """Compute the factors `(C,)` under which the ranges of channels as written and as read become alike.

    A channel that is not used, or not finite, stays as it is. Factors follow the channels that cannot be rescaled, or
    else have a geometric mean of 1.

    Args:
        written: The range of each channel where it is written, `(C,)`.
        read: The range of the weights that read it, `(C,)`.
        channel_scales: Whether the reader has a scale for each channel; then the written ranges are made equal.
        limits: The largest factor of each channel `(C,)`; a channel whose limit is below 1 stays as it is.
    """
    usable = (written > 0) & (read > 0) & written.isfinite() & read.isfinite()
    free = usable if limits is None else usable & (limits > 1)
    if not free.any():
        return torch.ones_like(written)
    written, read = (ranges.clamp_min(FLOOR * float(ranges[usable].max())) for ranges in (written, read))
    balance = 1 / written if channel_scales else (read / written).sqrt()
    leading = usable & ~free if (usable & ~free).any() else free
    factor = balance / balance[leading].log().mean().exp()
    return torch.where(free, factor if limits is None else torch.minimum(factor, limits), 1.0)


def _columns(model: nn.Module, scaling: Scaling) -> tuple[Tensor, bool]:
    """Return the largest weight on each channel at any reader `(C,)`, and whether each channel has a row to itself."""
    ranges, one_row_each = [], True
    for name, repeat in scaling.readers.items():
        columns = input_columns(first_leaf(model, name))
        one_row_each &= len(columns) > 1 and columns.shape[2] == 1
        ranges.append(columns.abs().amax((1, 3)).flatten().reshape(-1, repeat).amax(1))
    return torch.stack(ranges).amax(0), one_row_each


def _rows(model: nn.Module, source: str, folds_into: str) -> Tensor:
    """Return the largest weight that writes each channel `(C,)`.

    A norm behind the layer counts as folded in; a norm that folds nowhere has its factors alone.
    """
    module: Any = model.get_submodule(leaves(model, source)[-1])
    norm_or_row_maxima: Tensor = module.weight.detach().reshape(len(module.weight), -1).abs().amax(1)
    if not folds_into:
        return norm_or_row_maxima
    layer: Any = model.get_submodule(leaves(model, folds_into)[-1])
    rows: Tensor = layer.weight.detach().flatten(1).abs().amax(1)
    deviation: Tensor = (module.running_var + module.eps).sqrt()
    return norm_or_row_maxima * rows / deviation


def _ranges(model: nn.Module, scalings: Mapping[str, Scaling],
            calibration: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Measure each source's channels on calibration data.

    Returns:
        The largest magnitude of each channel where it is read, `(C,)` by source, and the largest value of each channel
        where it is written, for the sources that are clipped in between.
    """
    at_readers: dict[str, Tensor] = {}
    at_sources: dict[str, Tensor] = {}

    def record(maxima: dict[str, Tensor], source: str, values: Tensor, axis: int, repeat: int = 1) -> None:
        top = values.detach().movedim(axis, -1).flatten(0, -2).amax(0).reshape(-1, repeat).amax(1)
        maxima[source] = torch.maximum(maxima[source], top) if source in maxima else top

    def before(source: str, name: str, repeat: int) -> RemovableHandle:
        module: nn.Module = first_leaf(model, name)
        axis = -1 if isinstance(module, nn.Linear) else 1
        return module.register_forward_pre_hook(lambda _, args: record(at_readers, source, args[0].abs(), axis, repeat))

    def behind(source: str) -> RemovableHandle:
        module = model.get_submodule(leaves(model, source)[-1])
        axis = -1 if isinstance(module, nn.Linear | nn.LayerNorm) else 1
        return module.register_forward_hook(lambda _, __, output: record(at_sources, source, output, axis))

    rows = rows_of(footprint(model, calibration).live, BATCH)
    handles = [before(source, name, repeat) for source, scaling in scalings.items()
               for name, repeat in scaling.readers.items()]
    handles += [behind(source) for source, scaling in scalings.items() if scaling.cap is not None]
    try:
        with torch.no_grad():
            for batch in torch.split(calibration, rows):
                checkpoint()
                model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return at_readers, at_sources
