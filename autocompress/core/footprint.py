"""The memory that one sample takes in a network, from the tensors of its trace."""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

from autocompress.core.layer import LayerTable

# Of a float value.
BYTES = 4


class Footprint(NamedTuple):
    """Bytes of one sample's tensors.

    Attributes:
        live: of those alive at once where nothing is kept for a backward pass, at most.
        every: of all tensors together, as training keeps them and as passes that output every tensor do.
    """

    live: int
    every: int


def footprint(table: LayerTable) -> Footprint:
    """The bytes of one sample in the original, its input and outputs among them, as 4-byte values."""
    changes: dict[int, int] = {}
    for tensor in table.activations:
        changes[tensor.first] = changes.get(tensor.first, 0) + tensor.elements
        changes[tensor.last + 1] = changes.get(tensor.last + 1, 0) - tensor.elements
    alive = accumulate(changes[step] for step in sorted(changes))
    return Footprint(BYTES * max(alive, default=0), BYTES * sum(tensor.elements for tensor in table.activations))
