"""Weight changes: what one step of a plan, alone, changes of the original's weights; its cost follows from that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autocompress.backend.compress import Compressor
from autocompress.backend.graph.coupling import removed_indices
from autocompress.backend.layers.kinds import Conv
from autocompress.backend.network.compressed import leaves
from autocompress.core.plan import Step
from autocompress.errors import InputError
from autocompress.techniques.apply import technique_of
from autocompress.techniques.prune import kept_channels


def weight_changes(compressor: Compressor, step: Step) -> dict[str, Tensor]:
    """Changes of weights that do to the network what a step does, each of the shape of the original's weight, by layer.

    Removed channels show where they are read: those inputs count nothing any more, and the others are refitted.

    Args:
        compressor: of the original.
        step: any that changes weights.

    Raises:
        InputError: for a step that leaves blocks out, which is no change of weights.
    """
    acts_on = technique_of(step, compressor.techniques).acts_on
    if acts_on == "block":
        raise InputError(f"a dropped block must be measured, because it is no change of weights, but the step drops "
                         f"{step.site}")
    result = compressor.restructure_alone(step)
    if acts_on == "group":
        remaining = kept_channels(result.receipts)[step.site]
        return _of_pruning(compressor, result.model, step.site, np.array(remaining))
    integers = compressor.rounded(result)
    values = [integers[name].dequantized() if name in integers else _weight(result.model, name)
              for name in leaves(result.model, step.site)]
    if step.args.get("weight_bits") == 16:
        values = [value.half().float() for value in values]
    return {step.site: composed(values) - _weight(compressor.original, step.site)}


def composed(weights: Sequence[Tensor]) -> Tensor:
    """The weight `(out, in / groups, *kernel)` of one layer that does what those of factors in a row do.

    Args:
        weights: of the factors, in order of execution. Along each axis of the kernel at most one is wider than 1. One
            with fewer inputs than the factor before has outputs is depthwise.
    """
    total = weights[0]
    for weight in weights[1:]:
        depthwise = weight.shape[1] != len(total)
        total = weight * total if depthwise else torch.einsum("or...,ri...->oi...", weight, total)
    return total


def _of_pruning(compressor: Compressor, pruned: nn.Module, group: str, remaining: np.ndarray) -> dict[str, Tensor]:
    changes = {}
    removed = removed_indices(compressor.coupling.items, {group: remaining})
    for (name, side), gone in removed.items():
        module: Any = compressor.original.get_submodule(name)
        if side != "in" or not gone or not isinstance(module, Conv | nn.Linear):
            continue
        before, after = _weight(compressor.original, name), _weight(pruned, name)
        lost, change, done = removed.get((name, "out"), set()), torch.zeros_like(before), 0
        blocks, width = getattr(module, "groups", 1), before.shape[1]
        each = len(before) // blocks
        for block in range(blocks):
            rows = torch.tensor([row for row in range(block * each, (block + 1) * each) if row not in lost])
            columns = torch.tensor([column for column in range(width) if block * width + column not in gone])
            if len(rows):
                change[rows] = -before[rows]
                change[rows[:, None], columns] += after[done:done + len(rows)]
                done += len(rows)
        changes[name] = change
    return changes


def _weight(model: nn.Module, name: str) -> Tensor:
    weight = model.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight.detach()
