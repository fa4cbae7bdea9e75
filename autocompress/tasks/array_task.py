"""A base class for tasks whose samples are tensors, or read by rows, and whose outputs are numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from autocompress.core.metric import Metric
from autocompress.core.warnings import Warned
from autocompress.errors import InputError
from autocompress.tasks.identity import callable_fingerprint
from autocompress.tasks.samples import content_of
from autocompress.tasks.score import Answers, Score, consecutive_rows, gathered_rows
from autocompress.tasks.splits import SPLITS, Split
from autocompress.tasks.stratified import random_part
from autocompress.tensors.likelihood import Gaussian, Likelihood
from autocompress.tensors.named import Inputs


class ArrayTask:
    """A regression on samples that are in memory or read by rows: implement `measure`, and name the data and the
    `metric`.

    Training distils by squared error over the variance of the original's outputs. There is no augmentation. Every
    method of the protocol may be overridden.

    Args:
        splits: `train`, `validation` and `test`; inputs as the network reads them, targets `(N, …)` of its outputs'
            shape.

    Raises:
        InputError: where a split is missing, or has no sample.
    """

    name: ClassVar[str] = "data"
    metric: ClassVar[Metric] = Metric("mse", higher_is_better=False)
    further: ClassVar[tuple[Metric, ...]] = ()
    keep: ClassVar[tuple[str, ...]] = ()
    has_targets: ClassVar[bool] = True
    # Set it where `train_view` is overridden.
    is_augmented: ClassVar[bool] = False

    def __init__(self, splits: Mapping[str, Split]) -> None:
        missing = [split for split in SPLITS if split not in splits or not len(splits[split])]
        if missing:
            raise InputError(f"a task needs samples in its splits {', '.join(SPLITS)}, but {', '.join(missing)} has "
                             "none")
        self.splits = dict(splits)

    def measure(self, outputs: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
        """The metric of outputs, and its standard error.

        Args:
            outputs: `(N, …)`, of a file.
            targets: `(N, …)`, of the split.
        """
        return standard_error(np.square(outputs - targets))

    @cached_property
    def fingerprint(self) -> str:
        """Content hash of all samples, the metric, and the code of `measure`."""
        digest = hashlib.sha256(f"{self.metric} {callable_fingerprint(type(self).measure)}".encode())
        for split in SPLITS:
            inputs, targets = self.splits[split].inputs, self.splits[split].targets
            named = dict(inputs.items()) if isinstance(inputs, Mapping) else {"input": inputs}
            for name, samples in (*named.items(), ("", targets)):
                digest.update(f"{split} {name} {samples.dtype} {tuple(samples.shape)}".encode())
                for content in content_of(samples):
                    digest.update(content)
        return digest.hexdigest()[:16]

    @property
    def views_fingerprint(self) -> str | None:
        """That of the samples: views are not augmented."""
        return self.fingerprint

    @property
    def described(self) -> str:
        """Inputs are not changed."""
        return "as given"

    def samples(self, split: str) -> int:
        """Number of samples of a split."""
        return len(self.splits[split])

    def rows(self, split: str, most: int) -> Iterator[slice]:
        """In pieces of `most`."""
        return consecutive_rows(self.samples(split), most)

    def part(self, split: str, samples: int) -> Tensor | None:
        """Drawn at random; None where `score` is another, which may need all rows."""
        whole = samples >= self.samples(split) or type(self).score is not ArrayTask.score
        return None if whole else random_part(self.samples(split), samples)

    def inputs(self, split: str, rows: Any) -> Inputs:
        """Samples as the network reads them."""
        samples: Inputs = self.splits[split].inputs[rows]
        return samples

    @property
    def train_targets(self) -> Tensor:
        """Targets of the training split."""
        return self.splits["train"].targets

    def view_targets(self, view: int, seed: int) -> Tensor:
        """The same of every view."""
        return self.train_targets

    def train_view(self, view: int, seed: int) -> Any:
        """All training samples."""
        return self.splits["train"].inputs

    def normalise(self, inputs: Any) -> Inputs:
        """Inputs as they are."""
        unchanged: Inputs = inputs
        return unchanged

    def likelihood(self, outputs: Inputs, ends_in_sigmoid: Collection[str]) -> Likelihood:
        """Numbers with the variance of the original's outputs."""
        if not isinstance(outputs, Tensor):
            raise InputError(f"{self.name}: the network must return one tensor, but returns {', '.join(outputs)}: "
                             "override likelihood and score, or give an autocompress.Task")
        if outputs.shape[1:] != self.train_targets.shape[1:]:
            raise InputError(f"{self.name}: targets must have the shape of the network's outputs, "
                             f"{tuple(outputs.shape[1:])} without the samples, but have "
                             f"{tuple(self.train_targets.shape[1:])}")
        return Gaussian(outputs)

    def score(self, answers: Answers, split: str, likelihood: Likelihood) -> Score:
        """`measure` of the one output."""
        rows, answered = gathered_rows(answers)
        (only,) = answered.values()
        value, error = self.measure(only, self.splits[split].targets[rows].numpy())
        return Score({self.metric.name: float(value), self.metric.error: float(error)})

    def doubts(self, original: Score, claimed: tuple[str, float] | None) -> list[Warned]:
        """None."""
        return []

    def losses(self, original: Score, result: Score) -> tuple[list[Warned], dict[str, Any]]:
        """None."""
        return [], {}

    def input_facts(self) -> dict[str, Any]:
        """Inputs are not changed."""
        return {"scale": "as given"}

    def shipped_files(self) -> dict[str, bytes]:
        """None."""
        return {}

    def output_facts(self, likelihood: Likelihood, name: str = "output") -> dict[str, Any]:
        """Outputs are numbers."""
        return {"meaning": "numbers"}


def standard_error(values: np.ndarray) -> tuple[float, float]:
    """The mean of `values` `(N, …)` over everything, and its standard error over the N samples."""
    by_sample = np.asarray(values, np.float64).reshape(len(values), -1).mean(1)
    return float(by_sample.mean()), float(by_sample.std(ddof=min(1, len(values) - 1)) / len(values) ** 0.5)
