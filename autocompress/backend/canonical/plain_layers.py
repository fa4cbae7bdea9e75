"""Layers in their plain form, so that techniques can change them: a convolution or linear layer of one's own becomes
torch's, padding of another kind a module before it, wherever that computes the same.

A module that holds parameters and computes with one convolution or one product is run once with torch's functions
watched; what they were given makes the plain layer. That covers kernels as bare parameters, standardised or otherwise
computed weights, and padding that depends on the input's size. The module and the network prove it on real inputs.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from autocompress.backend.canonical.equivalents import (
    MODULE_TOLERANCE,
    alike,
    own_parameters,
    put_equivalents,
    record_calls,
)
from autocompress.backend.layers.embedding_bag import pooled

_CONVOLUTIONS: dict[str, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {
    "conv1d": nn.Conv1d, "conv2d": nn.Conv2d, "conv3d": nn.Conv3d}
_PRODUCTS = {"linear", "matmul", "__matmul__", "mm"}
_MODES = ("constant", "reflect", "replicate", "circular")
_MOST_PADS = 4096
"""Ways to spread padding over the sides that are tried."""


class PaddedConv(nn.Module):
    """A convolution, `conv`, behind padding that it cannot do itself: `pads` as `torch.nn.functional.pad` has them."""

    def __init__(self, pads: tuple[int, ...], mode: str, conv: nn.Module) -> None:
        super().__init__()
        self.pads, self.mode, self.conv = pads, mode, conv

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, …)` → `(N, C', …)`."""
        result: Tensor = self.conv(F.pad(x, self.pads, self.mode))
        return result


def with_plain_layers(model: nn.Module, inputs: Tensor) -> nn.Module:
    """A network that computes the same, with plain layers wherever that is possible. `model` (eval mode) is not
    changed, and is returned where there is nothing to do.

    `inputs`: real ones `(N, …)`, on which every replacement must give the same output.
    """
    candidates = [name for name, module in model.named_modules() if name and _is_candidate(module)]
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.SyncBatchNorm)]
    bags = [name for name, module in model.named_modules() if isinstance(module, nn.EmbeddingBag)]
    if not candidates and not norms and not bags:
        return model
    opened = copy.deepcopy(model)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        calls, expected = record_calls(opened, candidates + norms + bags, inputs)
        made = {}
        for name in candidates:
            whole = _plain(opened.get_submodule(name), calls.get(name, []))
            if whole is not None:
                made[name] = whole
        for name in norms:
            if calls.get(name):
                made[name] = _plain_norm(opened.get_submodule(name), calls[name][0][0][0])
        for name in bags:
            reduced = pooled(opened.get_submodule(name), calls.get(name, []))
            if reduced is not None:
                made[name] = reduced
        return opened if put_equivalents(opened, made, inputs, expected) else model


def _is_candidate(module: nn.Module) -> bool:
    if not own_parameters(module) or any(own_parameters(child) for child in module.children()):
        return False
    if isinstance(module, nn.modules.conv._ConvNd) and type(module).__module__ == nn.Conv2d.__module__:
        return not module.transposed and (isinstance(module.padding, str) or module.padding_mode != "zeros")
    return not type(module).__module__.startswith("torch.nn.")


def _plain(module: nn.Module, calls: list[tuple[Any, Any, Any]]) -> nn.Module | None:
    """The plain form of a module, from its only call; None where it has none."""
    if len(calls) != 1 or calls[0][1] or len(calls[0][0]) != 1 or not isinstance(calls[0][0][0], Tensor):
        return None
    (inputs,), _, output = calls[0]
    try:
        with _Watched() as watched:
            module(inputs)
        if len(watched.given) != 1 or not isinstance(output, Tensor) or not inputs.is_floating_point():
            return None
        for whole in _forms(module, inputs, *watched.given[0]):
            if all(alike(whole(x), module(x), MODULE_TOLERANCE) for x in (inputs, _others(inputs))):
                return whole.eval()
    except Exception:  # the user's forward: anything can come
        return None
    return None


def _others(inputs: Tensor) -> Tensor:
    """Other values in another order: a weight that follows from the input is another for them."""
    generator = torch.Generator().manual_seed(0)
    moved = inputs.flatten()[torch.randperm(inputs.numel(), generator=generator)].reshape(inputs.shape)
    return moved * torch.rand(inputs.shape, generator=generator) + inputs.abs().mean()


