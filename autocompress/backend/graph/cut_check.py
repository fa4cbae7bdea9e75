"""Proof by execution that a coupling group can be cut: the network must compute the same without its channels.

A cut network must compute what the network computes when the channels are there but no layer reads them. This catches
what shapes cannot: sizes written into a forward that still fit, but then mean other channels. The weights are random,
so that no dead branch or vanishing scale hides a difference, and every layer's output is compared, not only the last.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from autocompress.backend.graph.coupling import Item, cut_channels, removed_indices
from autocompress.backend.layers.kinds import Conv, Norm
from autocompress.core.layer import Group
from autocompress.tensors.named import Inputs, joined, uniform

# Largest difference between two outputs that count as equal, relative to the largest value.
TOLERANCE = 1e-4
# Coupling groups and the items behind them, by the group's name.
Recorded = Mapping[str, tuple[Group, tuple[Item, ...]]]


def unsafe_groups(model: nn.Module, example: Inputs, recorded: Recorded) -> dict[str, str]:
    """Check coupling groups on a copy of the network with random weights.

    All are cut at once, and each by itself only where that fails.

    Args:
        model: The network; it stays as it is.
        example: An input `(N, …)`, for its shape and its type.
        recorded: The groups to check.

    Returns:
        The reason against each group that must be left alone.
    """
    check = _CutCheck(model, example)
    groups = dict(recorded)
    failed: dict[str, str] = {}
    while groups and check.problem(groups):
        alone = {name: why for name, pair in groups.items() if (why := check.problem({name: pair}))}
        if not alone:  # each by itself works, but not together
            return failed | dict.fromkeys(groups, "its channels cannot be cut together with those of other layers")
        failed |= alone
        groups = {name: group_and_items for name, group_and_items in groups.items() if name not in alone}
    return failed


class _CutCheck:
    """One network with random weights and one random input."""

    def __init__(self, model: nn.Module, example: Inputs) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self._model = randomised(copy.deepcopy(model).eval())
            self._input = uniform(example)
        self._whole = layer_outputs(self._model, self._input)

    def problem(self, recorded: Recorded) -> str:
        """Say why cutting half of each of these groups changes more than it should, or return nothing."""
        generator = np.random.default_rng(0)
        items = {name: group_items for name, (_, group_items) in recorded.items()}
        remaining = {name: _half(group, generator) for name, (group, _) in recorded.items()}
        removed = removed_indices(items, remaining)
        unread, cut = copy.deepcopy(self._model), copy.deepcopy(self._model)
        for (name, side), gone in removed.items():
            if side == "in":
                _stop_reading(unread.get_submodule(name), sorted(gone))
        try:
            cut_channels(cut, items, remaining)
            after = layer_outputs(cut, self._input)
        except Exception as error:  # any failure of the user's forward is a reason to leave the channels alone
            return f"the network does not run with fewer of its channels ({next(iter(str(error).splitlines()), '')})"
        for name, expected in layer_outputs(unread, self._input).items():
            axis = 1 if isinstance(unread.get_submodule(name), _CHANNELS_FIRST) else -1
            stay = [i for i in range(expected.shape[axis]) if i not in removed.get((name, "out"), ())]
            if removed.get((name, "in")) and close(expected, self._whole[name]):
                return f"whether they can be cut cannot be told: {name} does not react to them"
            expected = expected.index_select(axis, torch.tensor(stay))
            got = after.get(name)
            if isinstance(unread.get_submodule(name), _NORMS) and (name, "out") not in removed and got is not None \
                    and got.shape != expected.shape:
                continue  # the channels that are cut lie beside its own axis: the layers behind it tell
            if got is None or got.shape != expected.shape or not close(got, expected):
                return f"with fewer of its channels, {name or 'the network'} computes something else: a size is " \
                       "written into a forward"
        return ""


_CHANNELS_FIRST = Conv | Norm
_NORMS = Norm
_COMPARED = _CHANNELS_FIRST | nn.Linear


def close(got: Tensor, expected: Tensor) -> bool:
    """Tell whether two tensors of one shape differ by no more than `TOLERANCE` of the largest expected value."""
    return bool((got - expected).abs().max() <= TOLERANCE * expected.abs().max())


def layer_outputs(model: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    """Return the output of every layer that can be cut, by name, and that of the network under the empty name."""
    outputs: dict[str, Tensor] = {}

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, __: object, output: Tensor) -> None:
            outputs[name] = output.clone()  # an in-place activation may follow
        return module.register_forward_hook(hook)

    handles = [watch(name, module) for name, module in model.named_modules() if isinstance(module, _COMPARED)]
    try:
        with torch.no_grad():
            outputs[""] = joined(model(inputs))
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def randomised(model: nn.Module) -> nn.Module:
    """Draw parameters and statistics anew, in place: signals become about one, and every scale and shift counts."""
    with torch.no_grad():
        for module in model.modules():
            for name, tensor in module.named_parameters(recurse=False):
                if tensor.dim() > 1:
                    tensor.normal_(0, (1.5 / tensor[0].numel()) ** 0.5)
                elif tensor.is_floating_point():
                    tensor.uniform_(0.5, 1.5) if name.endswith("weight") else tensor.normal_(0, 0.3)
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
                assert module.running_mean is not None
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 1.5)
    return model


def _half(group: Group, generator: np.random.Generator) -> np.ndarray:
    """Draw half of the channels of each block, without the first and the last.

    Those two move most when an order of channels is written into a forward.
    """
    per_block = group.channels // group.blocks
    by_block = [1 + np.sort(generator.permutation(per_block - 2)[:per_block // 2]) if per_block > 2 else np.arange(1)
             for _ in range(group.blocks)]
    return np.concatenate([block_channels + block * per_block for block, block_channels in enumerate(by_block)])


def _stop_reading(module: nn.Module, gone: list[int]) -> None:
    """Set the weights on the input channels `gone` to zero, in place."""
    assert isinstance(module.weight, Tensor)
    with torch.no_grad():
        groups, width = getattr(module, "groups", 1), module.weight.shape[1]
        blocks = module.weight.view(groups, -1, *module.weight.shape[1:])  # (groups, rows, columns, …)
        block, column = torch.tensor(gone).div(width, rounding_mode="floor"), torch.tensor(gone) % width
        blocks[block, :, column] = 0
