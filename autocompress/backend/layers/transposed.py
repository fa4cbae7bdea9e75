"""Transposed convolutions with their output channels first, as all other layers have them.

torch keeps the weight of a transposed convolution as `(in, out / groups, *kernel)`. Here it is `(out, in / groups,
*kernel)`: a row is an output channel, so that scales per row, pruning, factors and folded norms are those of any
convolution. What the layer computes is a convolution with the flipped kernel over an input with zeros between its
positions (Dumoulin & Visin, "A guide to convolution arithmetic for deep learning", 2016, section 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

_FUNCTIONS: dict[int, Any] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


class TransposedConv(nn.Module):
    """A transposed convolution with a weight `(out, in / groups, *kernel)`, at first zeros.

    `kernel_size`, `stride`, `padding`, `output_padding` and `dilation` have a number for each axis of the kernel.
    """

    padding_mode = "zeros"

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Sequence[int], stride: Sequence[int],
                 padding: Sequence[int], output_padding: Sequence[int], dilation: Sequence[int], groups: int = 1,
                 bias: bool = True) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.padding = tuple(kernel_size), tuple(stride), tuple(padding)
        self.output_padding, self.dilation = tuple(output_padding), tuple(dilation)
        self.weight = nn.Parameter(torch.zeros(out_channels, in_channels // groups, *self.kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    @classmethod
    def of(cls, module: nn.Module) -> TransposedConv:
        """Return the equivalent of one of torch's transposed convolutions."""
        assert isinstance(module, _ConvTransposeNd) and not isinstance(module.padding, str)
        layer = cls(module.in_channels, module.out_channels, module.kernel_size, module.stride, module.padding,
                   module.output_padding, module.dilation, module.groups, module.bias is not None)
        weight = _swapped(module.weight.detach(), module.groups)
        layer.weight = nn.Parameter(weight.contiguous(), requires_grad=module.weight.requires_grad)
        layer.bias = module.bias  # type: ignore[assignment]
        return layer.train(module.training)

    def forward(self, inputs: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Apply the layer to inputs `(N, in, …)`; return `(N, out, …)`."""
        extra: Any = self.output_padding
        if output_size is not None:
            extra = _ConvTransposeNd._output_padding(  # type: ignore[misc]
                self, inputs, output_size, list(self.stride), list(self.padding),  # type: ignore[arg-type]
                list(self.kernel_size), len(self.kernel_size), list(self.dilation))
        result: Tensor = _FUNCTIONS[len(self.kernel_size)](
            inputs, _swapped(self.weight, self.groups), self.bias, self.stride, self.padding, extra, self.groups,
            self.dilation)
        return result

    def extra_repr(self) -> str:
        """Return the arguments as torch's layers print them."""
        return (f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
                f"padding={self.padding}, output_padding={self.output_padding}, dilation={self.dilation}, "
                f"groups={self.groups}, bias={self.bias is not None}")

    def spread(self, inputs: Tensor) -> Tensor:
        """Return inputs `(N, in, …)` with zeros between and around positions, as the flipped kernel reads them."""
        for axis, stride in enumerate(self.stride, 2):
            if stride > 1:
                length = (inputs.shape[axis] - 1) * stride + 1
                zeros = [0, 0] * (inputs.dim() - axis - 1) + [0, stride - 1]
                inputs = F.pad(inputs.unsqueeze(axis + 1), zeros).flatten(axis, axis + 1).narrow(axis, 0, length)
        pads: list[int] = []
        for kernel, dilation, padding, extra in zip(self.kernel_size, self.dilation, self.padding, self.output_padding,
                                                    strict=True):
            around = dilation * (kernel - 1) - padding
            pads = [around, around + extra, *pads]
        return F.pad(inputs, pads)


def _swapped(weight: Tensor, groups: int) -> Tensor:
    """Swap output and input channels of a weight: `(a, b / groups, …)` becomes `(b, a / groups, …)`."""
    if groups == 1:
        return weight.transpose(0, 1)
    if weight.shape[1] == 1 and len(weight) == groups:
        return weight
    blocks: Tensor = weight.unflatten(0, (groups, -1))  # type: ignore[no-untyped-call]
    return blocks.transpose(1, 2).flatten(0, 1)
