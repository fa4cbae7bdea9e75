"""Plain forms of user-defined layers: a convolution or linear layer of torch, behind a module for unusual padding.

A module that holds parameters and computes with one convolution or one product is run once while calls of torch's
functions are recorded; the plain layer is built from the recorded arguments. That covers kernels as bare parameters,
standardised or otherwise computed weights, and padding that depends on the input's size. The module and the network
prove it on real inputs.
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
_PRODUCTS = {"linear", "matmul", "__matmul__", "mm", "addmm"}
_MODES = ("constant", "reflect", "replicate", "circular")
# The largest number of splits of padding between the sides that are tried.
_MOST_PADS = 4096


class PaddedConv(nn.Module):
    """A convolution `conv` behind padding of a kind that it lacks; `pads` are those of `torch.nn.functional.pad`."""

    def __init__(self, pads: tuple[int, ...], mode: str, conv: nn.Module) -> None:
        super().__init__()
        self.pads, self.mode, self.conv = pads, mode, conv

    def forward(self, x: Tensor) -> Tensor:
        """Pad and convolve `(N, C, …)`; return `(N, C', …)`."""
        result: Tensor = self.conv(F.pad(x, self.pads, self.mode))
        return result


def with_plain_layers(model: nn.Module, inputs: Tensor) -> nn.Module:
    """Replace user-defined layers by plain ones wherever the network's output stays the same.

    Args:
        model: The network, in eval mode; it is not changed.
        inputs: Real inputs `(N, …)`, on which every replacement must give the same output.

    Returns:
        The rewritten network, or `model` where nothing was replaced.
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
        plain = {}
        for name in candidates:
            layer = _plain(opened.get_submodule(name), calls.get(name, []))
            if layer is not None:
                plain[name] = layer
        for name in norms:
            if calls.get(name):
                plain[name] = _plain_norm(opened.get_submodule(name), calls[name][0][0][0])
        for name in bags:
            pooling = pooled(opened.get_submodule(name), calls.get(name, []))
            if pooling is not None:
                plain[name] = pooling
        return opened if put_equivalents(opened, plain, inputs, expected) else model


def _is_candidate(module: nn.Module) -> bool:
    if not own_parameters(module) or any(own_parameters(child) for child in module.children()):
        return False
    if isinstance(module, nn.modules.conv._ConvNd) and type(module).__module__ == nn.Conv2d.__module__:
        return not module.transposed and (isinstance(module.padding, str) or module.padding_mode != "zeros")
    return not type(module).__module__.startswith("torch.nn.")


def _plain(module: nn.Module, calls: list[tuple[Any, Any, Any]]) -> nn.Module | None:
    """Return the plain form of a module, from its only call; None where it has none."""
    if len(calls) != 1 or calls[0][1] or len(calls[0][0]) != 1 or not isinstance(calls[0][0][0], Tensor):
        return None
    (inputs,), _, output = calls[0]
    try:
        with _Recorder() as recorder:
            module(inputs)
        if len(recorder.calls) != 1 or not isinstance(output, Tensor) or not inputs.is_floating_point():
            return None
        for layer in _forms(module, inputs, *recorder.calls[0]):
            if all(alike(layer(x), module(x), MODULE_TOLERANCE) for x in (inputs, _others(inputs))):
                return layer.eval()
    except Exception:  # the user's forward: anything can come
        return None
    return None


def _others(inputs: Tensor) -> Tensor:
    """Return other values in another order, for which a weight that is computed from the input would differ."""
    generator = torch.Generator().manual_seed(0)
    moved = inputs.flatten()[torch.randperm(inputs.numel(), generator=generator)].reshape(inputs.shape)
    return moved * torch.rand(inputs.shape, generator=generator) + inputs.abs().mean()


