"""Which layers 8-bit activations make faster on this machine, measured on the original.

Integer kernels save time in large layers; in small ones, or where a processor has no instructions for them, quantising
and dequantising tensors costs more than that. The original is written with 8-bit weights and its layers' activations in
8 bits, in float, and in 8 bits but for one class of layers after another, and the files are timed in turn. Where float
is faster, a layer's activations stay float: its weights are as small, and the runtime unpacks them when it loads.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from autocompress.core.layer import Layer
from autocompress.errors import TrialError
from autocompress.formats.base import Runtime
from autocompress.formats.timing import time_files
from autocompress.quantities import format_milliseconds
from autocompress.study.file_writer import as_arrays
from autocompress.study.int8_teacher import integer_plan

if TYPE_CHECKING:
    from autocompress.space.spec import SpaceSpec
    from autocompress.study.workbench import Workbench

log = logging.getLogger(__name__)

# Largest share of the time of the file beside it that a file takes to be called faster.
MARGIN = 0.97
# Most input channels of a layer that reads an image: too few for an integer kernel to be fast.
IMAGE = 4
# Calibration inputs from which ranges of these files are taken: only their speed matters.
SAMPLES = 8
# Most rounds and seconds of one comparison of two files.
ROUNDS, SECONDS = 15, 0.6
# Forward passes of all calibration inputs that a network in 8 bits takes, and those of single samples that timing does.
CALIBRATIONS, TIMED = 4, 100
# Ratio of the times of 8 bits everywhere and of float above which no choice of layers is looked for.
HOPELESS = 1.5
# An inference that takes longer has layers so large that classes of them are not told apart: time is short.
LONGEST_MS = 200.0


def unpaying_layers(bench: Workbench, spec: SpaceSpec, each: float = 0.0, seconds: float = math.inf) -> frozenset[str]:
    """Layers whose activations stay float because 8 bits do not pay, where latency is measured on this machine alone
    and the space leaves the choice.

    Args:
        bench: with the original.
        spec: the space file.
        each: seconds of one sample's forward pass.
        seconds: that it may take; where it takes more, 8 bits are taken to pay.
    """
    widths = (8, 32)
    open_ = spec.quantize is not None and (spec.quantize.activation_bits == "profile"
                                           or set(widths) <= set(spec.quantize.activation_bits))
    if not open_ or bench.evaluator.profile.targets or bench.evaluator.profile.latency != "measured" \
            or not set(widths) <= set(bench.evaluator.profile.activation_bits):
        return frozenset()
    if each * (CALIBRATIONS * len(bench.network.calibration) + TIMED) > seconds:
        log.info("8-bit activations are taken to pay in every layer: to measure it would take too much of the time")
        return frozenset()
    try:
        return _Comparison(bench).unpaying()
    except TrialError as error:
        log.info("which layers 8-bit activations make faster could not be measured: %s", error)
        return frozenset()


class _Comparison:
    """Files of the original with 8-bit weights that differ in which layers have 8-bit activations."""

    def __init__(self, bench: Workbench) -> None:
        network, plan = bench.network, integer_plan(bench.network)
        self._bench = bench
        self._network = replace(network.writer.writable(network.compressor.compress(plan)),
                                calibration=as_arrays(network.calibration[:SAMPLES]))
        self._layers = [bench.network.table.by_name[step.site] for step in plan.steps]

    def unpaying(self) -> frozenset[str]:
        """Names of layers, none or all of them where that is the fastest."""
        every = {layer.name for layer in self._layers}
        if not every:
            return frozenset()
        integer_layers, best, real = set(every), self._file(every), self._file(())
        integer_ms, real_ms = self._times(best, real)
        hopeless = integer_ms > HOPELESS * real_ms
        for names in self._classes() if integer_ms < LONGEST_MS and not hopeless else ():
            rest = integer_layers - names
            if not rest:
                continue
            file = self._file(rest)
            before, after = self._times(best, file)
            if after < MARGIN * before:
                integer_layers, best = rest, file
        fast, slow = self._times(best, real) if len(integer_layers) < len(every) else (integer_ms, real_ms)
        if fast > MARGIN * slow:
            integer_layers = set()
        if integer_layers != every:
            log.info("activations of %d of %d layers stay float: on this machine the original takes %s in float, %s "
                     "with 8-bit activations, and %s with those that pay", len(every - integer_layers), len(every),
                     *map(format_milliseconds, (slow, integer_ms, fast if integer_layers else slow)))
        return frozenset(every - integer_layers)

    def _classes(self) -> list[set[str]]:
        """Layers that one kernel runs, those first that have the fewest multiplications each."""
        classes: dict[str, list[Layer]] = {}
        for layer in self._layers:
            classes.setdefault(_kernel(layer), []).append(layer)
        ordered = sorted(classes.values(), key=lambda layers: np.mean([_macs(layer) for layer in layers]))
        return [{layer.name for layer in layers} for layers in ordered] if len(ordered) > 1 else []

    def _file(self, quantised: Collection[str]) -> Runtime:
        writer = self._bench.network.writer
        network = replace(self._network, activation_bits=dict.fromkeys(quantised, 8))
        evaluator = self._bench.evaluator
        return evaluator.open_to_time(writer.format.write(writer.prepared, network, evaluator.threads).data)

    def _times(self, first: Runtime, second: Runtime) -> tuple[float, float]:
        timed = time_files({"first": first, "second": second}, as_arrays(self._bench.network.example), ROUNDS, SECONDS)
        return float(np.median(timed["first"].cpu_ms)), float(np.median(timed["second"].cpu_ms))


def _kernel(layer: Layer) -> str:
    if layer.kind != "conv":
        return layer.kind
    if layer.in_channels <= IMAGE:
        return "first"
    if layer.groups > 1:
        return "depthwise" if layer.groups == layer.in_channels else "grouped"
    return "pointwise" if math.prod(layer.kernel) == 1 else "conv"


def _macs(layer: Layer) -> float:
    return layer.params * layer.positions
