"""What a compressed network learns from a few unlabelled batches, without training."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

BATCH = 256
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def reestimate_norms(model: nn.Module, inputs: Tensor) -> None:
    """Replace the running statistics of every BatchNorm, in place, by those of `inputs` `(N, …)`.

    Cheapest repair there is after pruning or quantising (Li et al., "EagleEye", ECCV 2020). Momentum None
    makes the statistics a plain average over batches.
    """
    norms = [m for m in model.modules() if isinstance(m, _NORMS) and m.track_running_stats]
    if not norms:
        return
    saved = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for batch in _batches(inputs):
            model(batch)
    for norm, momentum in zip(norms, saved, strict=True):
        norm.momentum = momentum
        norm.eval()


def input_means(model: nn.Module, inputs: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
    """Mean input of each named Conv or Linear layer per input channel `(C_in,)`, over samples and positions.

    Layers with a BatchNorm directly behind need no correction, but are cheap to include.
    """
    totals: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    handles = []

    def watch(name: str, module: nn.Module) -> None:
        axis = 1 if isinstance(module, nn.Conv1d | nn.Conv2d) else -1

        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0].detach().movedim(axis, -1).flatten(0, -2)
            totals[name] = totals.get(name, 0) + x.double().sum(0)
            counts[name] = counts.get(name, 0) + len(x)

        handles.append(module.register_forward_pre_hook(hook))

    for name in names:
        module = model.get_submodule(name)
        if getattr(module, "bias", None) is not None:  # without a bias there is nothing to correct
            watch(name, module)
    if handles:
        with torch.no_grad():
            for batch in _batches(inputs):
                model(batch)
    for handle in handles:
        handle.remove()
    return {name: (totals[name] / counts[name]).float() for name in totals}


def correct_biases(model: nn.Module, shifts: dict[str, Tensor], means: dict[str, Tensor]) -> None:
    """Subtract from each bias, in place, the mean output shift that changing the weight by `shifts` causes."""
    with torch.no_grad():
        for name, shift in shifts.items():
            module = model.get_submodule(name)
            per_input = shift.flatten(2).sum(2) if shift.dim() > 2 else shift  # (out, in / groups)
            groups = int(getattr(module, "groups", 1))
            mean = means[name].reshape(groups, 1, -1)
            moved = (per_input.reshape(groups, -1, per_input.shape[1]) * mean).sum(2).reshape(-1)
            assert isinstance(module.bias, Tensor)
            module.bias.sub_(moved)


def _batches(inputs: Tensor) -> Iterable[Tensor]:
    return torch.split(inputs, BATCH)
