"""What a file's answers to a split come to, and the rows in which they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from autocompress.core.metric import Metrics

# What a file puts out for some samples: arrays by the name of the output, rows in the order of the samples.
Outputs = Mapping[str, np.ndarray]
# The same for a whole split, as it comes: which rows, and what is put out for them.
Answers = Iterable[tuple[slice, Outputs]]


@dataclass(frozen=True)
class Score:
    """The metrics of a file on one split, and what its task keeps of the answers to doubt them by."""

    metrics: Metrics
    answers: Any = None


def consecutive_rows(samples: int, most: int) -> Iterator[slice]:
    """Consecutive ranges of at most `most` rows that cover all samples."""
    yield from (slice(start, min(start + most, samples)) for start in range(0, samples, most))


def gathered(answers: Answers) -> dict[str, np.ndarray]:
    """All answers at once, by name: for outputs that are small."""
    every = [outputs for _, outputs in answers]
    return {name: np.concatenate([outputs[name] for outputs in every]) for name in every[0]}
