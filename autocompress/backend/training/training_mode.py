"""Training in eval mode with live norms, for networks that compute something else in training mode.

Some networks return more in training mode: a second head beside the first (GoogLeNet, Inception), features, or a loss
that needs labels. The exported network is the one in eval mode, so such a network is trained in eval mode, with norms
whose statistics follow the batches.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from autocompress.tensors.named import Inputs, NamedTensors, by_name

# Norms that keep running statistics.
LIVE = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


def difference(model: nn.Module, inputs: Inputs) -> str:
    """Describe what a network does otherwise in training mode.

    Args:
        model: The network in eval mode; it stays as it is.
        inputs: At least two inputs `(N, …)`.

    Returns:
        The difference, for a message; nothing where the network returns tensors of the same names and shapes.
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        expected = model(inputs)
        try:
            returned = copy.deepcopy(model).train()(inputs)
        except Exception as error:  # a user's forward may fail in any way
            cause = next(iter(str(error).strip().splitlines()), "")
            return f"fails in training mode ({type(error).__name__}: {cause})"
    if isinstance(expected, Tensor) and not isinstance(returned, Tensor):
        names = f" of {', '.join(returned)}" if isinstance(returned, NamedTensors) else ""
        return f"returns a {type(returned).__name__}{names} in training mode"
    before, after = by_name(expected), by_name(returned)
    if [*before] != [*after]:
        return f"returns {', '.join(after)} in place of {', '.join(before)} in training mode"
    other = next((name for name in before if before[name].shape != after[name].shape), None)
    if other is not None:
        return f"returns a tensor of shape {tuple(after[other].shape)} in place of {tuple(before[other].shape)} in " \
               "training mode"
    return ""


def train_as_shipped(model: nn.Module) -> nn.Module:
    """Put `model`, in place, in eval mode with live norms."""
    model.eval()
    for module in model.modules():
        if isinstance(module, LIVE):
            module.train()
    return model
