"""Answers of a loaded file to many samples, in batches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from autocompress.core.evaluation import LATENCY, Metrics
from autocompress.errors import InputError, TrialError
from autocompress.formats.base import Arrays, Runtime
from autocompress.tensors.named import from_names

# Samples of one run at most, where inputs are small.
MOST_ROWS = 256


def in_batches(runtime: Runtime, inputs: Arrays, rows: int = MOST_ROWS) -> dict[str, np.ndarray]:
    """Run a file on all samples of `inputs`, `rows` at once."""
    first = next(iter(inputs.values()))
    every = [runtime.run({name: values[i:i + rows] for name, values in inputs.items()})
             for i in range(0, len(first), rows)]
    return {name: np.concatenate([batch[name] for batch in every]) for name in every[0]}


def require_sizes(runtime: Runtime, inputs: Arrays, example: Arrays, what: str) -> None:
    """InputError where inputs have another size than those that a file was made for, and it leaves none free.

    Args:
        runtime: has the file.
        inputs: arrays `(N, …)` by name.
        example: those that the file was made for.
        what: the inputs, in words.
    """
    for name, samples in inputs.items():
        size, fixed = samples.shape[1:], example[name].shape[1:]
        differ = {axis for axis, (one, other) in enumerate(zip(size, fixed, strict=True), 1) if one != other}
        if differ - {*runtime.free_axes.get(name, ())}:
            raise InputError(f"{what} must have the size that the file takes in {name}, {fixed}, but have {size}: "
                             "bring all to one size, or leave sizes free in the file with --dynamic (dynamic=True), "
                             "where network and format allow that")


def values_of_sample(inputs: Arrays) -> int:
    """Number of values of one sample in all inputs."""
    return sum(math.prod(samples.shape[1:]) for samples in inputs.values())


def on_device(runtime: Runtime) -> Metrics:
    """The metrics that a runtime, or the compiler for its device, tells of a file."""
    told = {"size_bytes": runtime.flash_bytes, "peak_memory_bytes": runtime.peak_memory_bytes,
            LATENCY: runtime.latency_ms}
    return {name: value for name, value in told.items() if value is not None}


def require_finite(outputs: Mapping[str, np.ndarray]) -> None:
    """TrialError where a file puts out NaN or infinite values."""
    if not all(np.isfinite(values).all() for values in outputs.values()):
        raise TrialError("nan: the exported file puts out values that are not finite")


def as_outputs(outputs: Mapping[str, np.ndarray]) -> Any:
    """What a file puts out as the network would: a tensor, or `NamedTensors`."""
    return from_names({name: torch.from_numpy(values) for name, values in outputs.items()})


def largest_difference(outputs: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> float:
    """The largest difference between two sets of outputs, relative to the largest expected value of each; infinite
    where names or shapes differ."""
    if [*outputs] != [*expected]:
        return float("inf")
    return max(_difference(outputs[name], values) for name, values in expected.items())


def _difference(output: np.ndarray, expected: np.ndarray) -> float:
    if output.shape != expected.shape:
        return float("inf")
    if not expected.size:
        return 0.0
    scale = max(float(np.abs(expected).max()), 1e-6)
    return float(np.abs(output.astype(np.float64) - expected).max()) / scale