class _Recorder(TorchFunctionMode):
    """Records the arguments of convolutions and matrix products inside its context."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function, and record its arguments where it is a convolution or a matrix product."""
        name = getattr(func, "__name__", "")
        if name in _CONVOLUTIONS or name in _PRODUCTS:
            self.calls.append((name, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def _forms(module: nn.Module, inputs: Tensor, name: str, args: tuple[Any, ...],
           options: dict[str, Any]) -> Iterator[nn.Module]:
    """Yield plain layers that may compute what the module does."""
    if name in _PRODUCTS:
        yield from _linear(module, name, args, options)
        return
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    settings = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1,
             **dict(zip(names, args, strict=False)), **options}
    weight, axes = settings["weight"], settings["weight"].dim() - 2
    stride, dilation = (_each(settings[key], axes) for key in ("stride", "dilation"))
    before, after = _padding(settings["padding"], tuple(weight.shape[2:]), dilation)
    for outer, mode in _outer_pads(inputs, settings["input"]):
        conv_pads = []
        if mode == "constant":
            conv_pads = [(b + o[0], a + o[1]) for b, a, o in zip(before, after, outer, strict=True)]
        symmetric = tuple(b for b, _ in conv_pads) if conv_pads and all(b == a for b, a in conv_pads) else None
        conv = _CONVOLUTIONS[name](
            weight.shape[1] * settings["groups"], len(weight), tuple(weight.shape[2:]), stride,  # type: ignore[arg-type]
            0 if symmetric is None else symmetric, dilation, settings["groups"],  # type: ignore[arg-type]
            settings["bias"] is not None)
        conv.weight = _parameter(weight)
        if settings["bias"] is not None:
            conv.bias = _parameter(settings["bias"])
        if symmetric is not None:
            yield conv
        elif conv_pads or not any((*before, *after)):
            pads = conv_pads or outer
            yield PaddedConv(tuple(size for pair in reversed(pads) for size in pair), mode, conv)


def _linear(module: nn.Module, name: str, args: tuple[Any, ...], options: dict[str, Any]) -> Iterator[nn.Module]:
    if name == "linear":
        weight = args[1] if len(args) > 1 else options["weight"]
        biases = [args[2] if len(args) > 2 else options.get("bias")]
    elif name == "addmm":  # as the Conv1D of transformers, in GPT-2
        weight, biases = args[2].t(), [args[0]]
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
    """Return the parameter itself, so that tied weights stay tied, or a parameter that holds a computed value."""
    return value if isinstance(value, nn.Parameter) else nn.Parameter(value.detach().clone().contiguous())


def _each(value: Any, axes: int) -> tuple[int, ...]:
    numbers = tuple(value) if isinstance(value, tuple | list) else (value,)
    return numbers * axes if len(numbers) == 1 else numbers


def _padding(padding: Any, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Return the numbers of zeros before and behind along each axis; `same` puts an odd one behind."""
    if padding == "same":
        total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return [t // 2 for t in total], [t - t // 2 for t in total]
    numbers = [0] * len(kernel) if padding == "valid" else list(_each(padding, len(kernel)))
    return numbers, numbers


def _outer_pads(inputs: Tensor, padded: Tensor) -> Iterator[tuple[list[tuple[int, int]], str]]:
    """Yield the pads along each axis, and the mode, that turn a module's inputs into `padded`."""
    if padded.dim() != inputs.dim() or padded.shape[:2] != inputs.shape[:2]:
        return
    total = [wide - narrow for wide, narrow in zip(padded.shape[2:], inputs.shape[2:], strict=True)]
    if min(total, default=0) < 0:
        return
    if not any(total):
        yield [(0, 0)] * len(total), "constant"
        return
    splits = list(product(*([(b, t - b) for b in range(t + 1)] for t in total)))
    for mode, split in product(_MODES, splits[:_MOST_PADS]):
        try:
            if torch.equal(F.pad(inputs, [size for pair in reversed(split) for size in pair], mode), padded):
                yield list(split), mode
                return
        except (RuntimeError, NotImplementedError):  # more is reflected than there is
            continue


def _plain_norm(norm: nn.Module, inputs: Tensor) -> nn.Module:
    """Return the BatchNorm that a SyncBatchNorm is within a single process."""
    assert isinstance(norm, nn.SyncBatchNorm)
    kind = {4: nn.BatchNorm2d, 5: nn.BatchNorm3d}.get(inputs.dim(), nn.BatchNorm1d)
    plain = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        setattr(plain, name, getattr(norm, name))
    return plain.eval()
