"""The original as a teacher on a CPU: its own 8-bit file is several times faster there than the network in torch."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from autocompress.core.plan import Plan, Step
from autocompress.errors import TrialError
from autocompress.formats.running import as_outputs, in_batches
from autocompress.study.file_writer import as_arrays
from autocompress.techniques.quantize import DEFAULTS, QUANTIZE, quantize_args

if TYPE_CHECKING:
    from autocompress.study.traced import TracedNetwork

log = logging.getLogger(__name__)

# How far the 8-bit file must agree with the original on calibration samples (`Likelihood.agreement`) before it may
# teach in its place: of classes, the share that are the same.
LEAST_AGREEMENT = 0.98


def integer_plan(network: TracedNetwork, choices: Mapping[str, str] | None = None) -> Plan:
    """8-bit weights and activations wherever a layer can have them, in the format of the files; `choices` of how they
    are rounded, by the names of the step's arguments, wherever they are legal."""
    settings = {**DEFAULTS, **(choices or {})}
    steps = [(layer, Step(layer.name, QUANTIZE.name, quantize_args(8, 8, settings, layer)))
             for layer in network.table.layers if layer.kind in ("conv", "linear")
             and not (layer.not_compressible_reason or layer.float_activations)]
    return Plan.of([step for layer, step in steps if not network.writer.format.legal(step, layer)])


def int8_file(network: TracedNetwork, threads: int) -> bytes | None:
    """The original's file with 8-bit weights and activations; None where there is none, its runtime is slower than
    torch, or it answers otherwise."""
    plan, file_format = integer_plan(network), network.writer.format
    if not plan.steps or not file_format.runs_integers_fast:
        return None
    try:
        file = network.write(network.compressor.compress(plan)).data
    except TrialError as error:
        log.info("the original has no 8-bit file to learn from: %s", error)
        return None
    integer, original = (
        network.likelihood.canonical(as_outputs(
            in_batches(file_format.open(data, threads), as_arrays(network.calibration), network.rows)))
        for data in (file, network.writer.original_file))
    return file if network.likelihood.agreement(integer, original) >= LEAST_AGREEMENT else None
