"""One original on its bench: the traced network, the trainer and the evaluator of one study."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from autocompress.backend.training.distill import Recipe
from autocompress.formats.base import Format
from autocompress.formats.table import format_named
from autocompress.hardware.profile import HardwareProfile
from autocompress.study.evaluator import Evaluator
from autocompress.study.traced import TracedNetwork
from autocompress.study.trainer import Trainer
from autocompress.tasks.base import Task
from autocompress.techniques.apply import Techniques
from autocompress.techniques.table import TECHNIQUES


class Workbench:
    """Composes what compresses (`network`), what trains (`trainer`) and what evaluates (`evaluator`).

    `folder` keeps the weights of distilled candidates and the teacher's answers, `statistics` (if given) what is
    measured of the original, for other studies too. `threads` is for scoring and training.
    `file_format`: the format of the files, where it is not the one that the profile names. See `TracedNetwork`,
    `Trainer` and `Evaluator` for the other arguments and for errors.
    """

    def __init__(self, model: nn.Module, task: Task, profile: HardwareProfile, *, seed: int, folder: Path,
                 epochs: int, device: str = "cpu", threads: int = 1, statistics: Path | None = None,
                 recovery: Recipe | None = None, earlier: Path | None = None,
                 file_format: Format | None = None, techniques: Techniques = TECHNIQUES) -> None:
        self.network = TracedNetwork(model, task, seed=seed, threads=threads, statistics=statistics,
                                     file_format=file_format or format_named(profile.format),
                                     techniques=techniques)
        self.trainer = Trainer(self.network, folder=folder, epochs=epochs, device=device, threads=threads,
                               recovery=recovery, earlier=earlier)
        self.evaluator = Evaluator(self.network, self.trainer, profile, folder=folder, threads=threads)
