"""The memory that one sample takes in a network: measured on one, by the tensors that operations make."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from autocompress.tensors.named import Inputs


class Footprint(NamedTuple):
    """Bytes of one sample's tensors.

    Attributes:
        live: of those alive at once in a pass that keeps nothing for a backward pass, at most.
        every: of all together, as training keeps them and as passes that output every tensor do.
    """

    live: int
    every: int


class _Count(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of memory that operations take for their results, until it is free again."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._held: dict[int, int] = {}
        self._now = self.live = self.every = 0

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        before = {_place(tensor) for tensor in pytree.tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in pytree.tree_leaves(result):
            if isinstance(tensor, Tensor) and _place(tensor) not in before | self._held.keys():
                self._take(tensor)
        return result

    def _take(self, tensor: Tensor) -> None:
        storage, place = tensor.untyped_storage(), _place(tensor)
        self._held[place] = storage.nbytes()
        self._now += storage.nbytes()
        self.every += storage.nbytes()
        self.live = max(self.live, self._now)
        weakref.finalize(storage, self._free, place)

    def _free(self, place: int) -> None:
        self._now -= self._held.pop(place, 0)


def _place(tensor: Tensor) -> int:
    """What tensors that share memory have in common."""
    place: int = tensor.untyped_storage()._cdata
    return place


@torch.no_grad()
def footprint(model: nn.Module, inputs: Inputs) -> Footprint:
    """Measure the bytes that a sample takes in `model` (eval mode) beside its parameters, on the first of `inputs`
    `(N, …)`."""
    sample = inputs[:1].clone()
    size = sum(tensor.nbytes for tensor in pytree.tree_leaves(sample))
    with _Count() as count:
        model(sample)
    return Footprint(size + count.live, size + count.every)
