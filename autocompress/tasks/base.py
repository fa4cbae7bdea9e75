"""The protocol of a task: what a network is for, with the data and the measure that say how well it does it.

A user's own task is an object with these members, given as `search(model=net, task=obj)` or `--task file.py:name`;
inherit from `ArrayTask` where the samples fit into memory, and from `autocompress.testing.task_contract.TaskContract`
to have it checked. `Classification`, the data of labelled classes, is the task where none is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np
from torch import Tensor

from autocompress.core.metric import Metric, Metrics
from autocompress.core.warnings import Warned
from autocompress.tasks.array_task import ArrayTask, standard_error
from autocompress.tasks.splits import Split
from autocompress.tensors.likelihood import Gaussian, Likelihood
from autocompress.tensors.named import Inputs, NamedTensors

__all__ = ["ArrayTask", "Gaussian", "Inputs", "Likelihood", "Metric", "NamedTensors", "Outputs", "Split", "SplitName",
           "Task", "standard_error"]

SplitName = Literal["train", "validation", "test"]
# What a file puts out for a whole split: arrays by the name of the output, rows in the order of the samples.
Outputs = Mapping[str, np.ndarray]


class Task(Protocol):
    """What a network is for.

    A task requires of its callers that `likelihood` gets the original's outputs on real inputs before anything is
    trained. It ensures that a split has the same samples in the same order whenever it is asked, that `train_view` is
    settled by its arguments, and that `score` depends on the outputs and the split alone.
    """

    @property
    def name(self) -> str:
        """What the data are called, fit for a heading and for the name of a folder."""

    @property
    def metric(self) -> Metric:
        """The measure of quality."""

    @property
    def fingerprint(self) -> str:
        """Content hash of all samples and of what else settles a score: a study goes on with the same one alone."""

    @property
    def views_fingerprint(self) -> str | None:
        """Content hash of what settles `train_view` beside the seed; None where that cannot be told, so that no answer
        is kept."""

    @property
    def described(self) -> str:
        """In words, how stored samples become what the network reads."""

    def samples(self, split: SplitName) -> int:
        """Number of samples of a split, at least one."""

    def inputs(self, split: SplitName, rows: slice | Tensor) -> Inputs:
        """Samples as the network reads them: a tensor `(N, …)`, or `NamedTensors` by the arguments of `forward`."""

    @property
    def train_targets(self) -> Tensor:
        """What training samples should give, `(N, …)`: for `Likelihood.target_loss`."""

    def train_view(self, view: int, seed: int) -> Inputs:
        """All training samples as stored, augmented; each view number gives another."""

    def normalise(self, inputs: Any) -> Inputs:
        """Stored samples, a batch of `train_view`, as the network reads them."""

    def likelihood(self, outputs: Tensor, ends_in_sigmoid: bool) -> Likelihood:
        """What outputs stand for, told by the original's `(N, …)` for training samples: the loss of distillation, the
        divergence between networks, and what the Fisher information draws from.

        Raises:
            InputError: where a network with such outputs does not fit the task.
        """

    def score(self, outputs: Outputs, split: SplitName, likelihood: Likelihood) -> Metrics:
        """The metric under its name, its standard error as `{name}_error`, and the finer metric where the task has one
        of its own (`Metric.finer`)."""

    def doubts(self, original: Outputs, claimed: tuple[str, float] | None) -> list[Warned]:
        """What speaks against the original being used as it was trained, by its outputs for the validation split;
        `claimed` is a value that its weights say of themselves, with its key."""

    def losses(self, original: Outputs, outputs: Outputs) -> tuple[list[Warned], dict[str, Any]]:
        """What an exported file has lost against the original on the test split: warnings, and facts for the report."""

    def input_facts(self) -> dict[str, Any]:
        """Facts for the manifest, beside names, shapes and types: how inputs are made."""

    def output_facts(self, likelihood: Likelihood) -> dict[str, Any]:
        """Facts for the manifest: `meaning` in words, and what else is known of outputs."""
