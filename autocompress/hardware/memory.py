"""Peak memory of the activations: the largest sum of tensors alive at the same step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import accumulate
from math import ceil

from autocompress.core.layer import Activation

ByLayer = Mapping[str, float] | Callable[[str], float]
FLOAT_BYTES = 4.0


def peak_activation_bytes(
    activations: Sequence[Activation], scale: ByLayer, bytes_per_element: float | ByLayer,
    gone: Collection[str] = (), float_input: bool = True,
) -> int:
    """Bytes of the tensors that are alive at the worst step, input and output included, at batch 1.

    A tensor lives from its step `first` to its step `last`, both included, and shrinks by the mean of
    `scale` (new over old output channels) over its sources; a layer that a mapping leaves out kept its
    channels, and a tensor without sources (the input) keeps its size. `bytes_per_element` is one number,
    or one for each layer: a tensor is as wide as its widest source, and float32 where none is named. The input is as
    wide as the widest layer that reads it takes it, unless it comes as float32 (`float_input`). Of layers that are
    `gone` there is no tensor. A planner that fragments memory, or holds scratch buffers, needs more than this.
    """
    if not activations:
        return 0
    ratio = _lookup(scale, 1.0)
    width = bytes_per_element if isinstance(bytes_per_element, int | float) else _lookup(bytes_per_element, FLOAT_BYTES)
    # A difference array in whole bytes: exact, one pass, and for the hundred tensors of a network faster
    # in plain Python than through NumPy.
    change = [0] * (max(tensor.last for tensor in activations) + 2)
    for tensor in activations:
        holders = tensor.sources or (() if float_input else tensor.readers)
        each = width if isinstance(width, int | float) else max(
            (width(layer) for layer in holders if layer not in gone), default=FLOAT_BYTES)
        mean = share_left(tensor.sources, ratio, gone)
        size = ceil(tensor.elements * mean * each - 1e-6)  # the slack absorbs rounding such as 30 · 0.1
        change[tensor.first] += size
        change[tensor.last + 1] -= size
    return max(accumulate(change))


def share_left(sources: Sequence[str], ratio: Callable[[str], float], gone: Collection[str]) -> float:
    """How much is left of what scales with the channels of `sources`: the mean of their `ratio` over those that are
    still there; nothing where all are gone, all of it where there is no source."""
    left = [ratio(layer) for layer in sources if layer not in gone]
    return sum(left) / len(left) if left else float(not sources)


def _lookup(values: ByLayer, missing: float) -> Callable[[str], float]:
    return values if callable(values) else lambda layer: values.get(layer, missing)
