"""The task's metric on disturbed samples of the test split, of the original's file and of the exported one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from autocompress.formats.base import Arrays, Runtime
from autocompress.study.file_writer import as_arrays
from autocompress.study.workbench import Workbench

log = logging.getLogger(__name__)

# Share of a time limit that disturbed samples may take, and the fewest that tell anything.
SHARE, FEWEST = 0.03, 8
# Samples that are disturbed, and multiply-accumulates of all runs of one file together that bound them.
LEAST_SAMPLES, MOST_SAMPLES, MOST_MACS = 32, 512, 2e11
# Standard deviation of the noise, in that of the inputs; of the blur, in pixels; what is left of the contrast.
NOISE, BLUR, CONTRAST = 0.3, 1.0, 0.5
LEAST_SIDE = 4

Disturbance = Callable[[np.ndarray], np.ndarray]


class _Disturbed(Runtime):
    """A file whose inputs are disturbed before it reads them."""

    def __init__(self, runtime: Runtime, disturb: Mapping[str, Disturbance]) -> None:
        self._runtime, self._disturb = runtime, disturb

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """As the file runs on what the disturbances make of the inputs."""
        return self._runtime.run({name: self._disturb[name](values) if name in self._disturb else values
                                  for name, values in inputs.items()})

    @property
    def free_axes(self) -> dict[str, tuple[int, ...]]:
        """Those of the file."""
        return self._runtime.free_axes


def robustness(bench: Workbench, original: Runtime, file: Runtime, macs: float) -> dict[str, Any]:
    """Measure how much noise, blur and less contrast cost the original and the exported file.

    Args:
        bench: of the study.
        original: the original's file.
        file: the exported one.
        macs: multiply-accumulates of the original for one sample, by which fewer samples of large networks are run.

    Returns:
        The number of samples, and a list of disturbances with the task's metric of both files, the undisturbed one
        first; empty where nothing can be disturbed (tokens), the task scores no part of its test split, or the time
        limit leaves too little time.
    """
    task, metric = bench.network.task, bench.network.task.metric.name
    kinds = disturbances(as_arrays(bench.network.calibration))
    count, available = _affordable(bench, len(kinds), macs), task.samples("test")
    if len(kinds) >= 2 and not count:
        log.warning("the card says nothing of noise, blur and contrast: the time limit is too short to measure them")
    if len(kinds) < 2 or not count or (available > count and task.part("test", count) is None):
        return {}
    samples = None if available <= count else count
    rows = []
    for what, make in kinds.items():
        scored = {whose: bench.evaluator.score(_Disturbed(runtime, make()), "test", samples).metrics[metric]
                  for whose, runtime in (("original", original), ("file", file))}
        rows.append({"disturbance": what, **scored})
    return {"samples": min(available, count), "metric": metric, "rows": rows}


def disturbed_runs(bench: Workbench, macs: float) -> int:
    """Return how many samples `robustness` runs through one file, for the time that is reserved for it."""
    kinds = len(disturbances(as_arrays(bench.network.calibration)))
    return 0 if kinds < 2 else kinds * min(_affordable(bench, kinds, macs), bench.network.task.samples("test"))


def _affordable(bench: Workbench, kinds: int, macs: float) -> int:
    """How many samples are disturbed in so many ways within the time limit of the search, if there is one; 0 where too
    few are."""
    each = bench.evaluator.sample_seconds
    count = int(min(_samples(kinds, macs), SHARE * bench.evaluator.limit / (2 * kinds * max(1e-9, each))))
    return count if count >= FEWEST else 0


def _samples(kinds: int, macs: float) -> int:
    """How many samples are disturbed in so many ways, for a network of so many multiply-accumulates a sample."""
    return int(min(MOST_SAMPLES, max(LEAST_SAMPLES, MOST_MACS / (kinds * max(1.0, macs)))))


def disturbances(inputs: Arrays) -> dict[str, Callable[[], dict[str, Disturbance]]]:
    """By what they are in words, functions that make disturbances of each input, the same each time.

    Args:
        inputs: calibration inputs `(N, …)` by name, as the network reads them.
    """
    floats = {name: values for name, values in inputs.items() if values.dtype.kind == "f"}
    pictures = [name for name, values in floats.items() if values.ndim == 4 and min(values.shape[2:]) >= LEAST_SIDE]
    kinds: dict[str, Callable[[], dict[str, Disturbance]]] = {"none": dict}
    if floats:
        kinds[f"normal noise, {NOISE:g} of the inputs' standard deviation"] = lambda: {
            name: _noise(NOISE * float(values.std())) for name, values in floats.items()}
    if pictures:
        kinds[f"Gaussian blur, {BLUR:g} pixel"] = lambda: dict.fromkeys(pictures, _blurred)
        kinds[f"contrast, {CONTRAST:g} of it left"] = lambda: dict.fromkeys(pictures, _flattened)
    return kinds


def _noise(deviation: float) -> Disturbance:
    rng = np.random.default_rng(0)
    return lambda values: values + (deviation * rng.standard_normal(values.shape)).astype(values.dtype)


def _blurred(values: np.ndarray) -> np.ndarray:
    from scipy.ndimage import gaussian_filter  # half a second, which starting a search need not take

    return np.asarray(gaussian_filter(values, (0, 0, BLUR, BLUR), mode="nearest"))


def _flattened(values: np.ndarray) -> np.ndarray:
    mean = values.mean(axis=(2, 3), keepdims=True)
    return np.asarray(mean + CONTRAST * (values - mean), values.dtype)
