"""What a file puts out for samples of a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autocompress.core.cancellation import checkpoint
from autocompress.formats.base import Runtime
from autocompress.formats.running import as_outputs, in_batches, require_finite, require_sizes, values_of_sample
from autocompress.study.file_writer import as_arrays
from autocompress.study.traced import TracedNetwork
from autocompress.tasks.base import Inputs, SplitName
from autocompress.tasks.score import Answers
from autocompress.tensors.named import sample_shapes


def answers_of(runtime: Runtime, network: TracedNetwork, split: SplitName, samples: int | None = None) -> Answers:
    """What a file puts out for one split, or for so many samples that stand for it, some rows after others.

    Raises:
        InputError: where samples have a size that the file does not take.
        TrialError: where what it puts out is not finite.
    """
    task, most = network.task, network.rows
    part = None if samples is None else task.part(split, samples)
    total, done = task.samples(split) if part is None else len(part), 0
    for rows in task.rows(split, most) if part is None else torch.split(part, most):
        checkpoint("scoring", done, total)
        outputs = answers_to(runtime, network, split, rows)
        require_finite(outputs)
        done += len(next(iter(outputs.values())))
        yield rows, outputs


def answers_to(runtime: Runtime, network: TracedNetwork, split: SplitName, rows: Any) -> dict[str, np.ndarray]:
    """What a file puts out for rows of a split, by name; of larger samples fewer are run at once. InputError where they
    have a size that the file does not take."""
    inputs, example = as_arrays(network.task.inputs(split, rows)), as_arrays(network.example)
    require_sizes(runtime, inputs, example, f"samples of the {split} split")
    ratio = values_of_sample(inputs) / values_of_sample(example)
    return in_batches(runtime, inputs, max(1, int(network.rows / ratio)))


def canonical_answers(network: TracedNetwork, outputs: Mapping[str, np.ndarray], inputs: Inputs) -> Tensor:
    """What a file puts out for inputs `(N, …)`, in canonical form, as it is compared with the original's."""
    return network.likelihood.compared(network.likelihood.canonical(as_outputs(outputs)), inputs)


def calibration_answers(runtime: Runtime, network: TracedNetwork) -> Tensor:
    """What a file puts out for the calibration samples, in canonical form."""
    inputs = network.calibration
    return canonical_answers(network, in_batches(runtime, as_arrays(inputs), network.rows), inputs)


def has_calibrated_shape(network: TracedNetwork, inputs: Inputs) -> bool:
    """Whether inputs have the shape of calibration samples, for which the likelihood stands."""
    return sample_shapes(inputs) == sample_shapes(network.calibration)
