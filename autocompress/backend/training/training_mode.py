"""Whether a network in training mode is still the network that is shipped, and how it is trained where it is not.

Some networks answer otherwise in training: with a second head beside the first (GoogLeNet, Inception), with features,
or with a loss of labels that they ask for. What is exported is the network in eval mode, so that is what is trained:
in eval mode, with live norms, whose statistics follow the batches.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

LIVE = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
"""Norms that keep statistics of what they see."""


def difference(model: nn.Module, inputs: Tensor) -> str:
    """What `model` (eval mode) does otherwise in training mode on `inputs` `(N, …)`, at least two; empty where it
    returns one tensor of the same shape. The network is left alone."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        expected = model(inputs)
        try:
            returned = copy.deepcopy(model).train()(inputs)
        except Exception as error:  # a user's forward may fail in any way
            cause = next(iter(str(error).strip().splitlines()), "")
            return f"fails in training mode ({type(error).__name__}: {cause})"
    if not isinstance(returned, Tensor):
        size = f" of {len(returned)} values" if isinstance(returned, tuple | list | dict) else ""
        return f"returns a {type(returned).__name__}{size} in training mode"
    if returned.shape != expected.shape:
        return f"returns a tensor of shape {tuple(returned.shape)} in place of {tuple(expected.shape)} in training mode"
    return ""


def train_as_shipped(model: nn.Module) -> nn.Module:
    """Put `model`, in place, in eval mode with live norms."""
    model.eval()
    for module in model.modules():
        if isinstance(module, LIVE):
            module.train()
    return model
