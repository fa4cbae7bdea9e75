"""Calibration: norms re-estimated and biases corrected on a few unlabelled batches, without training."""

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
from autocompress.core.allocator import bound_memory
from autocompress.core.batch_sizes import LEAST_NORM_ROWS, NORM_BYTES, rows_of
from autocompress.core.cancellation import checkpoint
from autocompress.tensors.footprint import footprint
from autocompress.tensors.named import Inputs

# Largest number of samples of one pass; of networks with large tensors there are fewer.
BATCH = 256
# The bytes of the copy of a norm's input of which variances are taken, some channels at a time.
PIECE_BYTES = 8 * 2**20


@dataclass(frozen=True)
class NormInputs:
    """The inputs of one BatchNorm of the original on calibration data, and the statistics that it normalises them by.

    Attributes:
        means: The mean of each channel of its input, by batch, `(calls, C)`.
        variances: The variance of each channel, likewise.
        running_mean: The mean that the norm subtracts, `(C,)`. It stems from the training data, and may be far off.
        running_var: The variance that it divides by, likewise.
        rows: The number of samples of a batch.
    """

    means: Tensor
    variances: Tensor
    running_mean: Tensor
    running_var: Tensor
    rows: int

    def channels(self, stay: Tensor) -> NormInputs:
        """Select the channels with the indices `stay` `(M,)`."""
        return NormInputs(self.means[:, stay], self.variances[:, stay], self.running_mean[stay],
                          self.running_var[stay], self.rows)


def norm_inputs(model: nn.Module, inputs: Inputs) -> dict[str, NormInputs]:
    """Measure `NormInputs` of every BatchNorm of `model` that is called on `inputs` `(N, …)`, by module name."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
    norms, rows = _norms(model), _rows(model, inputs)

    def see(name: str, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.setdefault(name, []).append(_mean_and_variance(args[0]))

    _forward(model, inputs, [norm.register_forward_pre_hook(partial(see, name)) for name, norm in norms.items()], rows)
    inputs_of = {}
    for name, calls in seen.items():
        means, variances = zip(*calls, strict=True)
        running_mean, running_var = _running(norms[name])
        inputs_of[name] = NormInputs(torch.stack(means), torch.stack(variances), running_mean.clone(),
                                     running_var.clone(), rows)
    return inputs_of


def reestimate_norms(model: nn.Module, inputs: Inputs, watched: Iterable[str] = (),
                     originals: Mapping[str, NormInputs] | None = None) -> dict[str, Tensor]:
    """Re-estimate the running statistics of every BatchNorm, in place, from its present inputs.

    A norm in `originals` gets the statistics under which its output has, channel by channel, the mean and the variance
    that the original's output has on these inputs, and so keeps what the original learned from more data, or from other
    data. Other norms get the statistics of their inputs. Each norm is updated before the layers behind it read its
    output.

    Args:
        model: The compressed network, in eval mode.
        inputs: Normalised inputs `(N, …)`.
        watched: Convolutions and linear layers whose mean inputs are returned.
        originals: The inputs of the original's norms, by module name.

    Returns:
        The mean input of each watched layer by input channel, `(C_in,)`, over samples and positions.

    Source: Li et al., "EagleEye" (ECCV 2020), for norms that are not in `originals`.
    """
    norms, targets, watched = _norms(model), originals or {}, list(watched)
    rows = next((original.rows for original in targets.values()), 0) or _rows(model, inputs)
    calls: dict[str, int] = {}
    totals: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    averages: dict[str, tuple[Tensor, Tensor]] = {}

    def suit(name: str, norm: Norm, args: tuple[Tensor, ...]) -> None:
        statistics = _mean_and_variance(args[0])
        if name in targets:
            statistics = _matched_running(targets[name], calls.get(name, 0), *statistics, norm.eps)
        norm.running_mean, norm.running_var = statistics
        calls[name] = calls.get(name, 0) + 1
        before = averages.setdefault(name, (statistics[0].clone(), statistics[1].clone()))
        for average, new in zip(before, statistics, strict=True):
            average.lerp_(new, 1 / calls[name])  # a running mean: of equal tensors it is exactly these

    def watch(name: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0].detach()
        positions = x.numel() // x.shape[1 if isinstance(module, Conv) else -1]
        if isinstance(module, Conv):  # map by map in floats: thirty times as fast as all at once in doubles
            x = x.flatten(2).sum(2)
        totals[name] = totals.get(name, 0) + x.flatten(0, -2).sum(0, dtype=torch.float64)
        # The weights of a transposed convolution also read the zeros between the positions of its input.
        spread = math.prod(module.stride) if isinstance(module, TransposedConv) else 1
        counts[name] = counts.get(name, 0) + spread * positions

    handles = [norm.register_forward_pre_hook(partial(suit, name)) for name, norm in norms.items()]
    handles += [model.get_submodule(name).register_forward_pre_hook(partial(watch, name)) for name in watched]
    if handles:
        by_steps = any(isinstance(model.get_submodule(name), Gates) for name in watched)
        _forward(model, inputs, handles, rows, by_steps)
    for name, (mean, variance) in averages.items():
        norms[name].running_mean, norms[name].running_var = mean, variance
    return {name: (totals[name] / counts[name]).float() for name in totals}


def rebase_norms(model: nn.Module, inputs: Inputs) -> None:
    """Move every BatchNorm to the statistics of `inputs` `(N, …)`, in place, and adapt its factors to keep its output.

    A norm in training normalises by its batch. Where its running statistics are not those of the data (frozen ones of
    another domain), training would begin with another network. Norms without factors stay as they are.
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
    """Compute mean and variance of each channel, `(C,)`, of `(N, C, …)`, four times as fast as `var_mean`."""
    axes = [axis for axis in range(x.dim()) if axis != 1]
    mean = x.mean(axes, keepdim=True)
    channels = rows_of(x[:, :1].nbytes, x.shape[1], PIECE_BYTES)
    pieces = zip(torch.split(x, channels, 1), torch.split(mean, channels, 1), strict=True)
    return mean.flatten(), torch.cat([(piece - its_mean).square_().mean(axes) for piece, its_mean in pieces])


