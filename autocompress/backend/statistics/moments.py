"""Moments of every layer's input on calibration data, and gradients of its weight, computed once for all plans.

Least-squares reconstruction, whitened factors and GPTQ all weigh an error of the weights by how much it changes the
output, and the second moments of the input tell that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autocompress.backend.layers.kinds import Conv
from autocompress.backend.layers.recurrent import stepwise
from autocompress.backend.layers.transposed import TransposedConv
from autocompress.backend.statistics.lru_cache import content
from autocompress.backend.statistics.tensor_cache import TensorCache
from autocompress.core.allocator import bound_memory
from autocompress.core.batch_sizes import EVERY_BYTES, rows_of
from autocompress.core.cancellation import checkpoint
from autocompress.core.store import Store
from autocompress.tensors.footprint import Footprint, footprint
from autocompress.tensors.likelihood import CATEGORICAL, Likelihood
from autocompress.tensors.named import Inputs, joined

# Version of these measurements. A change of it makes stored results void.
VERSION = 2
# Samples whose outputs identify the network's code in the key of stored results.
PROBES = 8
# Largest number of samples of one pass without gradients.
BATCH = 64
# Largest number of samples of one pass with gradients.
GRADIENT_BATCH = 8
# Positions of a feature map, or tokens, drawn from each sample. Neighbouring positions are nearly alike.
POSITIONS = 48
# Largest number of columns of a weight whose full covariance is measured. In wider convolutions it is that of channels,
# taken as equal at every tap of the kernel, because an inverse costs the cube of the width.
FULL_WIDTH = 1152
# Forward methods of the layers whose inputs are measured. A subclass that pads or scales by itself is left out.
PLAIN = (nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward, nn.Linear.forward, TransposedConv.forward)
# Largest width of an input whose moments are measured, at 256 MiB of covariance.
MAX_WIDTH = 8192


@dataclass(frozen=True)
class Moments:
    """First and second moments of one layer's input.

    They are in columns of the weight as a matrix, d = `(channels / groups) * prod(kernel)` a group, or in channels for
    convolutions wider than `FULL_WIDTH`.

    Attributes:
        mean: The mean, `(groups, d)`.
        covariance: The second moments of the input less its mean, `(groups, d, d)`.
        magnitude: The mean absolute value of each channel, `(channels,)`.
        active: The share of each channel's values that are not zero, `(channels,)`.
    """

    mean: Tensor
    covariance: Tensor
    magnitude: Tensor
    active: Tensor

    @property
    def second(self) -> Tensor:
        """Second moments about zero, `(groups, d, d)`, for layers behind which nothing absorbs a shift of the mean."""
        return self.covariance + self.mean[:, :, None] * self.mean[:, None, :]

    @property
    def channel_mean(self) -> Tensor:
        """The mean input of each channel, `(channels,)`, over the taps of the kernel."""
        return self.mean.reshape(len(self.magnitude), -1).mean(1)

    def channels(self, indices: Tensor) -> Moments:
        """Select the moments of the input channels `indices` `(M,)` of an ungrouped layer."""
        area = self.mean.shape[1] // len(self.magnitude)
        columns_kept = (indices[:, None] * area + torch.arange(area)).flatten()
        covariance = self.covariance.index_select(1, columns_kept).index_select(2, columns_kept)
        return Moments(self.mean[:, columns_kept], covariance,
                       self.magnitude[indices], self.active[indices])

    def rescaled(self, factor: Tensor) -> Moments:
        """Return the moments of the input with each channel times `factor` `(channels,)`, all above 0."""
        by_column = factor.repeat_interleave(self.mean.numel() // len(factor)).reshape(self.mean.shape)
        return Moments(self.mean * by_column, self.covariance * by_column[:, :, None] * by_column[:, None, :],
                       self.magnitude * factor, self.active)


@dataclass(frozen=True)
class Sensitivity:
    """First-order importance of a layer's channels from gradients of the loss, mean over batches.

    Attributes:
        taylor_out: (sum of gradient · weight)² over each output channel, `(out,)`.
        taylor_in: The same over each input channel, `(in / groups,)`.
        fisher_out: Sum of (gradient · weight)² over each output channel, `(out,)`.
        fisher_in: The same over each input channel, `(in / groups,)`.
    """

    taylor_out: Tensor
    taylor_in: Tensor
    fisher_out: Tensor
    fisher_in: Tensor

    def taylor(self, out: bool) -> Tensor:
        """By output or input channel."""
        return self.taylor_out if out else self.taylor_in

    def fisher(self, out: bool) -> Tensor:
        """By output or input channel."""
        return self.fisher_out if out else self.fisher_in


class Samples:
    """Inputs by rows, read batch by batch and not held: those that weights are fitted to.

    Args:
        read: Reads normalised inputs `(M, …)` by their rows `(M,)`.
        rows: The rows, `(N,)`.
        source: Returns text that differs where `read` gives other inputs for the same rows.
    """

    def __init__(self, read: Callable[[Tensor], Inputs], rows: Tensor, source: Callable[[], str]) -> None:
        self._read, self._rows, self._source = read, rows, source

    @classmethod
    def of(cls, inputs: Inputs) -> Samples:
        """Take inputs `(N, …)` that are held."""
        return cls(lambda rows: inputs[rows], torch.arange(len(inputs)), lambda: "calibration")

    @property
    def fingerprint(self) -> str:
        """Text that differs for other inputs."""
        return f"{self._source()} {content(self._rows)}"

    def batches(self, size: int) -> Sequence[Callable[[], Inputs]]:
        """Return a reader for each batch of at most `size` samples."""
        return [partial(self._read, rows) for rows in torch.split(self._rows, size)]


class Statistics:
    """Facts about every convolution and linear layer of `model` on normalised inputs `calibration` (N, …), kept in
    `store` where there is one (`TensorCache`).

    Moments are those of `samples`, by default the calibration inputs. Weights are fitted to moments, and a fit looks
    better than it is on its own samples: what plans lose can be predicted on calibration inputs where those are others.

    Labels for gradients are drawn from the network's own answers, seeded: no labels of the user's are needed, and
    the gradient is not zero where the network is right and sure (that makes the Fisher information the true one).
    `likelihood`: what the network's outputs stand for.
    """

    def __init__(self, model: nn.Module, calibration: Inputs, store: Store | None = None,
                 likelihood: Likelihood = CATEGORICAL, samples: Samples | None = None) -> None:
        self._model, self._calibration, self._likelihood = model, calibration, likelihood
        self._samples = samples or Samples.of(calibration)
        self._store = TensorCache(store, self._key)

    def _key(self) -> str:
        """A hash of all that the facts follow from. The network's code shows in its answers, of which two digits
        are compared: the last ones depend on the number of threads."""
        digest = hashlib.sha256(f"{VERSION} {torch.__version__} {BATCH} {self._gradient_rows} {POSITIONS} {FULL_WIDTH} "
                                f"{MAX_WIDTH} {self._likelihood.fingerprint} {self._samples.fingerprint} "
                                f"{self._model}".encode())
        with torch.no_grad():
            answers = joined(self._model(self._calibration[:PROBES]))
        digits = (answers / answers.abs().max().clamp_min(1e-20) * 100).round().nan_to_num(101)
        read = self._calibration
        inputs = [("inputs", read)] if isinstance(read, Tensor) else [*read.items()]
        for name, tensor in (*self._model.state_dict().items(), *inputs, ("", digits)):
            digest.update(f"{name} {content(tensor)}".encode())
        return digest.hexdigest()

    @cached_property
    def footprint(self) -> Footprint:
        """The memory that one sample takes in the network."""
        return footprint(self._model, self._calibration)

    @property
    def _gradient_rows(self) -> int:
        return rows_of(self.footprint.every, GRADIENT_BATCH, EVERY_BYTES)

    def gathered(self, kind: str, names: Sequence[str], make: Callable[[list[int]], Tensor]) -> Tensor:
        """Other facts that follow from the network, the calibration inputs, `kind` and a name each: see
        `TensorCache`."""
        return self._store.gather(kind, names, make)

    def missing(self, kind: str, names: Sequence[str]) -> list[int]:
        """Places of the names whose values `gathered` would have to compute."""
        return self._store.missing(kind, names)

    def sensitivity(self, name: str) -> Sensitivity | None:
        """Of the loss to a layer's weight; None for a layer that the network never calls."""
        return self._sensitivities.get(name)

    @cached_property
    def _sensitivities(self) -> dict[str, Sensitivity]:
        tensors = self._store.get("sensitivity", lambda: _flat(self._measured_sensitivities()))
        return {name: Sensitivity(**facts) for name, facts in _nested(tensors).items()}

    def _measured_sensitivities(self) -> dict[str, Sensitivity]:
        weights = {name: module.weight for name, module in self._model.named_modules()
                   if isinstance(module, Conv | nn.Linear)}
        before = {name: weight.requires_grad for name, weight in weights.items()}
        sums: dict[str, list[Tensor]] = {}
        batches = torch.split(self._calibration, self._gradient_rows)
        generator = torch.Generator().manual_seed(0)
        try:
            for weight in weights.values():
                weight.requires_grad_(True)
            for done, batch in enumerate(batches):
                checkpoint("gradients of the original", done, len(batches))
                bound_memory()
                with torch.enable_grad():
                    loss = self._likelihood.drawn_loss(self._likelihood.canonical(self._model(batch)), generator)
                gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
                for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
                    if gradient is not None:
                        product = (gradient * weight.detach()).flatten(2) if weight.dim() > 2 else \
                            (gradient * weight.detach())[:, :, None]
                        by_pair, squares = product.sum(2), product.square().sum(2)
                        new = [by_pair.sum(1).square(), by_pair.sum(0).square(), squares.sum(1), squares.sum(0)]
                        sums[name] = [a + b for a, b in zip(sums[name], new, strict=True)] if name in sums else new
        finally:
            for name, weight in weights.items():
                weight.requires_grad_(before[name])
        return {name: Sensitivity(*(total / len(batches) for total in totals)) for name, totals in sums.items()}

    def moments(self, name: str) -> Moments | None:
        """Of a layer's input, or None: never called, or wider than `MAX_WIDTH`."""
        return self._moments.get(name)

    @cached_property
    def _moments(self) -> dict[str, Moments]:
        tensors = self._store.get("moments", lambda: _flat(self._measured_moments()))
        return {name: Moments(**facts) for name, facts in _nested(tensors).items()}

    def _measured_moments(self) -> dict[str, Moments]:
        sums: dict[str, _Sums] = {}
        # Measured before there are hooks, which would count that sample too.
        batches = self._samples.batches(rows_of(self.footprint.every, BATCH, EVERY_BYTES))
        handles = []
        generator = torch.Generator().manual_seed(0)

        def watch(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
                sums.setdefault(name, _Sums()).add(module, args[0].detach(), generator)
            return hook

        for name, module in self._model.named_modules():
            if type(module).forward in PLAIN and columns(module) <= MAX_WIDTH:
                handles.append(module.register_forward_pre_hook(watch(name)))
        try:
            with torch.no_grad(), stepwise(self._model):
                for done, batch in enumerate(batches):
                    checkpoint("statistics of the original", done, len(batches))
                    bound_memory()
                    self._model(batch())
        finally:
            for handle in handles:
                handle.remove()
        return {name: total.moments() for name, total in sums.items()}


def _flat(facts: Mapping[str, Moments | Sensitivity]) -> dict[str, Tensor]:
    return {f"{name}/{key}": value for name, fact in facts.items() for key, value in vars(fact).items()}


def _nested(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    facts: dict[str, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        name, _, key = path.rpartition("/")
        facts.setdefault(name, {})[key] = tensor
    return facts


def width(module: nn.Module) -> int:
    """Count the columns of one group of a layer's weight as a matrix."""
    assert isinstance(module.weight, Tensor)
    return module.weight[0].numel()


def columns(module: nn.Module) -> int:
    """Count the columns of a layer's moments: of its weight, or the channels of a group where those are too many."""
    assert isinstance(module.weight, Tensor)
    return module.weight.shape[1] if width(module) > FULL_WIDTH else width(module)


def layer_patches(module: nn.Module, inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Return the inputs of the weight as a matrix, `(groups, rows, d)`, at `POSITIONS` random positions a sample.

    For a wide convolution they are the channels at these positions.
    """
    if isinstance(module, nn.Linear):
        rows = inputs.flatten(1, -2) if inputs.dim() > 2 else inputs.reshape(-1, 1, inputs.shape[-1])
        return rows[:, _positions(rows.shape[1], generator)].flatten(0, 1)[None]
    assert isinstance(module, Conv)
    if columns(module) < width(module):
        flat = inputs.flatten(2)
        flat = flat[:, :, _positions(flat.shape[2], generator)].movedim(1, -1).flatten(0, 1)
        return flat.reshape(-1, module.groups, columns(module)).transpose(0, 1)
    view = windows(module, inputs)
    axes = len(module.kernel_size)
    sizes = view.shape[2:2 + axes]
    positions = _positions(int(torch.tensor(sizes).prod()), generator)
    index = torch.unravel_index(positions, sizes)
    patches: Tensor = view[(slice(None), slice(None), *index)]  # type: ignore[index]  # (N, C, P, *kernel)
    rows = patches.movedim(2, 1).flatten(0, 1).reshape(-1, module.groups, width(module))
    return rows.transpose(0, 1)


def windows(module: Conv, inputs: Tensor) -> Tensor:
    """Return the windows of a convolution's kernel as a view, `(N, C, *positions, *kernel)`.

    Taps are in the order of the weight. Positions of a transposed convolution come in reverse, because its kernel is
    reversed.
    """
    axes = len(module.kernel_size)
    if isinstance(module, TransposedConv):
        view, strides = module.spread(inputs).flip(tuple(range(2, 2 + axes))), (1,) * axes
    else:
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        view, strides = F.pad(inputs, module._reversed_padding_repeated_twice, mode=mode), module.stride
    for axis, (kernel, stride, dilation) in enumerate(zip(module.kernel_size, strides, module.dilation, strict=True)):
        view = view.unfold(2 + axis, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
    return view


def _positions(count: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(count, generator=generator)[:POSITIONS]


def shrunk(covariance: Tensor, rows: int) -> Tensor:
    """Shrink covariances towards their diagonals, by as much as chance makes of what lies off them.

    Of fewer rows than columns, a regression on the covariance reproduces those rows exactly and nothing else; the more
    rows there are, the less is taken away. Variances stay, and other units of the columns change nothing.

    Args:
        covariance: Sample covariances `(groups, d, d)`.
        rows: The number of rows that they were estimated from.

    Source: Schäfer & Strimmer, "A Shrinkage Approach to Large-Scale Covariance Matrix Estimation" (2005), target D:
    correlations are shrunk, by the sum of their variances over that of their squares; variances are a Gaussian's.
    """
    deviations = covariance.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
    inverse = torch.where(deviations > 0, 1 / deviations, 0)
    squares = (covariance * inverse[:, :, None] * inverse[:, None, :]).square_().clamp_max_(1)
    squares.diagonal(dim1=-2, dim2=-1).zero_()
    by_chance = ((1 - squares).square().sum((-2, -1)) - squares.shape[-1]) / rows
    share = (by_chance / squares.sum((-2, -1)).clamp_min(1e-30)).clamp(0, 1)[:, None, None]
    result = covariance * (1 - share)
    result.diagonal(dim1=-2, dim2=-1).copy_(covariance.diagonal(dim1=-2, dim2=-1))
    return result


class _Sums:
    """Running totals over batches, of rows less the first batch's mean.

    Without that shift the covariance would be a difference of two large numbers where the mean is large against the
    deviation.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.values = 0
        self.shift: Tensor | None = None
        self.first: Tensor | float = 0.0
        self.outer: Tensor | float = 0.0
        self.magnitude: Tensor | float = 0.0
        self.active: Tensor | float = 0.0

    def add(self, module: nn.Module, inputs: Tensor, generator: torch.Generator) -> None:
        rows = layer_patches(module, inputs, generator)
        self.rows += rows.shape[1]
        if self.shift is None:
            self.shift = rows.mean(1)
        rows = rows - self.shift[:, None]
        self.first = self.first + rows.sum(1)
        self.outer = self.outer + rows.transpose(1, 2) @ rows
        axis = -1 if isinstance(module, nn.Linear) else 1
        flat = inputs.movedim(axis, -1).flatten(0, -2)
        self.values += len(flat)
        self.magnitude = self.magnitude + flat.abs().sum(0)
        self.active = self.active + (flat != 0).sum(0)

    def moments(self) -> Moments:
        assert self.shift is not None and isinstance(self.first, Tensor) and isinstance(self.outer, Tensor)
        assert isinstance(self.magnitude, Tensor) and isinstance(self.active, Tensor)
        drift = self.first / self.rows
        covariance = self.outer / self.rows - drift[:, :, None] * drift[:, None, :]
        return Moments(self.shift + drift, shrunk(covariance, self.rows), self.magnitude / self.values,
                       self.active / self.values)
