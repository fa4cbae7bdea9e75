"""Samples that ship with a network, and what it must answer to them."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from autocompress.errors import InputError

INPUTS, EXPECTED = "input/", "expected/"
# Of the samples that ship: so many, or fewer where inputs are large, but one at least.
MOST_SAMPLES, MOST_BYTES = 4, 2**20
# The least deviation that is allowed: integers may round otherwise where sums of floats differ in their last bits.
LEAST_LIMIT = 0.02
# How much larger than at export the deviation may become on another machine.
MARGIN = 1.5

Arrays = Mapping[str, np.ndarray]


def samples_to_ship(shape: tuple[int, ...]) -> int:
    """How many samples of `shape`, without the batch, ship with a network."""
    return max(1, min(MOST_SAMPLES, MOST_BYTES // (4 * max(1, prod(shape)))))


def pack_samples(inputs: Arrays, expected: Arrays) -> bytes:
    """A safetensors file of inputs and expected outputs, by name. Equal arrays give equal bytes."""
    named = {INPUTS + name: values for name, values in inputs.items()}
    named |= {EXPECTED + name: values for name, values in expected.items()}
    data: bytes = save({name: np.ascontiguousarray(values) for name, values in named.items()})
    return data


def unpack_samples(data: bytes, origin: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Inputs and expected outputs of a file that `pack_samples` made. InputError, naming `origin`, for other bytes."""
    try:
        named = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{origin} must be an intact safetensors file, but: {error}") from None
    inputs = {name.removeprefix(INPUTS): values for name, values in named.items() if name.startswith(INPUTS)}
    expected = {name.removeprefix(EXPECTED): values for name, values in named.items() if name.startswith(EXPECTED)}
    if not inputs or not expected:
        raise InputError(f"{origin} must hold arrays {INPUTS}NAME and {EXPECTED}NAME, but holds "
                         f"{', '.join(named) or 'nothing'}")
    return inputs, expected


def deviation(outputs: Arrays, expected: Arrays) -> float:
    """The mean difference between outputs and what is expected, relative to the largest expected value of each; the
    largest over the outputs. Infinite where names or shapes differ or values are not finite."""
    if set(outputs) != set(expected):
        return float("inf")
    return max((_deviation(outputs[name], values) for name, values in expected.items()), default=float("inf"))


def _deviation(outputs: np.ndarray, expected: np.ndarray) -> float:
    if outputs.shape != expected.shape:
        return float("inf")
    if not expected.size:
        return 0.0
    difference = np.abs(outputs.astype(np.float64) - expected).mean() / max(float(np.abs(expected).max()), 1e-12)
    return float(difference) if np.isfinite(difference) else float("inf")


def limit_for(measured: float) -> float:
    """The largest deviation with which a file is verified that had `measured` when it was exported."""
    return max(LEAST_LIMIT, MARGIN * measured)
