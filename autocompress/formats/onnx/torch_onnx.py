"""torch's ONNX exporter: quiet, and with its errors in one sentence.

It prints pages, in colours, and raises errors of many kinds around the one that tells the operation. Here a failure is
a `TrialError` that names the innermost cause and the line of the network's own code that led to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.core.quiet import silent
from autocompress.errors import TrialError, cause_of
from autocompress.formats.base import INPUT
from autocompress.formats.onnx.free_batch import free_length
from autocompress.tensors.named import NamedTensors, by_name

# What a network is called with while it is traced, of two samples: one is taken for a size that never changes.
Example = Tensor | Mapping[str, Tensor]
FIXED_SAMPLES = ("the number of samples must stay free, but forward() makes a fixed number of it: use x.shape[0] as it "
                 "is, not int(x.shape[0]), a written batch size or a list of as many tensors")
LOGGERS = ("torch.onnx", "torch.export", "torch._dynamo", "torch.fx.experimental.symbolic_shapes", "onnxscript",
           "onnx_ir")


def plain_export(model: nn.Module, example: Example, free_sizes: bool = False) -> bytes:
    """Export `model` (eval mode) by `torch.onnx.export` with its defaults and a free number of samples: the file that a
    user has without autocompress.

    Raises:
        TrialError: when the exporter fails.
    """
    arguments = (example, {}) if isinstance(example, Mapping) else (example,)  # a last mapping is taken for keywords
    with exporting():
        exported = torch.onnx.export(model, arguments, dynamo=True, verbose=False, input_names=input_names(example),
                                     dynamic_shapes=(free_shapes(model, example, free_sizes),),
                                     output_names=output_names(model, example))
        assert exported is not None
        data: bytes = exported.model_proto.SerializeToString()
        return data


def free_shapes(model: nn.Module, example: Example, sizes: bool = False) -> Any:
    """The dynamic shapes that leave the number of samples free in every input of `example`; with `sizes`, also those
    that `model` does not fix: height and width of maps, length of sequences."""
    batch, axes = torch.export.Dim("batch"), size_axes(model, example) if sizes else {}
    shapes = {name: {0: batch} | dict.fromkeys(axes.get(name, ()), torch.export.Dim.AUTO)
              for name in input_names(example)}
    if not isinstance(example, Mapping):
        return shapes[INPUT]
    return shapes if type(example) is dict else [*shapes.values()]  # a type of its own: leaf by leaf


def size_axes(model: nn.Module, example: Example) -> dict[str, tuple[int, ...]]:
    """Axes of inputs `(N, …)` that hold positions, by name: all but the channels of maps; of rows of numbers or tokens,
    that of the length, which is the last one or the one before it, as the network takes them: torch's convolutions of
    sequences do not tell its exporter that they fix the number of channels."""
    named = dict(example) if isinstance(example, Mapping) else {INPUT: example}
    both = {name: _size_axes(tensor, (1, 2)) for name, tensor in named.items()}
    if (1, 2) not in both.values():
        return both
    for lengths in ((1, 2), (2,), (1,)):
        axes = {name: _size_axes(tensor, lengths) for name, tensor in named.items()}
        shorter = {name: _shorter(tensor, axes[name]) for name, tensor in named.items()}
        if isinstance(example, Tensor):
            inputs: Example = shorter[INPUT]
        else:
            inputs = shorter if type(example) is dict else NamedTensors(shorter)
        try:
            with torch.no_grad():
                model(inputs)
        except Exception:  # the user's code: anything can come
            continue
        return axes
    return both


def _size_axes(tensor: Tensor, lengths: tuple[int, ...]) -> tuple[int, ...]:
    """Axes of positions of one input, which are `lengths` of rows of numbers `(N, …, …)`."""
    if tensor.dim() > 3:
        return tuple(range(2, tensor.dim()))
    if not tensor.is_floating_point():
        return (1,) if tensor.dim() == 2 else ()
    return lengths if tensor.dim() == 3 else ()


def _shorter(tensor: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The first half of an input; maps are left as they are, because strides may divide their sizes."""
    for axis in axes if tensor.dim() <= 3 else ():
        tensor = tensor.narrow(axis, 0, (tensor.shape[axis] + 1) // 2)
    return tensor


def input_names(example: Example) -> list[str]:
    """Names of a file's inputs: those of `example`, or the one name of a network with one input."""
    return [*example] if isinstance(example, Mapping) else [INPUT]


def output_names(model: nn.Module, example: Example) -> list[str]:
    """Names of a file's outputs: those of what `model` returns for `example`."""
    with torch.no_grad():
        return [*by_name(model(example))]


@contextmanager
def exporting() -> Iterator[None]:
    """Run the exporter without gradients and silently; a failure is a TrialError with its cause."""
    try:
        with silent(*LOGGERS), torch.no_grad(), free_length():
            yield
    except TrialError:
        raise
    except Exception as error:  # the exporter raises many kinds
        cause = FIXED_SAMPLES if "Constraints violated (batch)" in str(error) else cause_of(error)
        raise TrialError(f"torch.export or torch.onnx cannot export it: {cause}") from error
