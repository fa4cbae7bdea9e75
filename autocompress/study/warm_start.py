"""Trained candidates that are near enough to a plan to lend it weights: found in the folders of studies, so that any
process can."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from autocompress.backend.compress import Compressor
from autocompress.backend.graph.coupling import Item
from autocompress.backend.network.checkpoint import Structure, read_structure, read_trained, structure_of
from autocompress.backend.network.compressed import Compressed
from autocompress.backend.training.warm_start import Places, agreements, better_start, overlap
from autocompress.core.layer import LayerTable
from autocompress.core.plan import Plan, Scalar
from autocompress.errors import StorageError
from autocompress.techniques.apply import Techniques
from autocompress.techniques.quantize import steps_of
from autocompress.techniques.table import TECHNIQUES

log = logging.getLogger(__name__)

WEIGHTS = "weights"


def weights_path(folder: Path, plan: Plan, rung: int) -> Path:
    """Where a study keeps the weights that a plan had after `rung`."""
    return folder / WEIGHTS / f"{plan.fingerprint}-{rung}.safetensors"


def rescaled(plan: Plan) -> dict[str, Scalar]:
    """How channels are rescaled, by layer: where that differs, a weight of one network is not the same in another."""
    return {site: step.args["equalize"] for site, step in steps_of(plan).items() if "equalize" in step.args}


def nearest(table: LayerTable, items: Mapping[str, tuple[Item, ...]], own: Structure,
            folders: Sequence[Path], techniques: Techniques = TECHNIQUES) -> tuple[Path, dict[str, Places]] | None:
    """The weights of the trained candidate nearest to `own` in plan, and the layers in which they agree; of its
    trainings the longest. None where none has a layer in common.

    `folders` are those of studies of this network, the first the one that `own` is trained for: what that has of the
    same plan is a training which did not come to its end.
    """
    ranked = []
    for number, folder in enumerate(folders):
        for path in sorted((folder / WEIGHTS).glob("*-?.safetensors")):
            structure = read_structure(path)
            if structure is None or rescaled(structure.plan) != rescaled(own.plan) \
                    or (number == 0 and structure.plan == own.plan):
                continue
            found = agreements(table, items, own, structure)
            near = overlap(table, own.plan, structure.plan, list(found), techniques)
            if near > 0:
                alike = sum(step in structure.plan.steps for step in own.plan.steps)
                ranked.append(((near, alike, path.stem[-1], -number, path.name), path, found))
    if not ranked:
        return None
    _, path, found = max(ranked, key=lambda one: one[0])
    return path, found


def with_relative(own: Compressed, compressor: Compressor, table: LayerTable, folders: Sequence[Path],
                  wanted: Tensor) -> tuple[Compressed, bool]:
    """What a candidate's first training starts from: `own`, or with weights of its nearest trained relative where that
    answers more like the original, whose outputs for the calibration data are `wanted`; and whether it
    has them. `folders`: see `nearest`."""
    near = nearest(table, compressor.coupling.items, structure_of(own), folders, compressor.techniques)
    if near is None:
        return own, False
    path, agreed = near
    try:
        relative = read_trained(path)
    except StorageError as error:  # damaged, or taken away since
        log.warning("starting without inherited weights: %s", error)
        return own, False
    return better_start(own, relative, agreed, compressor, wanted)
