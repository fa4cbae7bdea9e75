"""Warm starts: initial weights from the trained candidate of a store whose plan is nearest."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from torch import Tensor

from autocompress.backend.compress import Compressor
from autocompress.backend.graph.coupling import Item
from autocompress.backend.network.checkpoint import Structure, kept_weights, read_structure, read_trained, structure_of
from autocompress.backend.network.compressed import Compressed
from autocompress.backend.training.warm_start import ChannelPositions, better_start, overlap, transferable_layers
from autocompress.core.layer import LayerTable
from autocompress.core.plan import Plan, Scalar
from autocompress.core.store import EARLIER, Store
from autocompress.errors import StorageError
from autocompress.techniques.apply import Techniques
from autocompress.techniques.quantize import steps_of
from autocompress.techniques.table import TECHNIQUES

log = logging.getLogger(__name__)


def rescaled(plan: Plan) -> dict[str, Scalar]:
    """Return how channels are rescaled, by layer: where that differs, a weight of one network is not the same in
    another."""
    return {site: step.args["equalize"] for site, step in steps_of(plan).items() if "equalize" in step.args}


def nearest(table: LayerTable, items: Mapping[str, tuple[Item, ...]], structure: Structure, store: Store,
            techniques: Techniques = TECHNIQUES) -> tuple[str, dict[str, ChannelPositions]] | None:
    """Return the trained candidate nearest in plan: most weights in common, then most steps, then the longest training.

    Weights that this study itself keeps of the same plan are left out: their training did not come to its end.

    Args:
        table: the original's layers.
        items: the layers' shares in each coupling group.
        structure: the plan and the channels of the network that is to be trained.
        store: where trained weights are kept.
        techniques: the techniques by name.

    Returns:
        The key of the candidate's weights and the layers that can take their values from it; None where no candidate
        has a layer in common.
    """
    ranked = []
    for key, header in store.nearest(structure.plan):
        relative, earlier = read_structure(header), key.startswith(f"{EARLIER}/")
        if relative is None or rescaled(relative.plan) != rescaled(structure.plan) \
                or (not earlier and relative.plan == structure.plan):
            continue
        transferable = transferable_layers(table, items, structure, relative)
        similarity = overlap(table, structure.plan, relative.plan, list(transferable), techniques)
        if similarity > 0:
            shared_steps = sum(step in relative.plan.steps for step in structure.plan.steps)
            name = key.partition("/")[2]
            rung = name.removesuffix(".safetensors")[-1]
            ranked.append(((similarity, shared_steps, rung, -earlier, name), key, transferable))
    if not ranked:
        return None
    _, key, transferable = max(ranked, key=lambda one: one[0])
    return key, transferable


def with_relative(compressed: Compressed, compressor: Compressor, table: LayerTable, store: Store,
                  original_outputs: Tensor) -> tuple[Compressed, bool]:
    """Return the network that a candidate's first training starts from, and whether it has a relative's values.

    Args:
        compressed: the candidate's network, not trained.
        compressor: the compressor that made it.
        table: the original's layers.
        store: where trained weights are kept.
        original_outputs: the original's outputs for the calibration data `(N, …)`, in canonical form.

    Returns:
        `compressed` with the values of its nearest trained relative where they diverge less from the original, else
        with the ones that it has.
    """
    near = nearest(table, compressor.coupling.items, structure_of(compressed), store, compressor.techniques)
    if near is None:
        return compressed, False
    key, transferable = near
    try:
        relative = read_trained(kept_weights(store, key, ""), key)
    except StorageError as error:  # damaged, or taken away since
        log.warning("starting without inherited weights: %s", error)
        return compressed, False
    return better_start(compressed, relative, transferable, compressor, original_outputs)
