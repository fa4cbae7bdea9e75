"""What a compressed network learns from a few unlabelled batches, without training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from autocompress.backend.layers.kinds import Conv, Norm
from autocompress.backend.layers.recurrent import Gates, stepwise
from autocompress.backend.layers.transposed import TransposedConv
from autocompress.core.batch_sizes import rows_at_once
from autocompress.core.cancellation import checkpoint

BATCH = 256
"""Samples of one pass at most: fewer of large inputs (`rows_at_once`)."""


@dataclass(frozen=True)
class NormInputs:
    """What one BatchNorm of the original sees on the calibration data, and how it was trained to normalise it.

    `means`, `variances` (calls, C): of its input, call by call as the batches come. `running_mean`, `running_var`
    (C,): the statistics it came with, which are those of its training data and need not be near.
    """

    means: Tensor
    variances: Tensor
    running_mean: Tensor
    running_var: Tensor

    def channels(self, stay: Tensor) -> NormInputs:
        """Of the channels that stay, by index."""
        return NormInputs(self.means[:, stay], self.variances[:, stay], self.running_mean[stay],
                          self.running_var[stay])


def norm_inputs(model: nn.Module, inputs: Tensor) -> dict[str, NormInputs]:
    """`NormInputs` of every BatchNorm of `model` that is called on `inputs` `(N, …)`, by module name."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
    norms = _norms(model)

    def see(name: str, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.setdefault(name, []).append(_mean_and_variance(args[0]))

    _forward(model, inputs, [norm.register_forward_pre_hook(partial(see, name)) for name, norm in norms.items()])
    found = {}
    for name, calls in seen.items():
        means, variances = zip(*calls, strict=True)
        running_mean, running_var = _running(norms[name])
        found[name] = NormInputs(torch.stack(means), torch.stack(variances), running_mean.clone(), running_var.clone())
    return found


def reestimate_norms(model: nn.Module, inputs: Tensor, watched: Iterable[str] = (),
                     originals: Mapping[str, NormInputs] | None = None) -> dict[str, Tensor]:
    """Make the running statistics of every BatchNorm, in place, suit what it now sees of `inputs` `(N, …)`.

    Cheapest repair there is after pruning or quantising (Li et al., "EagleEye", ECCV 2020), with one difference: a
    norm in `originals` gets the statistics under which its output has, channel by channel, the mean and the variance
    that the original's has on these inputs, and so keeps what the original learned from more data, or from other
    data. The others get those of the inputs themselves. A norm's own batch is made good before the layers behind see
    it. Returns what the same pass shows: the mean input of each `watched` Conv or Linear layer per input channel
    `(C_in,)`, over samples and positions.
    """
    norms, known, watched = _norms(model), originals or {}, list(watched)
    calls: dict[str, int] = {}
    totals: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    averages: dict[str, tuple[Tensor, Tensor]] = {}

    def suit(name: str, norm: Norm, args: tuple[Tensor, ...]) -> None:
        statistics = _mean_and_variance(args[0])
        if name in known:
            statistics = _alike(known[name], calls.get(name, 0), *statistics, norm.eps)
        norm.running_mean, norm.running_var = statistics
        calls[name] = calls.get(name, 0) + 1
        before = averages.setdefault(name, (statistics[0].clone(), statistics[1].clone()))
        for average, new in zip(before, statistics, strict=True):
            average.lerp_(new, 1 / calls[name])  # running, so that the mean of equal ones is exactly they

    def watch(name: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        axis = 1 if isinstance(module, Conv) else -1
        x = args[0].detach().movedim(axis, -1).flatten(0, -2)
        totals[name] = totals.get(name, 0) + x.sum(0, dtype=torch.float64)
        # Of the zeros between positions of a transposed convolution's input, its weights see most.
        spread = math.prod(module.stride) if isinstance(module, TransposedConv) else 1
        counts[name] = counts.get(name, 0) + spread * len(x)

    handles = [norm.register_forward_pre_hook(partial(suit, name)) for name, norm in norms.items()]
    handles += [model.get_submodule(name).register_forward_pre_hook(partial(watch, name)) for name in watched]
    if handles:
        by_steps = any(isinstance(model.get_submodule(name), Gates) for name in watched)
        _forward(model, inputs, handles, by_steps)
    for name, (mean, variance) in averages.items():
        norms[name].running_mean, norms[name].running_var = mean, variance
    return {name: (totals[name] / counts[name]).float() for name in totals}


def rebase_norms(model: nn.Module, inputs: Tensor) -> None:
    """Give every BatchNorm, in place, the statistics of `inputs` `(N, …)`, and its factors what keeps its output.

    A norm that is trained normalises by its batch: where its statistics are not those of the data (frozen ones of
    another domain), training would begin with another network. Norms without factors are left alone.
    """
    norms = _norms(model)
    with torch.no_grad():
        for name, seen in norm_inputs(model, inputs).items():
            norm = norms[name]
            if norm.affine:
                mean, variance = seen.means.mean(0), seen.variances.mean(0)
                scale = norm.weight / (seen.running_var + norm.eps).sqrt()
                norm.bias.add_(scale * (mean - seen.running_mean))
                norm.weight.copy_(scale * (variance + norm.eps).sqrt())
                norm.running_mean, norm.running_var = mean, variance


def _norms(model: nn.Module) -> dict[str, Norm]:
    return {name: m for name, m in model.named_modules() if isinstance(m, Norm) and m.track_running_stats}


def _running(norm: Norm) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None
    return norm.running_mean, norm.running_var


def _mean_and_variance(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of each channel `(C,)` of `(N, C, …)`. In two passes, a quarter of the time that `torch.var_mean` takes here."""
    axes = [axis for axis in range(x.dim()) if axis != 1]
    mean = x.mean(axes, keepdim=True)
    return mean.flatten(), (x - mean).square_().mean(axes)


def _alike(original: NormInputs, call: int, mean: Tensor, variance: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Statistics under which an input of this `mean` and `variance` leaves the norm as the original's does. Exactly
    the original's where the input is the same."""
    ratio = (variance + eps) / (original.variances[call] + eps)
    # Not below zero, where rounding may take it for a channel that has died.
    running_var = (original.running_var * ratio + eps * (ratio - 1)).clamp_min(0)
    growth = ((running_var + eps) / (original.running_var + eps)).sqrt()
    off_centre = original.running_mean - original.means[call]
    return original.running_mean + (mean - original.means[call]) + off_centre * (growth - 1), running_var


def _batches(inputs: Tensor) -> Sequence[Tensor]:
    """Of one size, or nearly: all count alike."""
    return torch.tensor_split(inputs, math.ceil(len(inputs) / rows_at_once(tuple(inputs.shape[1:]), BATCH)))


def _forward(model: nn.Module, inputs: Tensor, handles: Iterable[RemovableHandle], by_steps: bool = False) -> None:
    """All of `inputs`, in eval mode, with hooks that are gone afterwards; `by_steps` through recurrent layers, whose
    weights hooks see there alone."""
    batches = _batches(inputs)
    try:
        with torch.no_grad(), stepwise(model) if by_steps else nullcontext():
            for done, batch in enumerate(batches):
                checkpoint("calibrating", done, len(batches))
                model(batch)
    finally:
        for handle in handles:
            handle.remove()


def runs_before_a_norm(model: nn.Module, example: Tensor, names: Iterable[str]) -> list[str]:
    """Those of the layers `names` that have a bias and are called before the network's last BatchNorm is."""
    called: list[str] = []
    kinds = {name: model.get_submodule(name) for name in names}
    chosen = [name for name, module in kinds.items() if getattr(module, "bias", None) is not None]
    norms = _norms(model).values()
    if not chosen or not norms:
        return []
    handles = [kinds[name].register_forward_pre_hook(lambda *_, name=name: called.append(name)) for name in chosen]
    handles += [norm.register_forward_pre_hook(lambda *_: called.append("")) for norm in norms]
    _forward(model, example, handles, by_steps=True)
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
