"""Tensors that are dear to compute, kept on disk by what they were computed from: a second process, a resumed study or
another budget for the same network reads them.

A file is used only if it says it was made from the same things and its content has the hash that it carries. What is
missing, damaged or foreign is computed again, and a folder that cannot be written costs time, nothing else.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from autocompress.backend.statistics.lru_cache import content
from autocompress.core.files import remove_leftovers, replacing

log = logging.getLogger(__name__)

LIMIT_BYTES = 2**30
"""Of all files of the folder; those not used for longest are deleted."""

Tensors = dict[str, Tensor]


class TensorCache:
    """Files `<kind>-<key>.safetensors` in `folder`, or nothing where it is None. `key`: a hash of all that the
    tensors follow from, asked for on first use."""

    def __init__(self, folder: Path | None, key: Callable[[], str]) -> None:
        self._folder, self._key = folder, key

    def get(self, kind: str, make: Callable[[], Tensors]) -> Tensors:
        """What was kept, or what `make` computes, which is then kept."""
        if self._folder is None:
            return make()
        key, path = self._key(), self._path(kind)
        found = _read(path, key)
        if found is not None:
            return found
        made = make()
        if sum(tensor.nbytes for tensor in made.values()) <= LIMIT_BYTES:
            _write(path, key, made)
        return made

    def gather(self, kind: str, names: Sequence[str], make: Callable[[list[int]], Tensor]) -> Tensor:
        """Values `(len(names),)` by name: those that were kept, under whatever list of names, and the others as `make`
        computes them from their places in `names`; these are then kept too, but for what it makes NaN of."""
        known = self._values(kind)
        missing = [place for place, name in enumerate(names) if name not in known]
        if missing:
            made = make(missing)
            known |= {names[place]: value.clone() for place, value in zip(missing, made, strict=True)}
            if self._folder is not None:
                lasting = {name: value for name, value in known.items() if not value.isnan().any()}
                _write(self._path(kind), self._key(), lasting)
        return torch.stack([known[name] for name in names])

    def missing(self, kind: str, names: Sequence[str]) -> list[int]:
        """The places that `gather` would have to compute."""
        known = self._values(kind)
        return [place for place, name in enumerate(names) if name not in known]

    def _values(self, kind: str) -> Tensors:
        return {} if self._folder is None else _read(self._path(kind), self._key()) or {}

    def _path(self, kind: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{kind}-{self._key()[:32]}.safetensors"


def _read(path: Path, key: str) -> Tensors | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            said = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        if said.get("key") != key:
            raise ValueError("it was made from something else")
        if said.get("content") != _digest(tensors):
            raise ValueError("its content is not what was written")
    except (OSError, SafetensorError, ValueError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        log.warning("%s cannot be used (%s): computing it again", path, first)
        return None
    with suppress(OSError):
        os.utime(path)
    return tensors


def _write(path: Path, key: str, tensors: Tensors) -> None:
    try:
        with replacing(path) as part:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part,
                      metadata={"key": key, "content": _digest(tensors)})
        remove_leftovers(path.parent)
        _trim(path.parent)
    except (OSError, SafetensorError) as error:
        log.info("%s cannot be kept: %s", path, error)


def _trim(folder: Path) -> None:
    """Delete the files not used for longest until the rest fit; another process may delete them first."""
    files = []
    for path in folder.glob("*-*.safetensors"):
        with suppress(OSError):
            known = path.stat()
            files.append((known.st_mtime, known.st_size, path))
    total = 0
    for _, size, path in sorted(files, reverse=True):
        total += size
        if total > LIMIT_BYTES:
            with suppress(OSError):
                path.unlink()


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {content(tensors[name])}".encode())
    return digest.hexdigest()
