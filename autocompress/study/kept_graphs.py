"""What torch's exporter makes of the original, kept by what it was made from: exporting takes seconds of each start.

A kept graph is used where weights, modules, answers and the versions of the exporter are those that it was made from.
It is then checked as a new one is, and made anew where it does not pass: see `FileWriter` and `study/original.py`.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.backend.statistics.lru_cache import content
from autocompress.core.store import STATISTICS, Store
from autocompress.errors import StorageError
from autocompress.formats.base import Format
from autocompress.tensors.named import Inputs, joined

log = logging.getLogger(__name__)

# Of what is kept: a change of it makes what was kept void.
VERSION = 1
PACKAGES = ("torch", "onnx", "onnxscript", "onnx-ir")
# Rooms of this package whose code decides what a graph is.
ROOMS = ("backend/canonical", "backend/layers", "backend/network", "formats")
# Samples whose answers tell the network's code.
PROBES = 2
# The largest file that is kept.
LIMIT_BYTES = 2**28
# Bytes of a hash in front of what is kept.
DIGEST = 32


class KeptGraphs:
    """Graphs of one original, in a store.

    Args:
        store: of the study; None keeps nothing.
        model: the original, in eval mode.
        inputs: real ones `(N, …)`.
    """

    def __init__(self, store: Store | None, model: nn.Module, inputs: Inputs) -> None:
        self._store, self._model, self._inputs = store, model, inputs

    def get(self, what: str, file_format: Format) -> bytes | None:
        """Return what was kept; None where there is nothing, or it is damaged.

        Args:
            what: a word for it.
            file_format: that it is of.
        """
        if self._store is None:
            return None
        kept = self._store.get(self._name(what, file_format))
        whole = kept is not None and kept[:DIGEST] == hashlib.sha256(kept[DIGEST:]).digest()
        return kept[DIGEST:] if kept is not None and whole else None

    def put(self, what: str, file_format: Format, data: bytes) -> None:
        """Keep some bytes, where they are not too many and the store can be written.

        Args:
            what: a word for them.
            file_format: that they are of.
            data: the bytes.
        """
        if self._store is None or len(data) > LIMIT_BYTES:
            return
        try:
            self._store.put(self._name(what, file_format), hashlib.sha256(data).digest() + data)
        except StorageError as error:
            log.info("the %s of the original cannot be kept: %s", what, error)

    def _name(self, what: str, file_format: Format) -> str:
        options = json.dumps({key: repr(value) for key, value in sorted(vars(file_format).items())})
        digest = hashlib.sha256(f"{self._key} {type(file_format).__qualname__} {file_format.name} {options}".encode())
        return f"{STATISTICS}/{what}-{digest.hexdigest()[:32]}.bin"

    @cached_property
    def _key(self) -> str:
        """A hash of all that the graphs follow from."""
        versions = [_version(package) for package in PACKAGES]
        digest = hashlib.sha256(f"{VERSION} {versions} {self._model}".encode())
        for code in sorted({_code(type(module)) for module in self._model.modules()}):
            digest.update(code.encode())
        for path in sorted(path for room in ROOMS for path in (Path(__file__).parents[1] / room).rglob("*.py")):
            digest.update(path.read_bytes())
        with torch.no_grad():
            answers = joined(self._model(self._inputs[:PROBES]))
        digits = (answers / answers.abs().max().clamp_min(1e-20) * 100).round().nan_to_num(101)
        examples = [("", self._inputs[:1])] if isinstance(self._inputs, Tensor) else [*self._inputs[:1].items()]
        for name, tensor in (*self._model.state_dict().items(), ("digits", digits)):
            digest.update(f"{name} {content(tensor)}".encode())
        for name, tensor in examples:
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _code(kind: type[Any]) -> str:
    """Source of a class; its name where that cannot be read, and for classes of torch, which its version tells."""
    name = f"{kind.__module__}.{kind.__qualname__}"
    if kind.__module__.startswith("torch."):
        return name
    try:
        return f"{name} {inspect.getsource(kind)}"
    except (OSError, TypeError):
        return name
