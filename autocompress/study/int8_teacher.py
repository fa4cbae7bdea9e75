"""The original as a teacher on a CPU: its own 8-bit file is several times faster there than the network in torch."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from autocompress.core.plan import Plan, Step
from autocompress.errors import TrialError
from autocompress.formats.onnx.runtime import Runtime

if TYPE_CHECKING:
    from autocompress.study.workbench import Workbench

log = logging.getLogger(__name__)

LEAST_AGREEMENT = 0.98
"""Share of calibration samples to which the 8-bit file gives the original's class before it may teach in its place."""


def integer_plan(bench: Workbench) -> Plan:
    """8-bit weights and activations wherever a layer can have them."""
    return Plan.of([Step(layer.name, "quantize", {"weight_bits": 8, "activation_bits": 8})
                    for layer in bench.table.layers if layer.kind in ("conv", "linear")
                    and not (layer.not_compressible_reason or layer.float_activations)])


def answering_file(bench: Workbench) -> bytes | None:
    """The original with 8-bit weights and activations, or None where there is no such file or it answers otherwise."""
    try:
        file = bench.build(bench.compressor.compress(integer_plan(bench))).data
    except TrialError as error:
        log.info("the original has no 8-bit file to learn from: %s", error)
        return None
    inputs = bench.calibration.numpy()
    classes = [Runtime(known, bench.threads).logits(inputs).argmax(1) for known in (file, bench.baseline_file)]
    return file if (classes[0] == classes[1]).mean() >= LEAST_AGREEMENT else None
