"""Samples of several shapes, such as pictures of several sizes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autocompress.errors import InputError
from autocompress.tasks.samples import LazySamples, Samples, is_large, take_rows


class ShapedSamples(LazySamples):
    """Samples of several shapes, of which those can be read together that share one. `shape` is that of the first.

    Args:
        parts: samples of one shape each.
        part_of: the part that each sample is in, `(N,)` int64.
        places: its row there, `(N,)` int64.
    """

    def __init__(self, parts: Sequence[Samples], part_of: Tensor, places: Tensor) -> None:
        first = parts[int(part_of[0])]
        super().__init__((len(part_of), *first.shape[1:]), first.dtype)
        self.parts, self.part_of, self._places = [*parts], part_of, places

    def read(self, rows: Tensor) -> Tensor:
        """See `LazySamples`. InputError where the samples have several shapes."""
        numbers = torch.unique(self.part_of[rows]).tolist()
        if len(numbers) > 1:
            shapes = " and ".join(str(tuple(self.parts[number].shape[1:])) for number in numbers[:2])
            raise InputError(f"samples of different batches must have one shape to be mixed, but they have {shapes}: "
                             "pad all to the same size")
        return self.parts[numbers[0] if numbers else 0][self._places[rows]]

    def taken(self, rows: Tensor) -> Samples:
        """The samples at `rows` `(M,)` int64, in that order; of one shape where these are."""
        numbers = torch.unique(self.part_of[rows]).tolist()
        if len(numbers) > 1:
            return ShapedSamples(self.parts, self.part_of[rows], self._places[rows])
        samples: Samples = take_rows(self.parts[numbers[0] if numbers else 0], self._places[rows])
        return samples

    @property
    def is_large(self) -> bool:
        """Whether any of its parts is."""
        return any(map(is_large, self.parts))


def shapes_of(samples: Samples) -> list[tuple[int, ...]]:
    """The shapes of samples, without the axis of samples, each once, in order."""
    if not isinstance(samples, ShapedSamples):
        return [tuple(samples.shape[1:])]
    return [tuple(samples.parts[number].shape[1:]) for number in torch.unique(samples.part_of).tolist()]


def shape_groups(columns: Sequence[Samples]) -> Tensor | None:
    """A number for each sample, `(N,)` int64, the same for those whose shapes are the same in all columns; None where
    all are."""
    shaped = [column.part_of for column in columns if isinstance(column, ShapedSamples)]
    return torch.unique(torch.stack(shaped, 1), dim=0, return_inverse=True)[1] if shaped else None
