"""Warm starts: the trained candidate of a store that is nearest to a plan lends it weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from torch import Tensor

from autocompress.backend.compress import Compressor
from autocompress.backend.graph.coupling import Item
from autocompress.backend.network.checkpoint import Structure, kept_weights, read_structure, read_trained, structure_of
from autocompress.backend.network.compressed import Compressed
from autocompress.backend.training.warm_start import Places, agreements, better_start, overlap
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


def nearest(table: LayerTable, items: Mapping[str, tuple[Item, ...]], own: Structure,
            store: Store, techniques: Techniques = TECHNIQUES) -> tuple[str, dict[str, Places]] | None:
    """Return the key of the weights of the trained candidate nearest to `own` in plan, of its trainings the longest,
    and the layers in which they agree; None where none has a layer in common.

    What this study itself has of the same plan is a training which did not come to its end.
    """
    ranked = []
    for key, header in store.nearest(own.plan):
        structure, earlier = read_structure(header), key.startswith(f"{EARLIER}/")
        if structure is None or rescaled(structure.plan) != rescaled(own.plan) \
                or (not earlier and structure.plan == own.plan):
            continue
        agreed = agreements(table, items, own, structure)
        near = overlap(table, own.plan, structure.plan, list(agreed), techniques)
        if near > 0:
            alike, name = sum(step in structure.plan.steps for step in own.plan.steps), key.partition("/")[2]
            rung = name.removesuffix(".safetensors")[-1]
            ranked.append(((near, alike, rung, -earlier, name), key, agreed))
    if not ranked:
        return None
    _, key, agreed = max(ranked, key=lambda one: one[0])
    return key, agreed


def with_relative(own: Compressed, compressor: Compressor, table: LayerTable, store: Store,
                  wanted: Tensor) -> tuple[Compressed, bool]:
    """Return what a candidate's first training starts from, and whether it has a relative's weights: `own`, or with
    weights of its nearest trained relative in `store` where that answers more like the original, whose outputs for the
    calibration data are `wanted`."""
    near = nearest(table, compressor.coupling.items, structure_of(own), store, compressor.techniques)
    if near is None:
        return own, False
    key, agreed = near
    try:
        relative = read_trained(kept_weights(store, key, ""), key)
    except StorageError as error:  # damaged, or taken away since
        log.warning("starting without inherited weights: %s", error)
        return own, False
    return better_start(own, relative, agreed, compressor, wanted)
