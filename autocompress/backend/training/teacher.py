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

from autocompress.backend.training.answers import AnswerTable, encoding_named, encoding_of, kept_names
from autocompress.core.store import TEACHER, Store, header_of
from autocompress.errors import StorageError
from autocompress.tensors.likelihood import Likelihood
from autocompress.tensors.named import Inputs

log = logging.getLogger(__name__)


class TrainingData(Protocol):
    """The training data as distillation reads them."""

    def train_view(self, view: int, seed: int) -> Any:
        """Return all training inputs as stored, augmented as view number `view`: what has a length and is read by rows;
        view 0 is not augmented."""

    def normalise(self, inputs: Any) -> Inputs:
        """Return stored inputs as network inputs."""

    @property
    def views_fingerprint(self) -> str | None:
        """A hash of all that `train_view` depends on beside the seed; None where that cannot be told."""

    @property
    def is_augmented(self) -> bool:
        """Whether views differ."""

    @property
    def train_targets(self) -> Tensor:
        """The targets `(N, …)`, such as labels."""

    def view_targets(self, view: int, seed: int) -> Any:
        """The targets of a view, or None where it has none."""


class Teacher:
    """The original's outputs for augmented views of the training set, kept in a store between processes.

    A kept file says of which views it is; another augmentation, seed or data set has others, and outputs are computed
    anew. Where the augmentation cannot be told by its content, nothing is kept. Outputs are computed when a student
    first needs them: a short training never waits for a whole pass of the original. What they take is bounded
    (`answers`): those for which there is no room are computed each time, and come out the same.

    Args:
        answer: maps normalised inputs `(N, …)` to the original's outputs in canonical form `(N, …)`.
        data: the training data.
        seed: the seed of the augmentation.
        store: where outputs are kept; None keeps them in memory alone.
        likelihood: what outputs stand for: of many classes only the likeliest are kept where all would be too much.
        at_once: how many samples are answered together at least, as far as there are any without an answer and room for
            it: a GPU is fastest with many. 0: those that are asked for.
    """

    VIEWS = 2

    def __init__(self, answer: Callable[[Any], Tensor], data: TrainingData, seed: int, store: Store | None,
                 likelihood: Likelihood | None = None, at_once: int = 0) -> None:
        self._at_once = at_once
        self._answer, self._data, self._seed, self._store = answer, data, seed, store
        self._likelihood = likelihood
        self._inputs: dict[int, Any] = {}
        self._tables: dict[int, AnswerTable] = {}
        self._unsaved: set[int] = set()
        # The time spent on outputs so far.
        self.seconds = 0.0

    def batch(self, epoch: int, rows: Tensor) -> tuple[Inputs, Tensor]:
        """Return normalised inputs `(B, …)` and the teacher's outputs for `rows` `(B,)` of the view of `epoch`."""
        began = time.perf_counter()
        index = self.view_of(epoch)
        inputs = self._data.normalise(self._view(index)[rows])
        table = self._tables[index]
        missing = ~table.answered(rows)
        if missing.any() and self._at_once > len(rows):
            self._answer_ahead(index, rows[missing])
            missing = ~table.answered(rows)
            self.seconds += time.perf_counter() - began
            began = time.perf_counter()
        if not missing.any():
            return inputs, table.get(rows)
        new = self._put(index, rows[missing], inputs[missing])
        answers = new.new_empty(len(rows), *new.shape[1:])
        answers[missing] = new
        if not missing.all():
            answers[~missing] = table.get(rows[~missing])
        self.seconds += time.perf_counter() - began
        return inputs, answers

    def _put(self, index: int, rows: Tensor, inputs: Inputs) -> Tensor:
        """Keep the answers to rows of a view, as far as there is room, and return them."""
        table, computed = self._tables[index], self._answer(inputs).float().cpu()
        table.encoding = table.encoding or encoding_of(computed, self._likelihood, len(self._inputs[index]))
        answers, was_kept = table.put(rows, computed)
        if was_kept:
            self._unsaved.add(index)
        return answers

    def _answer_ahead(self, index: int, rows: Tensor) -> None:
        """Answer rows, none of which has an answer, together with others that will be asked for. Where the memory of
        the device does not suffice for so many, no more are answered than are asked for."""
        others = self._tables[index].unanswered(self._at_once)
        batch_rows = torch.cat([rows, others[~torch.isin(others, rows)]])[:self._at_once]
        if not len(others):
            return
        try:
            self._put(index, batch_rows, self._data.normalise(self._view(index)[batch_rows]))
        except torch.OutOfMemoryError as error:
            log.info("the original answers fewer samples together: %s", error)
            self._at_once = 0

    def mixed(self, epoch: int, rows: Tensor, partners: Tensor, share: float) -> tuple[Inputs, Tensor]:
        """Return a mixup batch: inputs `share` of those of `rows`, the rest of those of `partners`, and their outputs.

        The outputs are computed anew and not kept, nor is their time counted as the teacher's: each student pays for
        its batches.
        """
        stored = self._view(self.view_of(epoch))
        inputs: Any = torch.lerp(self._data.normalise(stored[partners]), self._data.normalise(stored[rows]), share)
        return inputs, self._answer(inputs).float().cpu()

    @property
    def seed(self) -> int:
        """The one that settles the views."""
        return self._seed

    def view_of(self, epoch: int) -> int:
        """The number of the view of an epoch."""
        return 1 + epoch % (self.VIEWS if self._data.is_augmented else 1)

    def save(self) -> None:
        """Write the outputs computed so far to the store, merged with what another process has written meanwhile.

        Where nothing can be written, a training that is done stands.
        """
        for index in sorted(self._unsaved):
            table, name = self._tables[index], self._name(index)
            if self._store is None or name is None:
                continue
            self._merge_stored(index)
            try:
                header = {"views": self._views or "", "encoding": str(table.encoding)}
                self._store.put(name, save(table.tensors(), header))
                self._unsaved.discard(index)
            except StorageError as error:
                log.info("%s cannot be kept: %s", name, error)

    def _view(self, index: int) -> Any:
        if index not in self._inputs:
            self._inputs[index] = self._data.train_view(index, self._seed)
            self._tables[index] = AnswerTable(len(self._inputs[index]))
            self._merge_stored(index)
        return self._inputs[index]

    @cached_property
    def _views(self) -> str | None:
        views = self._data.views_fingerprint
        return None if views is None else f"{views} seed {self._seed}"

    def _name(self, index: int) -> str | None:
        return None if self._views is None else f"{TEACHER}/teacher-{index}.safetensors"

    def _merge_stored(self, index: int) -> None:
        """Add what the store holds of a view to its table."""
        name = self._name(index)
        data = None if self._store is None or name is None else self._store.get(name)
        if data is None:
            return
        header = header_of(data) or {}
        if header.get("views") != self._views:
            log.info("%s is of other views of the training data: computing the original's outputs again", name)
            return
        try:
            self._tables[index].merge(load(data), encoding_named(header.get("encoding", "")))
        except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
            log.warning("%s cannot be used (%s): computing the original's outputs again", name, error)


def holds_answers(path: Path) -> bool:
    """Return whether a file holds outputs of a teacher, by its header alone."""
    try:
        with safe_open(path, framework="pt") as file:
            return kept_names(file.keys())
    except (OSError, SafetensorError):
        return False
