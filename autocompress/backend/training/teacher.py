"""The original's answers, asked for once and kept."""

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
    """What distillation needs of the user's data."""

    def train_view(self, view: int, seed: int) -> Inputs:
        """All training inputs as stored, augmented the way view number `view` is; view 0 is plain."""

    def normalise(self, inputs: Any) -> Inputs:
        """Stored inputs → network inputs."""

    @property
    def views_fingerprint(self) -> str | None:
        """What settles `train_view` beside the seed; None where that cannot be told."""

    @property
    def train_targets(self) -> Tensor:
        """Targets `(N, …)`, such as labels."""


class Teacher:
    """The original's outputs for augmented views of the training set, kept in `store` between processes.

    A kept file says of which views it is; another augmentation, seed or data set has others, and asks anew. Where the
    augmentation cannot be told by its content, nothing is kept.

    `answer` maps normalised inputs `(N, …)` to outputs in canonical form `(N, …)`. Rows are asked for when a
    student first needs them: a short training never waits for a whole pass of the original.
    """

    VIEWS = 2

    def __init__(self, answer: Callable[[Any], Tensor], data: TrainingData, seed: int,
                 store: Store | None) -> None:
        self._answer, self._data, self._seed, self._store = answer, data, seed, store
        self._inputs: dict[int, Inputs] = {}
        self._logits: dict[int, Tensor] = {}  # NaN where not known yet
        self._unsaved: set[int] = set()
        self.seconds = 0.0
        """Time spent on answers so far."""

    def batch(self, epoch: int, rows: Tensor) -> tuple[Inputs, Tensor]:
        """Normalised inputs `(B, …)` and the teacher's outputs of `rows` `(B,)` in the view of `epoch`."""
        began = time.perf_counter()
        index = 1 + epoch % self.VIEWS
        inputs = self._data.normalise(self._view(index)[rows])
        known = self._logits[index]
        missing = known[rows].reshape(len(rows), -1)[:, 0].isnan() if len(known) else \
            torch.ones(len(rows), dtype=torch.bool)
        if missing.any():
            answers = self._answer(inputs[missing]).float().cpu()
            if not len(known):
                known = self._logits[index] = torch.full((len(self._inputs[index]), *answers.shape[1:]), torch.nan)
            known[rows[missing]] = answers
            self._unsaved.add(index)
            self.seconds += time.perf_counter() - began
        return inputs, known[rows]

    def mixed(self, epoch: int, rows: Tensor, partners: Tensor, share: float) -> tuple[Inputs, Tensor]:
        """As `batch`, each input `share` of that of `rows` and the rest of that of `partners`. The answers, asked for
        anew, are not kept, nor their time counted as the teacher's: each student pays for its own."""
        stored = self._view(1 + epoch % self.VIEWS)
        inputs: Any = torch.lerp(self._data.normalise(stored[partners]), self._data.normalise(stored[rows]), share)
        return inputs, self._answer(inputs).float().cpu()

    def save(self) -> None:
        """Keep what was answered for later processes; what another process kept meanwhile is kept too. Where nothing
        can be written, a training that is done stands."""
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
                log.warning("%s cannot be used (%s): asking the original again", name, error)
            else:
                if len(stored) == len(self._inputs[index]) and (header_of(data) or {}).get("views") == self._views:
                    return stored
                log.info("%s is of other views of the training data: asking the original again", name)
        return torch.empty(0, 0)


def holds_answers(path: Path) -> bool:
    """Whether a file is one of a teacher's, by its header alone."""
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys()) == ["logits"]
    except (OSError, SafetensorError):
        return False
