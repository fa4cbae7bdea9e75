"""Answers of a loaded file to many samples, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from autocompress.core.batch_sizes import rows_at_once
from autocompress.errors import TrialError
from autocompress.formats.base import Arrays, Runtime

# Samples of one run at most, where inputs are small.
MOST_ROWS = 256


def answered(runtime: Runtime, batches: Iterable[Arrays]) -> dict[str, np.ndarray]:
    """Run a file on `batches`, which are made as they are needed, and return its outputs for all of them.

    Raises:
        TrialError: when an output is not finite.
    """
    every = [runtime.run(batch) for batch in batches]
    outputs = {name: np.concatenate([batch[name] for batch in every]) for name in every[0]}
    if not all(np.isfinite(values).all() for values in outputs.values()):
        raise TrialError("nan: the exported file puts out values that are not finite")
    return outputs


def in_batches(runtime: Runtime, inputs: Arrays) -> dict[str, np.ndarray]:
    """Run a file on all samples of `inputs`, as many at once as memory allows."""
    first = next(iter(inputs.values()))
    rows = rows_at_once(first.shape[1:], MOST_ROWS)
    every = [runtime.run({name: values[i:i + rows] for name, values in inputs.items()})
             for i in range(0, len(first), rows)]
    return {name: np.concatenate([batch[name] for batch in every]) for name in every[0]}


def the_one(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The output of a network that has one. ValueError when it has several."""
    (output,) = outputs.values()
    return output
