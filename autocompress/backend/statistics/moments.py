"""What each layer of the original reads on calibration data: computed once, on first use, and shared by all plans.

Least-squares reconstruction, whitened factors and rounding with feedback all ask the same question, how much an
error of the weights shows in the output, and the second moments of the input answer it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autocompress.backend.layers.kinds import Conv
from autocompress.backend.layers.recurrent import stepwise
from autocompress.backend.layers.transposed import TransposedConv
from autocompress.backend.statistics.lru_cache import content
from autocompress.backend.statistics.outputs import AS_SCORES, Answers
from autocompress.backend.statistics.tensor_cache import TensorCache
from autocompress.core.batch_sizes import EVERY_TENSOR_BYTES, GRADIENT_BYTES, rows_at_once
from autocompress.core.cancellation import checkpoint

VERSION = 1
"""Of how the facts below are measured: a change makes what was kept void."""
PROBES = 8
BATCH = 64
GRADIENT_BATCH = 8
POSITIONS = 48
"""Positions of a feature map, or tokens, drawn from each sample: neighbours tell nearly the same."""
FULL_WIDTH = 1152
"""Columns of the weight up to which all of them are related to one another; in wider convolutions only channels are,
alike at every tap of the kernel. Inverting costs the cube."""
PLAIN = (nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward, nn.Linear.forward, TransposedConv.forward)
"""What a layer must compute for its rows to be known: not one that pads or scales by itself."""
MAX_WIDTH = 8192
"""Widest input whose moments are kept: 256 MiB of covariance."""


@dataclass(frozen=True)
class Moments:
    """Of one layer's input, in columns of its weight as a matrix, `(channels / groups) * prod(kernel)` a group, or, for
    convolutions wider than `FULL_WIDTH`, in channels.

    `mean` (groups, d); `covariance` (groups, d, d), of the input less its mean. `magnitude` and `active`
    (channels,): mean absolute value, and share of values that are not zero.
    """

    mean: Tensor
    covariance: Tensor
    magnitude: Tensor
    active: Tensor

    @property
    def second(self) -> Tensor:
        """Moments about zero `(groups, d, d)`: where nothing behind the layer absorbs a shift of the mean."""
        return self.covariance + self.mean[:, :, None] * self.mean[:, None, :]

    @property
    def channel_mean(self) -> Tensor:
        """Mean input of each channel `(channels,)`, over the taps of the kernel."""
        return self.mean.reshape(len(self.magnitude), -1).mean(1)

    def channels(self, kept: Tensor) -> Moments:
        """Those of the input channels `kept` (M,) of an ungrouped layer."""
        area = self.mean.shape[1] // len(self.magnitude)
        chosen = (kept[:, None] * area + torch.arange(area)).flatten()
        return Moments(self.mean[:, chosen], self.covariance.index_select(1, chosen).index_select(2, chosen),
                       self.magnitude[kept], self.active[kept])

    def rescaled(self, factor: Tensor) -> Moments:
        """Those of the input with each channel times `factor` (channels,), all above 0."""
        own = factor.repeat_interleave(self.mean.numel() // len(factor)).reshape(self.mean.shape)
        return Moments(self.mean * own, self.covariance * own[:, :, None] * own[:, None, :],
                       self.magnitude * factor, self.active)


@dataclass(frozen=True)
class Sensitivity:
    """How the loss hangs on a layer's weight, mean over batches. Each has one value a row, or a column, of channels:
    `(out,)` and `(in / groups,)`. `taylor_*`: (sum of gradient · weight)²; `fisher_*`: sum of (gradient · weight)².
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


