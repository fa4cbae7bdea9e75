"""Detection of the axis of the samples in tensors inside a network, by batches of two sizes and a shuffled batch.

Most layers see the samples along their first axis. Some networks fold windows, frames or steps into it, put the
sequence first, or call a layer once for the whole batch; a shape alone cannot tell, since sizes may coincide.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.tensors.named import Inputs

# Batch sizes that are compared. An axis of the samples has the same multiple of both as its size.
FEWER, MORE = 5, 7
# Largest difference, relative to the largest value, between a sample before and after the batch is shuffled.
TOLERANCE = 1e-3

Shape = Sequence[int]


@dataclass(frozen=True)
class SampleAxis:
    """The samples lie along `axis`, each with `each` entries: its own in a row, or, where `fastest`, `each` runs of all
    samples."""

    axis: int
    each: int = 1
    fastest: bool = False

    @property
    def first(self) -> bool:
        """Whether the first axis is the samples, those of each in a row."""
        return self.axis == 0 and not self.fastest

    def split(self, tensor: Tensor) -> Tensor:
        """The tensor as `(N, each, *its other axes in order)`."""
        moved = tensor.movedim(self.axis, 0)
        if self.fastest:
            return moved.reshape(self.each, -1, *moved.shape[1:]).transpose(0, 1)
        return moved.reshape(-1, self.each, *moved.shape[1:])


@dataclass(frozen=True)
class Seen:
    """What one tensor is for a sample: its `shape` without the axis of the samples, and that axis; None where the
    tensor is the same for the whole batch, or where no axis is proved to be the samples."""

    shape: tuple[int, ...]
    samples: SampleAxis | None


@dataclass(frozen=True)
class Call:
    """What a module reads (its first argument) and writes (its first result) when it is first called."""

    reads: Seen
    writes: Seen


def observe_calls(model: nn.Module, inputs: Inputs, names: Iterable[str]) -> dict[str, Call]:
    """A `Call` of each of the modules `names` that is called, in the order of the calls.

    `inputs` `(N, …)`: real ones, of which up to `MORE` are used, by three passes in eval mode.
    """
    names = list(names)
    more = inputs[torch.arange(MORE) % len(inputs)]
    order = torch.randperm(MORE, generator=torch.Generator().manual_seed(0))
    small = _recorded(model, more[:FEWER], names, {})
    shapes = {name: (reads.shape, writes.shape) for name, (reads, writes) in small.items()}
    whole, shuffled = (_recorded(model, batch, names, shapes) for batch in (more, more[order]))
    calls = {}
    for name, before in small.items():
        if name in whole and name in shuffled:
            reads, writes = (_seen(*ends, order) for ends in
                             zip(before, whole[name], shuffled[name], strict=True))
            calls[name] = Call(reads, writes)
    return calls


@dataclass(frozen=True)
class _Tensor:
    """A shape, and for the axis that may be the samples, if there is one, a number for each of its entries."""

    shape: tuple[int, ...]
    entries: dict[int, Tensor]


def _recorded(model: nn.Module, inputs: Inputs, names: Iterable[str],
              fewer: Mapping[str, tuple[Shape, Shape]]) -> dict[str, tuple[_Tensor, _Tensor]]:
    """Summarise what the modules read and write at their first calls, in the order of the calls. `fewer`: the shapes
    of both for `FEWER` samples, where these are known."""
    summaries: dict[str, tuple[_Tensor, _Tensor]] = {}

    def hook(name: str, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        result = output[0] if isinstance(output, tuple) and output else output
        if name not in summaries and args and isinstance(args[0], Tensor) and isinstance(result, Tensor):
            reads, writes = fewer.get(name, (args[0].shape, result.shape))
            summaries[name] = _summary(args[0], reads), _summary(result, writes)

    handles = [model.get_submodule(name).register_forward_hook(partial(hook, name)) for name in names]
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return summaries


def _summary(tensor: Tensor, fewer: Shape) -> _Tensor:
    """Sum each entry of the axis that may be the samples up to one number, under weights that tell its elements apart.
    """
    entries = {}
    for axis in _grown(fewer, tensor.shape)[:1]:
        rows = tensor.detach().movedim(axis, 0).flatten(1).double() if tensor.dim() > 1 else tensor[:, None].double()
        weights = torch.sin(torch.arange(1, rows.shape[1] + 1, dtype=torch.float64))
        entries[axis] = rows.nan_to_num() @ weights
    return _Tensor(tuple(tensor.shape), entries)


def _grown(fewer: Shape, more: Shape) -> list[int]:
    """Axes whose sizes differ between two shapes."""
    return [axis for axis, (few, many) in enumerate(zip(fewer, more, strict=False)) if few != many]


def _seen(small: _Tensor, whole: _Tensor, shuffled: _Tensor, order: Tensor) -> Seen:
    if small.shape == whole.shape:  # it does not depend on the samples
        return Seen(whole.shape[1:] if whole.shape[:1] == (1,) else whole.shape, None)
    grown = _grown(small.shape, whole.shape)
    if not grown:
        return Seen(whole.shape[1:], None)
    axis = grown[0]
    each, rest = divmod(whole.shape[axis], MORE)
    shape = whole.shape[:axis] + whole.shape[axis + 1:]
    fits = len(small.shape) == len(whole.shape) and len(grown) == 1 and not rest and small.shape[axis] == each * FEWER
    if not fits:
        return Seen(shape, None)
    layouts = [SampleAxis(axis, each, fastest) for fastest in ((False, True) if each > 1 else (False,))]
    proved = [layout for layout in layouts if _follows(layout, whole.entries[axis], shuffled.entries[axis], order)]
    return Seen(shape, proved[0] if len(proved) == 1 else None)


def _follows(layout: SampleAxis, whole: Tensor, shuffled: Tensor, order: Tensor) -> bool:
    """Tell whether entries, given by one number each, move with the samples when these are shuffled."""
    alone = SampleAxis(0, layout.each, layout.fastest)
    difference = alone.split(whole)[order] - alone.split(shuffled)
    return bool(difference.abs().max() <= TOLERANCE * whole.abs().max())
