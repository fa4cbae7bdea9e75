"""Tensors that are dear to compute, kept in a store by what they were computed from: a second process, a resumed study
or another budget for the same network reads them.

A file is used only if it says it was made from the same things and its content has the hash that it carries. What is
missing, damaged or foreign is computed again, and a store that cannot be written costs time, nothing else.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from autocompress.backend.statistics.lru_cache import content
from autocompress.core.store import STATISTICS, Store, header_of
from autocompress.errors import StorageError

log = logging.getLogger(__name__)

# The largest total size in bytes of tensors that are kept in one file.
LIMIT_BYTES = 2**30

Tensors = dict[str, Tensor]


class TensorCache:
    """Caches tensors in a store, under `statistics/<kind>-<key>.safetensors`.

    Args:
        store: where they are kept; None to keep nothing.
        key: a hash of all that the tensors follow from, asked for on first use.
    """

    def __init__(self, store: Store | None, key: Callable[[], str]) -> None:
        self._store, self._make_key = store, key

    @cached_property
    def _key(self) -> str:
        return self._make_key()

    def get(self, kind: str, make: Callable[[], Tensors]) -> Tensors:
        """Return the kept tensors of a kind, or what `make` computes, which is then kept."""
        if self._store is None:
            return make()
        key, name = self._key, self._name(kind)
        stored = _read(self._store, name, key)
        if stored is not None:
            return stored
        computed = make()
        if sum(tensor.nbytes for tensor in computed.values()) <= LIMIT_BYTES:
            _write(self._store, name, key, computed)
        return computed

    def gather(self, kind: str, names: Sequence[str], make: Callable[[list[int]], Tensor]) -> Tensor:
        """Return values `(len(names),)` by name: the kept ones, and the others as `make` computes them.

        `make` is given indices into `names`. What it computes is then kept too, except for values that are NaN.
        """
        values = self._values(kind)
        missing = [place for place, name in enumerate(names) if name not in values]
        if missing:
            computed = make(missing)
            values |= {names[place]: value.clone() for place, value in zip(missing, computed, strict=True)}
            if self._store is not None:
                lasting = {name: value for name, value in values.items() if not value.isnan().any()}
                _write(self._store, self._name(kind), self._key, lasting)
        return torch.stack([values[name] for name in names])

    def missing(self, kind: str, names: Sequence[str]) -> list[int]:
        """Return the indices into `names` of the values that `gather` would have to compute."""
        values = self._values(kind)
        return [place for place, name in enumerate(names) if name not in values]

    def _values(self, kind: str) -> Tensors:
        return {} if self._store is None else _read(self._store, self._name(kind), self._key) or {}

    def _name(self, kind: str) -> str:
        return f"{STATISTICS}/{kind}-{self._key[:32]}.safetensors"


def _read(store: Store, name: str, key: str) -> Tensors | None:
    data = store.get(name)
    if data is None:
        return None
    try:
        header = header_of(data) or {}
        tensors: Tensors = load(data)
        if header.get("key") != key:
            raise ValueError("it was made from something else")
        if header.get("content") != _digest(tensors):
            raise ValueError("its content is not what was written")
    except (SafetensorError, ValueError, KeyError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        log.warning("%s cannot be used (%s): computing it again", name, first)
        return None
    return tensors


def _write(store: Store, name: str, key: str, tensors: Tensors) -> None:
    try:
        store.put(name, save({name: tensor.contiguous() for name, tensor in tensors.items()},
                             metadata={"key": key, "content": _digest(tensors)}))
    except StorageError as error:
        log.info("%s cannot be kept: %s", name, error)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {content(tensors[name])}".encode())
    return digest.hexdigest()
