"""What the original puts out for samples of a task: what label-free metrics compare files with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autocompress.core.batch_sizes import rows_of
from autocompress.tasks.batch_likelihood import mask_of
from autocompress.tasks.batch_split import BatchSplit
from autocompress.tasks.row_writer import ShapedWriter
from autocompress.tasks.samples import Samples
from autocompress.tensors.footprint import footprint
from autocompress.tensors.likelihood import Gaussian
from autocompress.tensors.named import Inputs, by_name

# Samples that are answered at once, where they are small.
MOST_ROWS = 64
# Samples that the variance of outputs is told from.
KNOWN_SAMPLES = 256


def outputs_by_row(model: nn.Module, split: BatchSplit, inputs: Callable[[slice], Inputs],
                   masks: Mapping[str, tuple[int, ...]]) -> dict[str, Samples]:
    """The floating-point outputs of a network for all samples of a split, by name; NaN where a mask is 0."""
    writers: dict[str, ShapedWriter] = {}
    most = rows_of(footprint(model, inputs(slice(0, 1))).live, MOST_ROWS)
    for rows in split.pieces(most):
        for name, tensor in answered(model, inputs(rows), masks).items():
            writers.setdefault(name, ShapedWriter()).append(tensor)
    return {name: writer.finish() for name, writer in writers.items()}


def answered(model: nn.Module, inputs: Inputs, masks: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The floating-point outputs `(N, …)` for some inputs, by name; NaN where a mask is 0."""
    with torch.no_grad():
        outputs = by_name(model(inputs))
    answers = {}
    for name, tensor in outputs.items():
        if tensor.is_floating_point():
            mask = mask_of(tensor, {each: tuple(by_name(inputs)[each].shape[1:]) for each in masks})
            if mask is not None:
                padding = by_name(inputs)[mask] == 0
                tensor = tensor.masked_fill(padding.reshape(*padding.shape, *[1] * (tensor.dim() - 2)), math.nan)
            answers[name] = tensor
    return answers


def outputs_in_pieces(model: nn.Module, inputs: Callable[[Tensor], Inputs], rows: Tensor
                      ) -> Iterator[dict[str, Tensor]]:
    """The floating-point outputs of a network for the samples of `rows` `(M,)`, by name, a few samples at once."""
    most = rows_of(footprint(model, inputs(rows[:1])).live, MOST_ROWS)
    for some in torch.split(rows, most):
        yield answered(model, inputs(some), {})


def variances_of(model: nn.Module, inputs: Inputs) -> dict[str, np.ndarray[Any, Any]]:
    """The variance of each floating-point output, of the shape of one sample or one that spreads to it."""
    every = answered(model, inputs[:KNOWN_SAMPLES], {})
    return {name: Gaussian(tensor).variance.double().numpy() for name, tensor in every.items()}
