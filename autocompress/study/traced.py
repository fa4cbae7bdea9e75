"""The user's network in canonical form, traced: its layers, what is coupled, and how plans are applied to it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.backend.canonical.attention import with_open_heads
from autocompress.backend.canonical.layer_forms import in_one_form
from autocompress.backend.canonical.plain_layers import with_plain_layers
from autocompress.backend.compress import Compressor
from autocompress.backend.graph.batch_parity import check_batch_parity
from autocompress.backend.graph.kept import freeze, kept_note
from autocompress.backend.graph.trace import trace
from autocompress.backend.network.compressed import Compressed
from autocompress.backend.network.fold import fold_norms
from autocompress.backend.statistics.moments import Samples
from autocompress.backend.statistics.outputs import ends_in_sigmoid, outputs_of
from autocompress.backend.training.training_mode import difference
from autocompress.core.batch_sizes import FITTING_BYTES, calibration_rows, rows_of
from autocompress.core.plan import Plan
from autocompress.core.store import Store
from autocompress.formats.base import Format, WritableNetwork, Written
from autocompress.formats.running import MOST_ROWS
from autocompress.study.file_writer import FileWriter
from autocompress.study.kept_graphs import KeptGraphs
from autocompress.tasks.base import Task
from autocompress.techniques.apply import Techniques
from autocompress.techniques.table import TECHNIQUES
from autocompress.tensors.likelihood import Likelihood, is_categorical
from autocompress.tensors.named import Inputs

# Most samples that calibrate, and that weights are fitted to; fewer where inputs are large.
CALIBRATION_SAMPLES = 512
# Samples on which a rewritten network must answer as before.
CANONICAL_SAMPLES = 4
# Cross-entropy in nats from which a network is unsure of its own answers; below, labels say much the same as these.
UNSURE = 0.5


class TracedNetwork:
    """A trained network that plans can be applied to.

    `given` is the network as the user passed it, `model` its canonical form. `table` holds the facts about its layers,
    `calibration` inputs `(N, …)` of the training split as the network reads them, `likelihood` what
    its outputs stand for, `reads_labels` whether the data's targets say more than these do, `rows` how many samples a
    file of it is run on at once. `writer` makes files of the compressed networks that `compressor` makes of plans.

    Args:
        model: the trained network, in eval mode.
        task: what the network is for, with its data.
        seed: draws the calibration samples.
        threads: CPU threads for checks.
        file_format: the format of the files.
        techniques: by name, in the order of application.
        store: where moments are kept, for other processes too; None to keep them in this one.

    Raises:
        InputError: for a network that cannot be traced, exported or used with these data.
    """

    def __init__(self, model: nn.Module, task: Task, *, seed: int, file_format: Format, threads: int = 1,
                 store: Store | None = None, techniques: Techniques = TECHNIQUES) -> None:
        self.user_model, self.task, self.seed, self.techniques = model, task, seed, techniques
        self.sample_shape = tuple(task.inputs("train", slice(0, 1)).shape[1:])
        count = calibration_rows(self.sample_shape, CALIBRATION_SAMPLES)
        rows = torch.randperm(task.samples("train"), generator=torch.Generator().manual_seed(seed))
        self.calibration = task.inputs("train", rows[:count])
        example = self.calibration[:CANONICAL_SAMPLES]
        check_batch_parity(model, self.calibration)
        model = with_plain_layers(model, example)
        model, attention_left_whole = with_open_heads(model, example)
        self.model, layers_left_whole = in_one_form(model, example)
        table, coupling = trace(self.model, self.sample_shape, inputs=self.calibration, keep=task.keep)
        freeze(self.model, task.keep)
        self.refused = attention_left_whole | layers_left_whole | coupling.refused
        outputs = outputs_of(self.model, self.calibration)
        self.likelihood = task.likelihood(outputs, ends_in_sigmoid(self.model, self.calibration))
        self.reads_labels = task.has_targets and not _are_answers(
            task.train_targets, rows[:count], self.likelihood, outputs)
        self.training_difference = difference(self.model, example)
        self.graphs = KeptGraphs(store, self.user_model, self.calibration)
        self.writer = FileWriter(self.model, table, self.calibration, file_format, threads, techniques, self.graphs)
        self.table = self.writer.table
        self.compressor = Compressor(self.model, self.table, coupling, self.calibration, store, self.likelihood,
                                     techniques, self._fitting_samples(rows[count:]))
        self.rows = rows_of(self.compressor.statistics.footprint.live, MOST_ROWS)
        self.writer.check_original()

    def _fitting_samples(self, others: Tensor) -> Samples | None:
        """Training samples that weights are fitted to: of the rows `others` `(M,)`, which calibrate nothing. None where
        there are fewer than half as many as calibration samples."""
        rows = others[:calibration_rows(self.sample_shape, CALIBRATION_SAMPLES, FITTING_BYTES)]
        if 2 * len(rows) < len(self.calibration):
            return None
        return Samples(partial(self.task.inputs, "train"), rows, lambda: self.task.fingerprint)

    @property
    def notes(self) -> list[str]:
        """Sentences for the user about how this network is treated."""
        mode = f"the network {self.training_difference}: it is trained as it is shipped, in eval mode, with live norms"
        untouched = kept_note(self.table.layers, self.task.keep)
        return [note for note in (self.likelihood.note, untouched, mode if self.training_difference else "") if note]

    @property
    def example(self) -> Inputs:
        """One calibration input `(1, …)`."""
        one: Inputs = self.calibration[:1]
        return one

    def write(self, compressed: Compressed,
              mark: Callable[[WritableNetwork], WritableNetwork] = lambda network: network) -> Written:
        """The file of a compressed network, checked against it; `mark` changes the levels of its integer weights.
        TrialError when it cannot be exported."""
        return self.writer.write(compressed, partial(self.compressor.restructure, fit=False), mark)

    def executed(self, compressed: Compressed) -> nn.Module:
        """The network that a file of `compressed` executes: its norms folded."""
        return fold_norms(compressed, self.table).model

    def original(self) -> Compressed:
        """The network with an empty plan applied."""
        return Compressed(self.model, Plan())


def _are_answers(targets: Any, rows: Tensor, likelihood: Likelihood, outputs: Any) -> bool:
    """Whether labels are the answers of an original that is unsure of them, for `rows` `(M,)` of the samples and its
    `outputs` `(M, …)` for them.

    Such labels are surer than the original and say no more: they made students worse than they began. CREPE tiny, 156
    steps from 60.5% agreement: 57.0% with labels in 0.4 of the loss, 67.3% without.
    """
    if not (is_categorical(likelihood) and isinstance(targets, Tensor)):
        return False
    scores, labels = likelihood.canonical(outputs), targets[rows]
    return torch.equal(scores.argmax(1), labels) and float(likelihood.target_loss(scores, labels)) > UNSURE
