"""How activations of 8 bits are rounded: the ranges and the equalization that harm the original least.

Outliers stretch a range that covers all values until little is told apart inside it; where there are none, leaving
values out costs more than it gains. Channels that differ by orders of magnitude need to be rescaled first. Which of
these holds is a property of the network, so the original is written with 8-bit weights and activations in each way, and
the files' answers are compared with its own.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from autocompress.errors import TrialError
from autocompress.formats.running import as_outputs, in_batches
from autocompress.study.file_writer import as_arrays
from autocompress.study.folder import is_described, read_description
from autocompress.study.int8_teacher import integer_plan

if TYPE_CHECKING:
    from torch import Tensor

    from autocompress.backend.network.compressed import Compressed
    from autocompress.space.spec import SpaceSpec
    from autocompress.study.settings import SearchSettings
    from autocompress.study.workbench import Workbench

log = logging.getLogger(__name__)

# What is taken where nothing is measured, and the ways that are compared with it.
UNMEASURED = {"range": "percentile", "equalize": "none"}
RANGES, EQUALIZATION = ("percentile", "minmax", "percentile-99.9"), "activations"
# Calibration samples from which ranges are taken, and as many on which answers are compared.
SAMPLES = 32
# Share of the divergence of the way before it that another must stay below to be taken: the rest is chance.
MARGIN = 0.9
# A divergence that no answer hangs on: nothing else is tried.
NEGLIGIBLE = 1e-3
# The share of the time that is left which this may take, and forward passes that each of its files takes of its
# samples, and rounding the weights takes of all calibration samples.
TIME_SHARE, PASSES, CALIBRATIONS = 0.05, 3, 2


def settled_space(bench: Workbench, spec: SpaceSpec, settings: SearchSettings, folder: Path, unpaying: frozenset[str],
                  each: float, seconds_left: float) -> SpaceSpec:
    """The space file with what it leaves to be measured: as measured, or as it was in the study that is resumed.

    Args:
        bench: with the original.
        spec: the space file.
        settings: of the search.
        folder: of the study.
        unpaying: layers whose activations stay float.
        each: seconds of one sample's forward pass.
        seconds_left: of the search.
    """
    if spec.quantize is None or not spec.quantize.open_choices:
        return spec
    if settings.resume and is_described(folder):
        choices = read_description(folder).rounding  # empty in those of earlier releases: the defaults
    else:
        choices = measured_choices(bench, spec.quantize.open_choices, unpaying, each, TIME_SHARE * seconds_left)
    return msgspec.structs.replace(spec, quantize=spec.quantize.with_measured(choices))


def measured_choices(bench: Workbench, names: tuple[str, ...], unpaying: frozenset[str] = frozenset(),
                     each: float = 0.0, seconds: float = math.inf) -> dict[str, str]:
    """The range and the equalization, those among `names`, with which the original in 8 bits diverges least from its
    answers.

    Args:
        bench: with the original.
        names: `range`, `equalize`, or both.
        unpaying: layers whose activations stay float.
        each: seconds of one sample's forward pass.
        seconds: that it may take; where it takes more, nothing is measured.
    """
    choices = {name: UNMEASURED[name] for name in names}
    network = bench.network
    rounded = {step.site for step in integer_plan(network).steps} - unpaying
    if not rounded or 8 not in bench.evaluator.profile.activation_bits:
        return choices
    files = len(RANGES) * ("range" in names) + ("equalize" in names)
    if each * (CALIBRATIONS * len(network.calibration) + files * PASSES * SAMPLES) > seconds:
        log.info("ranges of activations leave out outliers: to measure what suits the network would take too much of "
                 "the time")
        return choices
    try:
        return _Rounded(bench, rounded).best(choices)
    except TrialError as error:
        log.info("how activations are best rounded could not be measured: %s", error)
        return choices


class _Rounded:
    """Files of the original with 8-bit weights and activations, and how far their answers are from its own."""

    def __init__(self, bench: Workbench, sites: set[str]) -> None:
        network = bench.network
        self._bench, self._sites = bench, sites
        most = len(network.calibration)
        samples = min(SAMPLES, most)
        self._calibration = as_arrays(network.calibration[:samples])
        self._judged = as_arrays(network.calibration[most - samples:])
        self._original = self._answers(network.writer.original_file)

    def best(self, choices: dict[str, str]) -> dict[str, str]:
        """The choices of least divergence; those that are measured replace those of `choices`."""
        choices, compressed = dict(choices), self._compressed(choices)
        first = least = self._divergence(choices, compressed)
        if "range" in choices and least > NEGLIGIBLE:
            for name in RANGES[1:]:
                divergence = self._divergence({**choices, "range": name}, compressed)
                if divergence < MARGIN * least:
                    choices, least = {**choices, "range": name}, divergence
        by_name = self._bench.network.table.by_name
        can_equalize = "equalize" in choices and any(by_name[site].scales_with for site in self._sites)
        if can_equalize and least > NEGLIGIBLE:
            equalized = {**choices, "equalize": EQUALIZATION}
            divergence = self._divergence(equalized, self._compressed(equalized))
            if divergence < MARGIN * least:
                choices, least = equalized, divergence
        log.info("activations are rounded with %s: in 8 bits the original diverges by %.3g from its answers (%.3g with "
                 "%s)", _words(choices), least, first, _words(UNMEASURED))
        return choices

    def _compressed(self, choices: Mapping[str, str]) -> Compressed:
        return self._bench.network.compressor.compress(integer_plan(self._bench.network, choices))

    def _divergence(self, choices: Mapping[str, str], compressed: Compressed) -> float:
        network = self._bench.network
        writable = network.writer.writable(compressed)
        bits = {site: width for site, width in writable.activation_bits.items() if site in self._sites}
        writable = replace(writable, calibration=self._calibration, activation_bits=bits,
                           range_method=choices.get("range", writable.range_method))
        data = network.writer.format.write(network.writer.prepared, writable, self._bench.evaluator.threads).data
        return network.likelihood.divergence(self._answers(data), self._original)

    def _answers(self, data: bytes) -> Tensor:
        network = self._bench.network
        runtime = network.writer.format.open(data, self._bench.evaluator.threads)
        return network.likelihood.canonical(as_outputs(in_batches(runtime, self._judged, network.rows)))


def _words(choices: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in choices.items())
