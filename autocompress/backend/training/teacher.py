"""The teacher of distillation: the original's outputs for augmented training inputs, computed once and kept."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from autocompress.core.store import TEACHER, Store, header_of
from autocompress.errors import StorageError
from autocompress.tensors.named import Inputs

log = logging.getLogger(__name__)


class TrainingData(Protocol):
    """The training data as distillation reads them."""

    def train_view(self, view: int, seed: int) -> Inputs:
        """Return all training inputs as stored, augmented as view number `view`; view 0 is not augmented."""

    def normalise(self, inputs: Any) -> Inputs:
        """Return stored inputs as network inputs."""

    @property
    def views_fingerprint(self) -> str | None:
        """A hash of all that `train_view` depends on beside the seed; None where that cannot be told."""

    @property
    def train_targets(self) -> Tensor:
        """The targets `(N, …)`, such as labels."""


class Teacher:
    """The original's outputs for augmented views of the training set, kept in a store between processes.

    A kept file says of which views it is; another augmentation, seed or data set has others, and outputs are computed
    anew. Where the augmentation cannot be told by its content, nothing is kept. Outputs are computed when a student
    first needs them: a short training never waits for a whole pass of the original.

    Args:
        answer: maps normalised inputs `(N, …)` to the original's outputs in canonical form `(N, …)`.
        data: the training data.
        seed: the seed of the augmentation.
        store: where outputs are kept; None keeps them in memory alone.
    """

    VIEWS = 2

    def __init__(self, answer: Callable[[Any], Tensor], data: TrainingData, seed: int,
                 store: Store | None) -> None:
        self._answer, self._data, self._seed, self._store = answer, data, seed, store
        self._inputs: dict[int, Inputs] = {}
        self._logits: dict[int, Tensor] = {}  # NaN where not computed yet
        self._unsaved: set[int] = set()
        # The time spent on outputs so far.
        self.seconds = 0.0

    def batch(self, epoch: int, rows: Tensor) -> tuple[Inputs, Tensor]:
        """Return normalised inputs `(B, …)` and the teacher's outputs for `rows` `(B,)` of the view of `epoch`."""
        began = time.perf_counter()
        index = 1 + epoch % self.VIEWS
        inputs = self._data.normalise(self._view(index)[rows])
        logits = self._logits[index]
        missing = logits[rows].reshape(len(rows), -1)[:, 0].isnan() if len(logits) else \
            torch.ones(len(rows), dtype=torch.bool)
        if missing.any():
            answers = self._answer(inputs[missing]).float().cpu()
            if not len(logits):
                logits = self._logits[index] = torch.full((len(self._inputs[index]), *answers.shape[1:]), torch.nan)
            logits[rows[missing]] = answers
            self._unsaved.add(index)
            self.seconds += time.perf_counter() - began
        return inputs, logits[rows]

    def mixed(self, epoch: int, rows: Tensor, partners: Tensor, share: float) -> tuple[Inputs, Tensor]:
        """Return a mixup batch: inputs `share` of those of `rows`, the rest of those of `partners`, and their outputs.

        The outputs are computed anew and not kept, nor is their time counted as the teacher's: each student pays for
        its batches.
        """
        stored = self._view(1 + epoch % self.VIEWS)
        inputs: Any = torch.lerp(self._data.normalise(stored[partners]), self._data.normalise(stored[rows]), share)
        return inputs, self._answer(inputs).float().cpu()

    def save(self) -> None:
        """Write the outputs computed so far to the store, merged with what another process has written meanwhile.

        Where nothing can be written, a training that is done stands.
        """
        for index in sorted(self._unsaved):
            logits, name = self._logits[index], self._name(index)
            if self._store is None or name is None:
                continue
            stored = self._stored(index)
            if len(stored):
                logits = torch.where(logits.isnan(), stored, logits)
            try:
                self._store.put(name, save({"logits": logits.contiguous()}, {"views": self._views or ""}))
                self._unsaved.discard(index)
            except StorageError as error:
                log.info("%s cannot be kept: %s", name, error)

    def _view(self, index: int) -> Inputs:
        if index not in self._inputs:
            self._inputs[index] = self._data.train_view(index, self._seed)
            self._logits[index] = self._stored(index)
        return self._inputs[index]

    @cached_property
    def _views(self) -> str | None:
        views = self._data.views_fingerprint
        return None if views is None else f"{views} seed {self._seed}"

    def _name(self, index: int) -> str | None:
        return None if self._views is None else f"{TEACHER}/teacher-{index}.safetensors"

    def _stored(self, index: int) -> Tensor:
        name = self._name(index)
        data = None if self._store is None or name is None else self._store.get(name)
        if data is not None:
            try:
                stored: Tensor = load(data)["logits"]
            except (SafetensorError, ValueError, KeyError) as error:
                log.warning("%s cannot be used (%s): computing the original's outputs again", name, error)
            else:
                if len(stored) == len(self._inputs[index]) and (header_of(data) or {}).get("views") == self._views:
                    return stored
                log.info("%s is of other views of the training data: computing the original's outputs again", name)
        return torch.empty(0, 0)


def holds_answers(path: Path) -> bool:
    """Return whether a file holds outputs of a teacher, by its header alone."""
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys()) == ["logits"]
    except (OSError, SafetensorError):
        return False
