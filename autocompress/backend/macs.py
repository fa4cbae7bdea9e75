"""Multiply-accumulates of a network as it is."""

from __future__ import annotations

import copy

import thop
import torch
from torch import nn


def count_macs(model: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> int:
    """Multiply-accumulates of one sample by thop, on a copy (it leaves buffers behind)."""
    example = torch.zeros(1, *input_shape, dtype=dtype)
    macs, _ = thop.profile(copy.deepcopy(model).eval(), inputs=(example,), verbose=False)
    return int(macs)