class _Watched(TorchFunctionMode):
    """Remembers what convolutions and products of matrices are given while it is open."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function, and remember it where it is one of those."""
        name = getattr(func, "__name__", "")
        if name in _CONVOLUTIONS or name in _PRODUCTS:
            self.given.append((name, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def _forms(module: nn.Module, inputs: Tensor, name: str, args: tuple[Any, ...],
           options: dict[str, Any]) -> Iterator[nn.Module]:
    """Plain layers that may compute what the module does."""
    if name in _PRODUCTS:
        yield from _linear(module, name, args, options)
        return
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    given = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1,
             **dict(zip(names, args, strict=False)), **options}
    weight, axes = given["weight"], given["weight"].dim() - 2
    stride, dilation = (_each(given[key], axes) for key in ("stride", "dilation"))
    before, after = _padding(given["padding"], tuple(weight.shape[2:]), dilation)
    for outer, mode in _outer_pads(inputs, given["input"]):
        both = []
        if mode == "constant":
            both = [(b + o[0], a + o[1]) for b, a, o in zip(before, after, outer, strict=True)]
        numbers = tuple(b for b, _ in both) if both and all(b == a for b, a in both) else None
        conv = _CONVOLUTIONS[name](
            weight.shape[1] * given["groups"], len(weight), tuple(weight.shape[2:]), stride,  # type: ignore[arg-type]
            0 if numbers is None else numbers, dilation, given["groups"],  # type: ignore[arg-type]
            given["bias"] is not None)
        conv.weight = _parameter(weight)
        if given["bias"] is not None:
            conv.bias = _parameter(given["bias"])
        if numbers is not None:
            yield conv
        elif both or not any((*before, *after)):
            pads = both or outer
            yield PaddedConv(tuple(size for pair in reversed(pads) for size in pair), mode, conv)


def _linear(module: nn.Module, name: str, args: tuple[Any, ...], options: dict[str, Any]) -> Iterator[nn.Module]:
    if name == "linear":
        weight = args[1] if len(args) > 1 else options["weight"]
        biases = [args[2] if len(args) > 2 else options.get("bias")]
    else:
        weight = args[1].t()
        biases = [None, *(p for p in own_parameters(module).values() if p.shape == weight.shape[:1])]
    for bias in biases:
        layer = nn.Linear(weight.shape[1], len(weight), bias is not None)
        layer.weight = _parameter(weight)
        if bias is not None:
            layer.bias = _parameter(bias)
        yield layer


def _parameter(value: Tensor) -> nn.Parameter:
    """The parameter itself, so that tied weights stay tied, or one that holds what was computed."""
    return value if isinstance(value, nn.Parameter) else nn.Parameter(value.detach().clone().contiguous())


def _each(value: Any, axes: int) -> tuple[int, ...]:
    numbers = tuple(value) if isinstance(value, tuple | list) else (value,)
    return numbers * axes if len(numbers) == 1 else numbers


def _padding(given: Any, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Zeros before and behind along each axis, as numbers; `same` puts the odd one behind."""
    if given == "same":
        total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return [t // 2 for t in total], [t - t // 2 for t in total]
    numbers = [0] * len(kernel) if given == "valid" else list(_each(given, len(kernel)))
    return numbers, numbers


def _outer_pads(inputs: Tensor, padded: Tensor) -> Iterator[tuple[list[tuple[int, int]], str]]:
    """Pads along each axis, and the mode, that make `padded` of what a module reads."""
    if padded.dim() != inputs.dim() or padded.shape[:2] != inputs.shape[:2]:
        return
    total = [wide - narrow for wide, narrow in zip(padded.shape[2:], inputs.shape[2:], strict=True)]
    if min(total, default=0) < 0:
        return
    if not any(total):
        yield [(0, 0)] * len(total), "constant"
        return
    ways = list(product(*([(b, t - b) for b in range(t + 1)] for t in total)))
    for mode, way in product(_MODES, ways[:_MOST_PADS]):
        try:
            if torch.equal(F.pad(inputs, [size for pair in reversed(way) for size in pair], mode), padded):
                yield list(way), mode
                return
        except (RuntimeError, NotImplementedError):  # more is reflected than there is
            continue


def _plain_norm(norm: nn.Module, inputs: Tensor) -> nn.Module:
    """A BatchNorm that is synchronised between processes, as the one that it is in a single one."""
    assert isinstance(norm, nn.SyncBatchNorm)
    kind = {4: nn.BatchNorm2d, 5: nn.BatchNorm3d}.get(inputs.dim(), nn.BatchNorm1d)
    plain = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        setattr(plain, name, getattr(norm, name))
    return plain.eval()