def _matched_running(original: NormInputs, call: int, mean: Tensor, variance: Tensor,
                     eps: float) -> tuple[Tensor, Tensor]:
    """Compute the running statistics under which a norm's output has the mean and variance of the original's output.

    They are exactly the original's where the input has the original's mean and variance.
    """
    ratio = (variance + eps) / (original.variances[call] + eps)
    # For a channel that is always zero rounding may give less than zero.
    running_var = (original.running_var * ratio + eps * (ratio - 1)).clamp_min(0)
    growth = ((running_var + eps) / (original.running_var + eps)).sqrt()
    off_centre = original.running_mean - original.means[call]
    return original.running_mean + (mean - original.means[call]) + off_centre * (growth - 1), running_var


def _rows(model: nn.Module, inputs: Inputs) -> int:
    """Return how many samples are run together: of a smaller batch, statistics would be those of few."""
    return max(LEAST_NORM_ROWS, rows_of(footprint(model, inputs).live, BATCH, NORM_BYTES))


def _batches(inputs: Inputs, rows: int) -> Sequence[Inputs]:
    """Split inputs into batches of nearly one size, at most `rows`, so that all count alike."""
    return torch.tensor_split(inputs, math.ceil(len(inputs) / rows))


def _forward(model: nn.Module, inputs: Inputs, handles: Iterable[RemovableHandle], rows: int,
             by_steps: bool = False) -> None:
    """Run `inputs` through the network, `rows` at once, and remove the hooks `handles` afterwards.

    `by_steps` runs recurrent layers step by step; only then do hooks see their weights' inputs.
    """
    batches = _batches(inputs, rows)
    try:
        with torch.no_grad(), stepwise(model) if by_steps else nullcontext():
            for done, batch in enumerate(batches):
                checkpoint("calibrating", done, len(batches))
                bound_memory()
                model(batch)
    finally:
        for handle in handles:
            handle.remove()


def runs_before_a_norm(model: nn.Module, example: Inputs, names: Iterable[str]) -> list[str]:
    """Select the layers that have a bias and are called before the network's last BatchNorm is."""
    called: list[str] = []
    modules = {name: model.get_submodule(name) for name in names}
    with_bias = [name for name, module in modules.items() if getattr(module, "bias", None) is not None]
    norms = _norms(model).values()
    if not with_bias or not norms:
        return []
    handles = [modules[name].register_forward_pre_hook(lambda *_, name=name: called.append(name)) for name in with_bias]
    handles += [norm.register_forward_pre_hook(lambda *_: called.append("")) for norm in norms]
    _forward(model, example, handles, len(example), by_steps=True)
    before = called[:len(called) - called[::-1].index("")] if "" in called else []
    return sorted({name for name in before if name})


def correct_biases(model: nn.Module, shifts: dict[str, Tensor], means: dict[str, Tensor]) -> None:
    """Subtract from biases, in place, the mean output shift that a change of the weights causes.

    Args:
        model: The network.
        shifts: The change of each layer's weight, of the weight's shape.
        means: The mean input `(C_in,)` of each layer whose bias is corrected.
    """
    with torch.no_grad():
        for name, mean_input in means.items():
            shift, module = shifts[name], model.get_submodule(name)
            per_input = shift.flatten(2).sum(2) if shift.dim() > 2 else shift  # (out, in / groups)
            groups = int(getattr(module, "groups", 1))
            mean = mean_input.reshape(groups, 1, -1)
            mean_shift = (per_input.reshape(groups, -1, per_input.shape[1]) * mean).sum(2).reshape(-1)
            assert isinstance(module.bias, Tensor)
            module.bias.sub_(mean_shift)
