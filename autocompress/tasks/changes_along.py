"""What changes along in a batch where inputs of training are changed: maps of pictures, such as masks, and the inputs
themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autocompress.tasks.augmentation import Augmentation
from autocompress.tasks.batch_structure import changed_at
from autocompress.tasks.batches import Batches
from autocompress.tasks.samples import Samples
from autocompress.tasks.views import Changes, Shifts

# Samples of a mask in which a value that does not count is looked for.
TOLD_BY = 256
# In masks that hold further values beside 0, the one that does not count.
UNCOUNTED = 255


@dataclass(frozen=True)
class ChangesAlong:
    """What of a batch is changed as its inputs are.

    Args:
        inputs: the inputs that batches hold as the network reads them, their names by their places in a batch.
        maps: by the places of maps, what comes in at their edges.
    """

    inputs: Mapping[str, str]
    maps: Mapping[str, int]

    def applied(self, changes: Mapping[str, Changes], batch: Any, rows: Tensor) -> Any:
        """A batch with the changes of its inputs.

        Args:
            changes: of all samples, by the names of inputs.
            batch: as it came.
            rows: numbers `(B,)` of its samples.
        """
        shifts = next((each for each in changes.values() if isinstance(each, Shifts)), None)

        def change(place: str, value: Any) -> Any:
            if (name := self.inputs.get(place)) is not None and name in changes:
                return _as_given(value, changes[name][rows].applied)
            if shifts is not None and (edge := self.maps.get(place)) is not None:
                return _as_given(value, partial(_moved, shifts[rows], edge))
            return value

        return changed_at(batch, change)


def changes_along(batches: Batches, inputs: Mapping[str, str], augmentation: Augmentation) -> ChangesAlong | None:
    """What changes along in batches; None where they hold more than labels and maps beside inputs, which nothing tells
    how to change.

    Args:
        batches: of training.
        inputs: the column of each input.
        augmentation: what is changed about inputs.
    """
    places = batches.places
    if places is None:
        return None
    columns = {column: name for name, column in inputs.items()}
    pictures = {tuple(batches.column(column).shape[2:]) for column in columns if batches.column(column).ndim == 4}
    input_places, maps = {}, {}
    for place, (column, samples) in places.items():
        if column in columns:
            input_places[place] = columns[column]
        elif augmentation.of_pictures and _is_map(samples, augmentation.flip) and tuple(samples.shape[-2:]) in pictures:
            maps[place] = _edge_of(samples)
        elif samples.ndim != 1 or samples.dtype.is_floating_point:
            return None
    return None if maps and augmentation.of_sounds else ChangesAlong(input_places, maps)


def _is_map(samples: Samples, flip: bool) -> bool:
    """Whether samples are `(N, H, W)` or `(N, C, H, W)`, and mirroring keeps what they say: numbers with a point on
    several channels may be directions."""
    return samples.ndim == 3 or (samples.ndim == 4 and not (
        flip and samples.dtype.is_floating_point and samples.shape[1] > 1))


def _edge_of(samples: Samples) -> int:
    """What comes in at the edges of maps: of masks what does not count in them, a negative value or 255 beside others,
    else 0."""
    if samples.dtype.is_floating_point or samples.dtype == torch.bool:
        return 0
    values = torch.unique(samples[:TOLD_BY])
    if int(values[0]) < 0:
        return int(values[0])
    return UNCOUNTED if int(values[-1]) == UNCOUNTED and len(values) > 2 else 0


def _moved(shifts: Shifts, edge: int, maps: Tensor) -> Tensor:
    return shifts.applied(maps[:, None], edge)[:, 0] if maps.dim() == 3 else shifts.applied(maps, edge)


def _as_given(value: Any, change: Any) -> Any:
    """What a function of a tensor makes of a tensor or array, as the same."""
    return change(torch.from_numpy(value)).numpy() if isinstance(value, np.ndarray) else change(value)
