"""The protocol of a task: what a network is for, with the data and the measure that say how well it does it.

A user's own task is an object with these members, given as `search(model=net, task=obj)` or `--task file.py:name`;
inherit from `ArrayTask` where the samples fit into memory, and from `autocompress.testing.task_contract.TaskContract`
to have it checked. `Classification`, the data of labelled classes, is the task where none is given.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Literal, Protocol

import msgspec
from torch import Tensor

from autocompress.core.metric import Metric
from autocompress.core.warnings import Warned
from autocompress.tasks.array_task import ArrayTask, standard_error
from autocompress.tasks.score import Answers, Outputs, Score
from autocompress.tasks.splits import Split
from autocompress.tensors.likelihood import Gaussian, Likelihood
from autocompress.tensors.named import Inputs, NamedTensors

__all__ = ["Answers", "ArrayTask", "Gaussian", "Inputs", "Likelihood", "Metric", "NamedTensors", "Outputs", "Score",
           "Split", "SplitName", "Task", "standard_error"]

SplitName = Literal["train", "validation", "test"]


def metric_of(task: Task) -> Metric:
    """The metric of a `task`, with the further ones."""
    return msgspec.structs.replace(task.metric, further=tuple(task.further)) if task.further else task.metric


class Task(Protocol):
    """What a network is for.

    A task requires of its callers that `likelihood` gets the original's outputs on real inputs before anything is
    trained. It ensures that a split has the same samples in the same order whenever it is asked, that `train_view` is
    settled by its arguments, and that `score` depends on the outputs and the split alone. It holds no more of a split
    in memory than it must: samples are asked for by rows, and answers come as a stream.
    """

    @property
    def name(self) -> str:
        """What the data are called, fit for a heading and for the name of a folder."""

    @property
    def metric(self) -> Metric:
        """The measure of quality."""

    @property
    def further(self) -> tuple[Metric, ...]:
        """Measures that `score` reports beside the metric; budgets can bound them."""

    @property
    def keep(self) -> tuple[str, ...]:
        """Patterns of names of modules, such as `head.*`, that stay whole and in float."""

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
        """The number of samples of a `split`, at least one."""

    def rows(self, split: SplitName, most: int) -> Iterator[slice]:
        """Consecutive ranges that cover a `split`, of at most `most` rows unless the task needs more together."""

    def part(self, split: SplitName, samples: int) -> Tensor | None:
        """Rows that stand for a split with more samples; a larger part holds the smaller ones.

        Args:
            split: whose rows.
            samples: how many.

        Returns:
            Numbers `(samples,)` int64, ascending; None where `score` needs the answers for all rows, or there are no
            more.
        """

    def inputs(self, split: SplitName, rows: slice | Tensor) -> Inputs:
        """Samples as the network reads them: a tensor `(N, …)`, or `NamedTensors` by the arguments of `forward`.

        Args:
            split: whose samples.
            rows: a range, or numbers `(N,)` int64.
        """

    @property
    def has_targets(self) -> bool:
        """Whether the training mixes in `Likelihood.target_loss`; where not, it is towards the original alone."""

    @property
    def train_targets(self) -> Any:
        """What training samples should give: rows of it, `(N, …)`, are what `Likelihood.target_loss` takes. It has a
        length, and is a tensor or what rows are taken of in the same way."""

    def view_targets(self, view: int, seed: int) -> Any:
        """What samples of a view should give.

        Args:
            view: the number of the view, from 0.
            seed: of the search.

        Returns:
            What `train_targets` is; None where inputs of the view are changed and the targets are not, so that the
            training on it is towards the original alone.
        """

    @property
    def is_augmented(self) -> bool:
        """Whether views of the training samples differ."""

    def train_view(self, view: int, seed: int) -> Any:
        """All training samples as stored, augmented. Each view number gives another.

        Args:
            view: the number of the view, from 0.
            seed: of the search.

        Returns:
            A tensor, or what rows are taken of in the same way, with a length: rows of it, `(N, …)`, are what
            `normalise` takes.
        """

    def normalise(self, inputs: Any) -> Inputs:
        """Stored samples as the network reads them.

        Args:
            inputs: rows `(N, …)` of a `train_view`.
        """

    def likelihood(self, outputs: Inputs, ends_in_sigmoid: Collection[str]) -> Likelihood:
        """What outputs stand for, told by the original's `(N, …)` for training samples: the loss of distillation, the
        divergence between networks, and what the Fisher information draws from.

        Args:
            outputs: a tensor, or `NamedTensors` where the network returns several.
            ends_in_sigmoid: names of those that a sigmoid made; the only output is called `output`.

        Raises:
            InputError: where a network with such outputs does not fit the task.
        """

    def score(self, answers: Answers, split: SplitName, likelihood: Likelihood) -> Score:
        """The metric under its name, its standard error as `{name}_error`, further metrics, and the finer metric where
        the task has one of its own (`Metric.finer`).

        Args:
            answers: ranges of `rows`, in order, with what a file puts out for them, or numbers of rows where it is
                asked for those of `part`; consumed as they come.
            split: whose samples were answered.
            likelihood: what outputs stand for.
        """

    def doubts(self, original: Score, claimed: tuple[str, float] | None) -> list[Warned]:
        """What speaks against the original being used as it was trained, as warnings.

        Args:
            original: its score on the validation split.
            claimed: a value that its weights say of themselves, with its key; None where they say none.
        """

    def losses(self, original: Score, result: Score) -> tuple[list[Warned], dict[str, Any]]:
        """What an exported file has lost against the original on the test split.

        Args:
            original: the score of the original's file.
            result: the score of the exported file.

        Returns:
            Warnings, and facts for the report by name.
        """

    def input_facts(self) -> dict[str, Any]:
        """Facts for the manifest, beside names, shapes and types: how inputs are made."""

    def shipped_files(self) -> dict[str, bytes]:
        """Files that ship with the network, by name, because its inputs cannot be made without them: a tokenizer's."""

    def output_facts(self, likelihood: Likelihood, name: str = "output") -> dict[str, Any]:
        """Facts for the manifest about one output: `meaning` in words, and what else is known of it.

        Args:
            likelihood: what outputs stand for.
            name: of the output.
        """
