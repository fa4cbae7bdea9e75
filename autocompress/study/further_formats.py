"""Formats beside the one that is searched: the best candidate's files in them, each an artefact of its own.

A search scores and bounds files of one format. What it ends with can ship in others too: their files hold the same
integers, are run and scored on the same samples, and lie in folders of the artefact that have the formats' names.
"""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from autocompress.artifact.options import ExportOptions
from autocompress.core.evaluation import Candidate
from autocompress.core.store import MemoryStore
from autocompress.errors import AutocompressError, TrialError
from autocompress.formats.base import Format
from autocompress.formats.table import format_named
from autocompress.study.evaluator import Evaluator
from autocompress.study.export_candidate import ship
from autocompress.study.file_writer import FileWriter

if TYPE_CHECKING:
    from autocompress.study.folder import Description
    from autocompress.study.workbench import Workbench

log = logging.getLogger(__name__)


def in_format(bench: Workbench, file_format: Format) -> Workbench:
    """The same network and weights on a bench whose files have another format.

    Raises:
        InputError: when that format cannot hold the network.
    """
    other, network = copy.copy(bench), copy.copy(bench.network)
    network.writer = FileWriter(network.model, network.table, network.calibration, file_format, network.writer.threads,
                                network.techniques)
    network.table = network.writer.table
    network.writer.check_original()
    other.network, other.store = network, MemoryStore()
    other.evaluator = Evaluator(network, bench.trainer, bench.evaluator.profile, store=other.store,
                                threads=bench.evaluator.threads)
    other.evaluator.sizes, other.evaluator.measuring = bench.evaluator.sizes, bench.evaluator.measuring
    return other


def ship_in_all(bench: Workbench, candidate: Candidate, folder: Path, description: Description,
                options: ExportOptions | None = None) -> dict[str, Any]:
    """Write the artefact of a candidate, and one in each further format of the study in a folder of the format's name.

    Returns:
        The verified facts of the first; under `further`, those of the others by format.

    Raises:
        AutocompressError: as `ship`, and when a further format's file cannot be written or does not do what the
            candidate's does.
    """
    facts = ship(bench, candidate, folder, description, options)
    names = description.settings.further_formats
    if names:
        facts["further"] = {name: _shipped(in_format(bench, format_named(name)), candidate, folder / name, description,
                                           options) for name in names}
    return facts


def _shipped(other: Workbench, candidate: Candidate, folder: Path, description: Description,
             options: ExportOptions | None) -> dict[str, Any]:
    """The artefact of a candidate in the format of `other`, scored there first."""
    assert candidate.plan is not None and candidate.best is not None
    best, name = candidate.best, other.network.writer.format.name
    try:
        scored = other.evaluator.measured(other.trainer.rebuild(candidate.plan, best.rung, best.weights), best.rung, {},
                                          best.weights)
    except TrialError as error:
        raise AutocompressError(f"trial {candidate.trial} must be written in the further format {name}, but {error}; "
                                "export it without") from error
    metric = description.metric
    log.info("in %s: %s %s, %d bytes", name, metric.name, metric.format(scored.metrics[metric.name]),
             scored.metrics["size_bytes"])
    return ship(other, msgspec.structs.replace(candidate, evaluations=(scored,)), folder, description, options)
