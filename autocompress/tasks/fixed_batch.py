"""Networks that take one number of samples alone, which is written into their `forward`."""

from __future__ import annotations

import re

import torch
from torch import nn

from autocompress.tensors.named import Inputs, by_name

# The largest number of samples that is tried, and how many numbers of a message are.
MOST_SAMPLES, MOST_TRIED = 1024, 8


def fixed_number_of_samples(model: nn.Module, inputs: Inputs, error: Exception | None) -> int | None:
    """The number of samples that a network takes where it failed with two, or answered them with other than two rows;
    None where it takes none of those that it names itself.

    Args:
        model: the network, in eval mode.
        inputs: two samples.
        error: that it raised; None where it answered.
    """
    numbers = dict.fromkeys([1, *map(int, re.findall(r"\d+", str(error or ""))[:MOST_TRIED])])
    for number in numbers:
        if number not in (0, len(inputs)) and number <= MOST_SAMPLES and _takes(model, inputs, number):
            return number
    return None


def advice(number: int) -> str:
    """What to change in a `forward` that takes `number` samples."""
    return (f"forward takes {number} sample{'s' if number > 1 else ''} alone, a number that is written into it: use "
            f"x.shape[0] in its place, such as x.view(x.shape[0], -1) for x.view({number}, -1)")


def _takes(model: nn.Module, inputs: Inputs, number: int) -> bool:
    try:
        with torch.no_grad():
            outputs = by_name(model(inputs[torch.zeros(number, dtype=torch.long)]))
    except Exception:  # the user's code: anything can come
        return False
    return bool(outputs) and all(tensor.dim() and len(tensor) == number for tensor in outputs.values())
