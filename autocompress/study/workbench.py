"""One original on its bench: the traced network, the trainer and the evaluator of one study."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from autocompress.backend.training.recipe import Recipe
from autocompress.core.store import EARLIER, STATISTICS, WEIGHTS, FolderStore, MemoryStore, Store
from autocompress.formats.base import Format
from autocompress.formats.table import format_named
from autocompress.hardware.profile import HardwareProfile
from autocompress.study.evaluator import Evaluator
from autocompress.study.traced import TracedNetwork
from autocompress.study.trainer import Trainer
from autocompress.tasks.base import Task
from autocompress.techniques.apply import Techniques
from autocompress.techniques.table import TECHNIQUES

# Of all files of statistics that are kept; those not used for longest are deleted.
STATISTICS_BYTES = 2**30


class Workbench:
    """Composes what compresses (`network`), what trains (`trainer`) and what evaluates (`evaluator`).

    `store` keeps weights of trained candidates, scored files, the teacher's answers and what is measured of the
    original: by default in the study's `folder`, where there is one. `threads` is for scoring and training.
    `file_format`: the format of the files, where it is not the one that the profile names. See `TracedNetwork`,
    `Trainer` and `Evaluator` for the other arguments and for errors.
    """

    def __init__(self, model: nn.Module, task: Task, profile: HardwareProfile, *, seed: int, epochs: int,
                 folder: Path | None = None, store: Store | None = None, device: str = "cpu", threads: int = 1,
                 recovery: Recipe | None = None, file_format: Format | None = None,
                 techniques: Techniques = TECHNIQUES) -> None:
        self.store: Store = store or (MemoryStore() if folder is None else study_store(folder))
        self.network = TracedNetwork(model, task, seed=seed, threads=threads, store=self.store,
                                     file_format=file_format or format_named(profile.format),
                                     techniques=techniques)
        self.trainer = Trainer(self.network, store=self.store, epochs=epochs, device=device, threads=threads,
                               recovery=recovery)
        self.evaluator = Evaluator(self.network, self.trainer, profile, store=self.store, threads=threads)


def study_store(folder: Path, statistics: Path | None = None, earlier: Path | None = None) -> FolderStore:
    """Return the store of a study.

    Args:
        folder: of the study.
        statistics: folder for what is measured of the original, for other studies too; None for one of the study's.
        earlier: folder of another study of the same network, whose trained weights may be inherited.
    """
    places = {} if statistics is None else {STATISTICS: statistics}
    if earlier is not None:
        places[EARLIER] = earlier / WEIGHTS
    return FolderStore(folder, places, {STATISTICS: STATISTICS_BYTES})
