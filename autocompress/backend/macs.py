"""Multiply-accumulates of a network as it is."""

from __future__ import annotations

import copy
from typing import Any

import thop
import torch
from torch import nn

from autocompress.backend.recurrent import Gates, stepwise
from autocompress.backend.transposed import TransposedConv


def count_macs(model: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> int:
    """Multiply-accumulates of one sample by thop, on a copy (it leaves buffers behind)."""
    example = torch.zeros(1, *input_shape, dtype=dtype)
    counted = copy.deepcopy(model).eval()
    with stepwise(counted):
        macs, _ = thop.profile(counted, inputs=(example,), custom_ops=_OPERATIONS, verbose=False)
    return int(macs)


def _transposed(module: Any, inputs: tuple[torch.Tensor, ...], _: torch.Tensor) -> None:
    """Each input element meets the weights of its channel once."""
    module.total_ops += torch.tensor([inputs[0].numel() * module.weight[:, 0].numel() / module.groups])


def _gates(module: Any, _: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
    module.total_ops += torch.tensor([float(module.in_features * output.numel())])


_OPERATIONS = {TransposedConv: _transposed, Gates: _gates}
