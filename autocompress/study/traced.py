"""The user's network in canonical form, traced: its layers, what is coupled, and how plans are applied to it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from autocompress.backend.canonical.attention import with_open_heads
from autocompress.backend.canonical.layer_forms import in_one_form
from autocompress.backend.canonical.plain_layers import with_plain_layers
from autocompress.backend.compress import Compressor
from autocompress.backend.graph.batch_parity import check_batch_parity
from autocompress.backend.graph.trace import trace
from autocompress.backend.network.compressed import Compressed
from autocompress.backend.network.fold import fold_norms
from autocompress.backend.statistics.outputs import recognised
from autocompress.backend.training.training_mode import difference
from autocompress.core.answers import explanation
from autocompress.core.batch_sizes import calibration_rows
from autocompress.core.plan import Plan
from autocompress.errors import InputError
from autocompress.formats.base import Format, Written
from autocompress.study.file_writer import FileWriter
from autocompress.tasks.splits import Split, TaskData

CALIBRATION_SAMPLES = 512
"""Most samples that statistics, the sensitivity table and ranges are measured on; fewer where inputs are large."""
CANONICAL_SAMPLES = 4
"""Samples on which a rewritten network must answer as before."""


class TracedNetwork:
    """A trained network that plans can be applied to.

    `given` is the network as the user passed it, `model` its canonical form. `table` holds the facts about its layers,
    `calibration` normalised inputs `(N, …)` of the training split. `writer` makes files of the compressed networks that
    `compressor` makes of plans.

    Args:
        model: the trained network, in eval mode.
        data: splits of the task's data.
        seed: draws the calibration samples.
        threads: CPU threads for checks.
        file_format: the format of the files.
        statistics: folder in which moments are kept for other studies too; None to keep them in memory.

    Raises:
        InputError: for a network that cannot be traced, exported or used with these data.
    """

    def __init__(self, model: nn.Module, data: TaskData, *, seed: int, file_format: Format, threads: int = 1,
                 statistics: Path | None = None) -> None:
        self.given, self.data, self.seed = model, data, seed
        count = calibration_rows(data.input_shape, CALIBRATION_SAMPLES)
        self.calibration = data.normalise(random_subset(data.train, count, seed).inputs)
        example = self.calibration[:CANONICAL_SAMPLES]
        check_batch_parity(model, self.calibration)
        model = with_plain_layers(model, example)
        model, attention_left_whole = with_open_heads(model, example)
        self.model, layers_left_whole = in_one_form(model, example)
        table, coupling = trace(self.model, data.input_shape, data.dtype, self.calibration)
        if table.outputs != data.classes:
            raise InputError(f"the network must have one output for each of the {data.classes} classes of "
                             f"{data.name}, but it has {table.outputs}")
        self.refused = attention_left_whole | layers_left_whole | coupling.refused
        self.answers = recognised(self.model, self.calibration)
        self.training_difference = difference(self.model, example)
        self.writer = FileWriter(self.model, table, self.calibration, file_format, threads)
        self.table = self.writer.table
        self.compressor = Compressor(self.model, self.table, coupling, self.calibration, statistics, self.answers)
        self.writer.check_original()

    @property
    def notes(self) -> list[str]:
        """Sentences for the user about how this network is treated."""
        mode = f"the network {self.training_difference}: it is trained as it is shipped, in eval mode, with live norms"
        return [note for note in (explanation(self.answers.meaning), mode if self.training_difference else "") if note]

    @property
    def example(self) -> Tensor:
        """One calibration input `(1, …)`."""
        return self.calibration[:1]

    def write(self, compressed: Compressed) -> Written:
        """The file of a compressed network, checked against it. TrialError when it cannot be exported."""
        return self.writer.write(compressed, partial(self.compressor.restructure, fit=False))

    def executed(self, compressed: Compressed) -> nn.Module:
        """The network that a file of `compressed` executes: its norms folded."""
        return fold_norms(compressed, self.table).model

    def original(self) -> Compressed:
        """The network with an empty plan applied."""
        return Compressed(self.model, Plan())


def random_subset(split: Split, count: int, seed: int) -> Split:
    """`count` samples of a split, drawn by `seed` without repetition."""
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
    return split.take(order[:count])