class Statistics:
    """Facts about every convolution and linear layer of `model` on normalised inputs `calibration` (N, …), kept in
    `folder` where there is one (`store.py`).

    Labels for gradients are drawn from the network's own answers, seeded: no labels of the user's are needed, and
    the gradient is not zero where the network is right and sure (that makes the Fisher information the true one).
    `answers` makes logits of what the network puts out.
    """

    def __init__(self, model: nn.Module, calibration: Tensor, folder: Path | None = None,
                 answers: Answers = AS_SCORES) -> None:
        self._model, self._calibration, self._answers = model, calibration, answers
        self._store = TensorCache(folder, self._key)

    def _key(self) -> str:
        """A hash of all that the facts follow from. The network's code shows in its answers, of which two digits
        are compared: the last ones depend on the number of threads."""
        digest = hashlib.sha256(f"{VERSION} {torch.__version__} {BATCH} {GRADIENT_BATCH} {POSITIONS} {FULL_WIDTH} "
                                f"{MAX_WIDTH} {self._answers.meaning} {self._model}".encode())
        with torch.no_grad():
            answers = self._model(self._calibration[:PROBES])
        digits = (answers / answers.abs().max().clamp_min(1e-20) * 100).round().nan_to_num(101)
        for name, tensor in (*self._model.state_dict().items(), ("inputs", self._calibration), ("", digits)):
            digest.update(f"{name} {content(tensor)}".encode())
        return digest.hexdigest()

    def _rows(self, most: int, limit_bytes: int) -> int:
        return rows_at_once(tuple(self._calibration.shape[1:]), most, limit_bytes)

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
        kept = self._store.get("sensitivity", lambda: _flat(self._measured_sensitivities()))
        return {name: Sensitivity(**facts) for name, facts in _nested(kept).items()}

    def _measured_sensitivities(self) -> dict[str, Sensitivity]:
        weights = {name: module.weight for name, module in self._model.named_modules()
                   if isinstance(module, Conv | nn.Linear)}
        before = {name: weight.requires_grad for name, weight in weights.items()}
        sums: dict[str, list[Tensor]] = {}
        batches = torch.split(self._calibration, self._rows(GRADIENT_BATCH, GRADIENT_BYTES))
        generator = torch.Generator().manual_seed(0)
        try:
            for weight in weights.values():
                weight.requires_grad_(True)
            for done, batch in enumerate(batches):
                checkpoint("gradients of the original", done, len(batches))
                with torch.enable_grad():
                    logits = self._answers.scores(self._model(batch))
                    drawn = torch.multinomial(logits.detach().softmax(1), 1, generator=generator)[:, 0]
                    loss = F.cross_entropy(logits, drawn)
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
        kept = self._store.get("moments", lambda: _flat(self._measured_moments()))
        return {name: Moments(**facts) for name, facts in _nested(kept).items()}

    def _measured_moments(self) -> dict[str, Moments]:
        sums: dict[str, _Sums] = {}
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
                batches = torch.split(self._calibration, self._rows(BATCH, EVERY_TENSOR_BYTES))
                for done, batch in enumerate(batches):
                    checkpoint("statistics of the original", done, len(batches))
                    self._model(batch)
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
    """Columns of a layer's weight as a matrix, of one group."""
    assert isinstance(module.weight, Tensor)
    return module.weight[0].numel()


def columns(module: nn.Module) -> int:
    """Columns that moments have: those of the weight, or the channels of one group where that is too many."""
    assert isinstance(module.weight, Tensor)
    return module.weight.shape[1] if width(module) > FULL_WIDTH else width(module)


def layer_patches(module: nn.Module, inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Rows that the weight matrix is multiplied with, `(groups, rows, d)`, at `POSITIONS` random positions a sample;
    just the channels of a wide convolution."""
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
    chosen = _positions(int(torch.tensor(sizes).prod()), generator)
    index = torch.unravel_index(chosen, sizes)
    patches: Tensor = view[(slice(None), slice(None), *index)]  # type: ignore[index]  # (N, C, P, *kernel)
    rows = patches.movedim(2, 1).flatten(0, 1).reshape(-1, module.groups, width(module))
    return rows.transpose(0, 1)


def windows(module: Conv, inputs: Tensor) -> Tensor:
    """What the kernel of a convolution sees at each position of its output, `(N, C, *positions, *kernel)`, with taps in
    the order of its weight: a view. Positions of a transposed convolution come in reverse, because its kernel is turned
    about."""
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


class _Sums:
    """Running totals over batches, of rows less the first batch's mean: where the mean is large against the spread,
    the difference of two large numbers would be noise."""

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
        return Moments(self.shift + drift, covariance, self.magnitude / self.values, self.active / self.values)
