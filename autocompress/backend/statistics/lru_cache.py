"""An LRU cache of tensors: the candidates of one study share layers, and so the results that belong to them."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

# Largest size of all tensors of a cache.
LIMIT_BYTES = 256 * 2**20

T = TypeVar("T")


class LruTensorCache:
    """The most recently used results, at most `limit_bytes` of tensors together. Callers must not change a result."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit = limit_bytes
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self.bytes = 0

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the result under `key`, computed by `make` where there is none. Errors of `make` are not kept."""
        if key in self._kept:
            self._kept.move_to_end(key)
            cached: T = self._kept[key]
            return cached
        value = make()
        self._kept[key] = value
        self.bytes += _bytes(value)
        while self.bytes > self._limit and self._kept:
            self.bytes -= _bytes(self._kept.popitem(last=False)[1])
        return value


def content(tensor: Tensor | None) -> str:
    """Hash the shape, type and values of a tensor."""
    if tensor is None:
        return ""
    digest = hashlib.sha256(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
    digest.update(tensor.detach().contiguous().cpu().numpy().data)
    return digest.hexdigest()


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, nn.Module):
        return sum(tensor.nbytes for tensor in value.state_dict().values())
    if isinstance(value, tuple):
        return sum(map(_bytes, value))
    if is_dataclass(value):
        return sum(_bytes(getattr(value, field.name)) for field in fields(value))
    return 0
