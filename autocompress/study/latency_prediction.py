"""Latency on this machine, predicted before a file is built, where it is bounded and measured.

The final figure of every file is measured. The prediction only steers: plans are proposed inside the bound by the rates
of the profile, brought to what the original takes here in float and at 8 bits.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from autocompress.core.budget import Budget
from autocompress.core.evaluation import Metrics
from autocompress.core.plan import Plan
from autocompress.errors import TrialError
from autocompress.estimate import estimate
from autocompress.formats.timing import time_files
from autocompress.hardware.calibration import calibrated
from autocompress.hardware.profile import HardwareProfile
from autocompress.hardware.targets import together
from autocompress.study.file_writer import as_arrays
from autocompress.study.int8_teacher import integer_plan

if TYPE_CHECKING:
    from autocompress.study.workbench import Workbench

log = logging.getLogger(__name__)


def predicted_metrics(profile: HardwareProfile, budget: Budget) -> frozenset[str]:
    """Return the latencies that are bounded and measured on this machine."""
    return frozenset(name for name, device in profile.latencies.items()
                     if device.latency == "measured" and name in budget.bounds)


def predicting(bench: Workbench, baseline: Metrics, budget: Budget) -> HardwareProfile:
    """The bench's profile, with estimates in place of what is measured where that is bounded. `baseline`: the
    original's measured metrics."""
    profile = bench.evaluator.profile
    measured = predicted_metrics(profile, budget)
    if not measured:
        return profile
    (name,) = measured  # there is one machine to measure on
    device = profile.latencies[name]
    integers = integer_plan(bench.network)
    ratio = _integer_ratio(bench, integers) if device.rates.get("int8") and integers.steps else None

    def taking(plan: Plan, rates: HardwareProfile) -> float:
        return estimate(bench.network.table, plan, rates, bench.network.writer.format)["latency_ms"]

    fitted = calibrated(device, baseline[name], lambda p: taking(Plan(), p),
                        None if ratio is None else ratio * baseline[name], lambda p: taking(integers, p))
    if not profile.targets:
        return fitted
    return together([fitted if other.id == device.id else other for other in profile.targets])


def _integer_ratio(bench: Workbench, plan: Plan) -> float | None:
    """How long the original at 8 bits takes, of its time in float, both timed in turn; None where there is no such
    file."""
    try:
        network, writer = bench.network, bench.network.writer
        integers = network.write(network.compressor.compress(plan)).data
        files = {"float": bench.evaluator.open_to_time(writer.original_file),
                 "integers": bench.evaluator.open_to_time(integers)}
    except TrialError as error:
        log.info("8-bit layers are predicted by the profile's rates, because the original has no 8-bit file: %s", error)
        return None
    timed = time_files(files, as_arrays(bench.network.example))
    return float(np.median(timed["integers"].cpu_ms) / np.median(timed["float"].cpu_ms))
