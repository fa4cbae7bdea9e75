"""What a file's answers to a split come to, and the rows in which they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autocompress.core.metric import Metrics

# What a file puts out for some samples: arrays by the name of the output, rows in the order of the samples.
Outputs = Mapping[str, np.ndarray]
# The same for a whole split, or a part of it, as it comes: which rows, and what is put out for them. Rows are ranges,
# or numbers `(M,)` int64 of a part.
Answers = Iterable[tuple[slice | Tensor, Outputs]]


@dataclass(frozen=True)
class Score:
    """What a file's answers to one split come to.

    Args:
        metrics: values by name.
        answers: what the task keeps of the answers, to doubt them by; None for nothing.
    """

    metrics: Metrics
    answers: Any = None


def consecutive_rows(samples: int, most: int) -> Iterator[slice]:
    """Consecutive ranges of at most `most` rows that cover a number of `samples`."""
    yield from (slice(start, min(start + most, samples)) for start in range(0, samples, most))


def gathered(answers: Answers) -> dict[str, np.ndarray]:
    """All `answers` at once, by name: for outputs that are small."""
    return gathered_rows(answers)[1]


def gathered_rows(answers: Answers) -> tuple[Tensor, dict[str, np.ndarray]]:
    """The numbers `(N,)` of all rows that are answered, and all `answers` at once."""
    every = list(answers)
    rows = torch.cat([torch.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows for rows, _ in every])
    return rows, {name: np.concatenate([outputs[name] for _, outputs in every]) for name in every[0][1]}
