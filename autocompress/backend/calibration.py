"""What a compressed network learns from a few unlabelled batches, without training."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

BATCH = 256
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def reestimate_norms(model: nn.Module, inputs: Tensor, watched: Iterable[str] = ()) -> dict[str, Tensor]:
    """Replace the running statistics of every BatchNorm, in place, by those of `inputs` `(N, …)`.

    Cheapest repair there is after pruning or quantising (Li et al., "EagleEye", ECCV 2020). Momentum None
    makes the statistics a plain average over batches. Returns what the same pass shows: the mean input of each
    `watched` Conv or Linear layer per input channel `(C_in,)`, over samples and positions.
    """
    norms = [m for m in model.modules() if isinstance(m, _NORMS) and m.track_running_stats]
    totals: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def watch(name: str, module: nn.Module) -> RemovableHandle:
        axis = 1 if isinstance(module, nn.Conv1d | nn.Conv2d) else -1

        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0].detach().movedim(axis, -1).flatten(0, -2)
            totals[name] = totals.get(name, 0) + x.sum(0, dtype=torch.float64)
            counts[name] = counts.get(name, 0) + len(x)

        return module.register_forward_pre_hook(hook)

    handles = [watch(name, model.get_submodule(name)) for name in watched]
    if not norms and not handles:
        return {}
    saved = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for batch in torch.split(inputs, BATCH):
            model(batch)
    for norm, momentum in zip(norms, saved, strict=True):
        norm.momentum = momentum
        norm.eval()
    for handle in handles:
        handle.remove()
    return {name: (totals[name] / counts[name]).float() for name in totals}


def runs_before_a_norm(model: nn.Module, example: Tensor, names: Iterable[str]) -> list[str]:
    """Those of the layers `names` that have a bias and are called before the network's last BatchNorm is."""
    called: list[str] = []
    kinds = {name: model.get_submodule(name) for name in names}
    chosen = [name for name, module in kinds.items() if getattr(module, "bias", None) is not None]
    norms = [m for m in model.modules() if isinstance(m, _NORMS) and m.track_running_stats]
    if not chosen or not norms:
        return []
    handles = [kinds[name].register_forward_pre_hook(lambda *_, name=name: called.append(name)) for name in chosen]
    handles += [norm.register_forward_pre_hook(lambda *_: called.append("")) for norm in norms]
    with torch.no_grad():
        model(example)
    for handle in handles:
        handle.remove()
    before = called[:len(called) - called[::-1].index("")] if "" in called else []
    return sorted({name for name in before if name})


def correct_biases(model: nn.Module, shifts: dict[str, Tensor], means: dict[str, Tensor]) -> None:
    """Subtract from the bias of each layer in `means`, in place, the mean output shift that changing its weight by
    `shifts` causes."""
    with torch.no_grad():
        for name, mean_input in means.items():
            shift, module = shifts[name], model.get_submodule(name)
            per_input = shift.flatten(2).sum(2) if shift.dim() > 2 else shift  # (out, in / groups)
            groups = int(getattr(module, "groups", 1))
            mean = mean_input.reshape(groups, 1, -1)
            moved = (per_input.reshape(groups, -1, per_input.shape[1]) * mean).sum(2).reshape(-1)
            assert isinstance(module.bias, Tensor)
            module.bias.sub_(moved)
