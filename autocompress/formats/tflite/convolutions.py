"""Rules for layers with weights, and for what looks at images through windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import fx

from autocompress.errors import TrialError
from autocompress.formats.tflite.graph import Tensor
from autocompress.formats.tflite.lowering import NONE, Lowering, Rules, Value, args, registrar, shape_of
from autocompress.formats.tflite.operators import reduced

RULES: Rules = {}
lowers = registrar(RULES)
Pads = tuple[int, int, int, int]


def same_pads(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """What TFLite's SAME puts before and behind an axis."""
    total = max(0, (-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size)
    return total // 2, total - total // 2


@lowers("pad.default", "constant_pad_nd.default")
def pad(lowering: Lowering, node: fx.Node) -> Value:
    """Zeros around an image: kept until its reader, which often adds them by itself."""
    mode, fill = lowering.arg(node, 2, "mode", "constant"), lowering.arg(node, 3, "value", None)
    if str(node.target) == "aten.constant_pad_nd.default":
        mode, fill = "constant", lowering.arg(node, 2, "value", 0)
    value = lowering.value(args(node)[0])
    widths = [int(width) for width in args(node)[1]]
    if mode != "constant" or fill not in (None, 0, 0.0) or len(value.shape) not in (3, 4) or len(widths) > 4 \
            or (len(widths) > 2 and len(value.shape) == 3) or min(widths) < 0:
        raise TrialError(f"TFLite files hold pads of zeros around images alone, not {mode} {widths} of {fill}")
    left, right, top, bottom = (*widths, 0, 0)[:4]
    before = value.pads or (0, 0, 0, 0)
    total: Pads = (before[0] + left, before[1] + right, before[2] + top, before[3] + bottom)
    return Value(lowering.channels_last(value), shape_of(node), last=True, pads=total)


def _pair(sizes: Sequence[int] | int, rank: int, default: int) -> tuple[int, int]:
    """Sizes for height and width; a line has a height of one."""
    values = [int(sizes)] * rank if isinstance(sizes, int) else [int(size) for size in sizes] or [default] * rank
    values = values * rank if len(values) == 1 else values
    return (values[0], values[1]) if rank == 2 else (default, values[0])


def _window(lowering: Lowering, value: Value, kernel: tuple[int, int], stride: tuple[int, int],
            pads: tuple[int, int], dilation: tuple[int, int] = (1, 1), lowest: bool = False,
            same: bool = True) -> tuple[Tensor, str]:
    """The image that a window moves over, and how TFLite pads it: pads that it cannot add are added before."""
    around = value.pads or (0, 0, 0, 0)
    whole: Pads = (around[0] + pads[1], around[1] + pads[1], around[2] + pads[0], around[3] + pads[0])
    if not any(whole):
        return lowering.channels_last(value), "VALID"
    inside = value.shape[2:] if len(value.shape) == 4 else (1, *value.shape[2:])
    height = inside[0] - around[2] - around[3]
    width = inside[1] - around[0] - around[1]
    same_padding = (*same_pads(width, kernel[1], stride[1], dilation[1]), *same_pads(height, kernel[0], stride[0],
                                                                                    dilation[0]))
    if same and whole == same_padding:
        return lowering.channels_last(value), "SAME"
    bare = Value(lowering.channels_last(value), value.shape, True, whole)
    return lowering.padded(bare, lowest).tensor, "VALID"


@lowers("conv1d.default", "conv2d.default", "conv1d.padding", "conv2d.padding")
def convolution(lowering: Lowering, node: fx.Node) -> Value:
    """A convolution: whole, in groups, or one for each channel."""
    value, shape = lowering.value(args(node)[0]), shape_of(node)
    weight = lowering.traced.constants.get(args(node)[1].name)
    if weight is None:
        raise TrialError("TFLite files are written with constant weights of convolutions")
    rank, groups = weight.ndim - 2, int(lowering.arg(node, 6, "groups", 1))
    stride, dilation = (_pair(lowering.arg(node, index, name, 1), rank, 1)
                        for index, name in ((3, "stride"), (5, "dilation")))
    kernel = (1, *weight.shape[2:])[-2:]
    pads = lowering.arg(node, 4, "padding", 0)
    if isinstance(pads, str):
        sizes = [(size - 1) * step for size, step in zip(kernel, dilation, strict=True)]
        if pads == "same" and any(size % 2 for size in sizes):
            left, top = sizes[1] // 2, sizes[0] // 2
            before = value.pads or (0, 0, 0, 0)
            value = Value(lowering.channels_last(value), _grown(value.shape, sizes), True,
                          (before[0] + left, before[1] + sizes[1] - left, before[2] + top, before[3] + sizes[0] - top))
            sizes = [0, 0]
        pads = [size // 2 if pads == "same" else 0 for size in sizes][-rank:]
    image, padding = _window(lowering, value, kernel, stride, _pair(pads, rank, 0), dilation)
    options: dict[str, Any] = {"Padding": padding, "StrideH": stride[0], "StrideW": stride[1],
                               "DilationHFactor": dilation[0],
                               "DilationWFactor": dilation[1], "FusedActivationFunction": NONE}
    depthwise = groups > 1 and groups == image.shape[3]
    if depthwise:
        filters = lowering.weight(args(node)[1], _depthwise, 3)
        options["DepthMultiplier"] = weight.shape[0] // groups
    else:
        filters = lowering.weight(args(node)[1], _filters)
    places = shape[2:] if rank == 2 else (1, *shape[2:])
    output = lowering.emit("DEPTHWISE_CONV_2D" if depthwise else "CONV_2D",
                           [image, filters, _bias(lowering, node, weight.shape[0])], (shape[0], *places, shape[1]),
                           node, lowering.layer_of(args(node)[1]), **options)
    return Value(output, shape, last=True)


def _grown(shape: tuple[int, ...], more: Sequence[int]) -> tuple[int, ...]:
    return (*shape[:2], *(size + extra for size, extra in zip(shape[2:], list(more)[-len(shape[2:]):], strict=True)))


def _filters(weight: np.ndarray) -> np.ndarray:
    """`(O, I, [H,] W)` → `(O, H, W, I)`."""
    whole = weight if weight.ndim == 4 else weight[:, :, None]
    return np.ascontiguousarray(whole.transpose(0, 2, 3, 1))


def _depthwise(weight: np.ndarray) -> np.ndarray:
    """`(O, 1, [H,] W)` → `(1, H, W, O)`."""
    return np.ascontiguousarray(_filters(weight).transpose(3, 1, 2, 0))


def _bias(lowering: Lowering, node: fx.Node, channels: int) -> Tensor:
    """The bias of a layer; zeros where it has none, because not every runtime takes a layer without."""
    argument = lowering.arg(node, 2, "bias")
    if argument is None:
        return lowering.constant(np.zeros(channels, np.float32))
    return lowering.constant(np.asarray(lowering.operand(argument), np.float32))


@lowers("linear.default")
def linear(lowering: Lowering, node: fx.Node) -> Value:
    """A matrix times each row. Columns are sorted as the rows come."""
    value, shape = lowering.value(args(node)[0]), shape_of(node)
    if args(node)[1].name not in lowering.traced.constants:
        raise TrialError("TFLite files are written with constant weights of linear layers")
    if value.columns is not None and value.pads is None:
        channels, height, width = value.columns

        def arrange(weight: np.ndarray) -> np.ndarray:
            images = weight.reshape(len(weight), channels, height, width)
            return np.ascontiguousarray(images.transpose(0, 2, 3, 1).reshape(weight.shape))

        rows, weight = value.tensor, lowering.weight(args(node)[1], arrange)
    else:
        rows, weight = lowering.plain(value), lowering.weight(args(node)[1], _as_it_is)
    output = lowering.emit("FULLY_CONNECTED", [rows, weight, _bias(lowering, node, weight.shape[0])], shape, node,
                           lowering.layer_of(args(node)[1]), FusedActivationFunction=NONE, KeepNumDims=len(shape) != 2)
    return Value(output, shape)


def _as_it_is(weight: np.ndarray) -> np.ndarray:
    return weight


@lowers("max_pool2d.default", "max_pool1d.default", "avg_pool2d.default", "avg_pool1d.default")
def pool(lowering: Lowering, node: fx.Node) -> Value:
    """The largest or mean value of each window."""
    kind = str(node.target).removeprefix("aten.").partition(".")[0]
    value, shape, rank = lowering.value(args(node)[0]), shape_of(node), 1 if kind.endswith("1d") else 2
    kernel = _pair(lowering.arg(node, 1), rank, 1)
    stride = _pair(lowering.arg(node, 2, "stride", None) or lowering.arg(node, 1), rank, 1)
    pads = _pair(lowering.arg(node, 3, "padding", 0), rank, 0)
    largest = kind.startswith("max")
    dilation = _pair(lowering.arg(node, 4, "dilation", 1), rank, 1) if largest else (1, 1)
    counted = largest or bool(lowering.arg(node, 5, "count_include_pad", True))
    divisor = None if largest else lowering.arg(node, 6, "divisor_override", None)
    if dilation != (1, 1) or divisor is not None:
        raise TrialError(f"TFLite files have no operator for {kind} with dilation or a divisor of its own")
    if largest and value.pads is not None:  # zeros of a pad are values
        value = lowering.padded(value)
    image, padding = _window(lowering, value, kernel, stride, pads, lowest=largest and not _positive(lowering, value),
                             same=largest or not counted)
    if padding == "VALID" and not counted and any(pads):
        raise TrialError(f"TFLite files have no operator for {kind} that leaves pads of {pads} out of the mean")
    sizes = shape[2:] if rank == 2 else (1, *shape[2:])
    reached = [-(-size // step) if padding == "SAME" else (size - width) // step + 1
               for size, width, step in zip(image.shape[1:3], kernel, stride, strict=True)]
    if reached != list(sizes):
        raise TrialError(f"TFLite files have no operator for {kind} with ceil_mode where a window is cut short")
    output = lowering.emit("MAX_POOL_2D" if largest else "AVERAGE_POOL_2D", [image], (shape[0], *sizes, shape[1]),
                           node, Padding=padding, StrideH=stride[0], StrideW=stride[1], FilterHeight=kernel[0],
                           FilterWidth=kernel[1], FusedActivationFunction=NONE)
    return Value(output, shape, last=True)


def _positive(lowering: Lowering, value: Value) -> bool:
    """Whether no value is below zero, so that zeros around it are no maximum."""
    operation = lowering.graph.producers().get(id(value.tensor))
    return operation is not None and ((operation.kind.startswith("RELU") and operation.kind != "RELU_N1_TO_1")
                                      or operation.options.get("FusedActivationFunction") in ("RELU", "RELU6"))


@lowers("adaptive_avg_pool2d.default", "adaptive_avg_pool1d.default")
def adaptive_pool(lowering: Lowering, node: fx.Node) -> Value:
    """The mean of equal windows; of one window, of all places."""
    value, shape = lowering.padded(lowering.value(args(node)[0])), shape_of(node)
    value = Value(lowering.channels_last(value), value.shape, last=True)
    if set(shape[2:]) == {1}:
        return reduced(lowering, node, "MEAN", value, list(range(2, len(shape))), shape)
    if any(size % parts for size, parts in zip(value.shape[2:], shape[2:], strict=True)):
        raise TrialError(f"TFLite files have no operator for adaptive pooling of {value.shape[2:]} to {shape[2:]}")
    sizes = (1, *shape[2:])[-2:]
    kernel = [whole // parts for whole, parts in zip(value.tensor.shape[1:3], sizes, strict=True)]
    output = lowering.emit("AVERAGE_POOL_2D", [value.tensor], (shape[0], *sizes, shape[1]), node, Padding="VALID",
                           StrideH=kernel[0], StrideW=kernel[1], FilterHeight=kernel[0], FilterWidth=kernel[1],
                           FusedActivationFunction=NONE)
    return Value(output, shape, last=True)
