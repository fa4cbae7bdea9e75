"""Peak memory of the activations: the largest sum of tensors alive at the same step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from math import ceil

from autocompress.core.layer import Activation

ByLayer = Mapping[str, float] | Callable[[str], float]
FLOAT_BYTES = 4.0


def peak_activation_bytes(
    activations: Sequence[Activation], scale: ByLayer, bytes_per_element: float | ByLayer
) -> int:
    """Bytes of the intermediate tensors at the worst step, at batch 1.

    A tensor lives from its step `first` to its step `last`, both included, and shrinks by the mean of
    `scale` (new over old output channels) over its sources; a layer that a mapping leaves out kept its
    channels, and a tensor without sources (the input) keeps its size. `bytes_per_element` is one number,
    or one for each layer: a tensor is as wide as its widest source, and float32 where none is named.
    A planner that fragments memory, or holds scratch buffers, needs more than this.
    """
    if not activations:
        return 0
    ratio = _lookup(scale, 1.0)
    width = bytes_per_element if isinstance(bytes_per_element, int | float) else _lookup(bytes_per_element, FLOAT_BYTES)
    # A difference array in whole bytes: exact, one pass, and for the hundred tensors of a network faster
    # in plain Python than through NumPy.
    change = [0] * (max(tensor.last for tensor in activations) + 2)
    for tensor in activations:
        sources = tensor.sources
        mean = sum(map(ratio, sources)) / len(sources) if sources else 1.0
        each = width if isinstance(width, int | float) else max(map(width, sources), default=FLOAT_BYTES)
        size = ceil(tensor.elements * mean * each - 1e-6)  # the slack absorbs rounding such as 30 · 0.1
        change[tensor.first] += size
        change[tensor.last + 1] -= size
    return max(accumulate(change))


def _lookup(values: ByLayer, missing: float) -> Callable[[str], float]:
    return values if callable(values) else lambda layer: values.get(layer, missing)
