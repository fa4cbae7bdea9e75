"""Rules for operators that compute value by value, or move values."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import fx

from autocompress.errors import TrialError
from autocompress.formats.tflite.graph import Tensor
from autocompress.formats.tflite.lowering import NONE, Lowering, Operand, Rules, Value, args, registrar, shape_of

RULES: Rules = {}
lowers = registrar(RULES)
# TFLite operators of one input that compute value by value.
SIMPLE = {"sigmoid.default": "LOGISTIC", "tanh.default": "TANH", "hardswish.default": "HARD_SWISH",
          "hardswish_.default": "HARD_SWISH", "exp.default": "EXP", "sqrt.default": "SQRT", "rsqrt.default": "RSQRT",
          "abs.default": "ABS", "neg.default": "NEG", "log.default": "LOG", "sigmoid_.default": "LOGISTIC",
          "square.default": "SQUARE", "elu.default": "ELU"}
BINARY = {"add.Tensor": "ADD", "add_.Tensor": "ADD", "sub.Tensor": "SUB", "sub_.Tensor": "SUB", "mul.Tensor": "MUL",
          "mul_.Tensor": "MUL", "div.Tensor": "DIV", "div_.Tensor": "DIV", "maximum.default": "MAXIMUM",
          "minimum.default": "MINIMUM"}


@lowers("dropout.default", "dropout_.default", "feature_dropout.default", "contiguous.default", "clone.default",
        "detach.default", "alias.default", "detach_.default", "lift_fresh_copy.default")
def same(lowering: Lowering, node: fx.Node) -> Any:
    """What changes nothing in eval mode."""
    return lowering.values[args(node)[0].name]


@lowers("relu.default", "relu_.default", "relu6.default", "relu6_.default", "hardtanh.default", "hardtanh_.default",
        "clamp.default", "clamp_.default", "clamp_min.default")
def clipped(lowering: Lowering, node: fx.Node) -> Value:
    """ReLU and its relatives: inside the operation before where it can apply one."""
    kind = str(node.target).removeprefix("aten.").partition(".")[0].rstrip("_")
    low, high = {"relu": (0.0, None), "relu6": (0.0, 6.0)}.get(kind) or (
        lowering.arg(node, 1, "min_val" if kind == "hardtanh" else "min", -1.0 if kind == "hardtanh" else None),
        lowering.arg(node, 2, "max_val" if kind == "hardtanh" else "max", 1.0 if kind == "hardtanh" else None))
    names: dict[Any, str] = {(0, None): "RELU", (0, 6): "RELU6", (-1, 1): "RELU_N1_TO_1"}
    function = names.get((low, high))
    value = lowering.value(args(node)[0])
    if function:
        return lowering.activated(value, function, node) or _each(lowering, node, function, value)
    for bound, operator in ((low, "MAXIMUM"), (high, "MINIMUM")):
        if bound is not None:
            value = _joined(lowering, node, operator, value, float(bound))
    return value


@lowers(*SIMPLE)
def simple(lowering: Lowering, node: fx.Node) -> Value:
    """One input, value by value."""
    return _each(lowering, node, SIMPLE[str(node.target).removeprefix("aten.")], lowering.value(args(node)[0]))


@lowers("leaky_relu.default", "leaky_relu_.default")
def leaky(lowering: Lowering, node: fx.Node) -> Value:
    """Leaky ReLU with its slope."""
    return _each(lowering, node, "LEAKY_RELU", lowering.value(args(node)[0]),
                 Alpha=float(lowering.arg(node, 1, "negative_slope", 0.01)))


@lowers("gelu.default")
def gelu(lowering: Lowering, node: fx.Node) -> Value:
    """GELU, exact or by tanh."""
    return _each(lowering, node, "GELU", lowering.value(args(node)[0]),
                 Approximate=lowering.arg(node, 1, "approximate", "none") == "tanh")


@lowers("silu.default", "silu_.default")
def silu(lowering: Lowering, node: fx.Node) -> Value:
    """x times its logistic."""
    value = lowering.value(args(node)[0])
    return _joined(lowering, node, "MUL", value, _each(lowering, None, "LOGISTIC", value, bounds=(0.0, 1.0)))


@lowers("hardsigmoid.default", "hardsigmoid_.default")
def hardsigmoid(lowering: Lowering, node: fx.Node) -> Value:
    """(x + 3) between 0 and 6, divided by 6."""
    value = _joined(lowering, None, "ADD", lowering.value(args(node)[0]), 3.0, FusedActivationFunction="RELU6")
    value.tensor.bounds = (0.0, 6.0)
    return _joined(lowering, node, "MUL", value, 1 / 6)


@lowers(*BINARY, "rsub.Scalar")
def binary(lowering: Lowering, node: fx.Node) -> Value:
    """Two operands, value by value."""
    name = str(node.target).removeprefix("aten.")
    first, second = (lowering.operand(argument) for argument in args(node)[:2])
    if node.kwargs.get("alpha", 1) != 1 or node.kwargs.get("rounding_mode"):
        raise TrialError(f"TFLite files have no operator for {name} with {dict(node.kwargs)}")
    if name == "rsub.Scalar":
        first, second, name = second, first, "sub.Tensor"
    return _joined(lowering, node, BINARY[name], first, second)


@lowers("pow.Tensor_Scalar")
def power(lowering: Lowering, node: fx.Node) -> Value:
    """Squares."""
    if float(args(node)[1]) != 2.0:
        raise TrialError(f"TFLite files have no operator for a power of {args(node)[1]}")
    value = lowering.value(args(node)[0])
    return _joined(lowering, node, "MUL", value, value)


def _each(lowering: Lowering, node: fx.Node | None, kind: str, value: Value,
          bounds: tuple[float, float] | None = None, **options: Any) -> Value:
    value = lowering.padded(value)
    tensor = lowering.plain(value) if value.columns else value.tensor
    return Value(lowering.emit(kind, [tensor], tensor.shape, node, bounds=bounds, **options), value.shape, value.last)


def _joined(lowering: Lowering, node: fx.Node | None, kind: str, first: Operand, second: Operand,
            **options: Any) -> Value:
    """An operation of two operands in one order: that of the operand whose channels are last, if there is one."""
    operands = [lowering.padded(value) if isinstance(value, Value) else value for value in (first, second)]
    values = [value for value in operands if isinstance(value, Value)]
    shape = np.broadcast_shapes(*(value.shape if isinstance(value, Value) else np.shape(value) for value in operands))
    last = any(value.last for value in values) and all(len(value.shape) == len(shape) for value in values)
    tensors = [_in_order(lowering, operand, last, len(shape)) for operand in operands]
    if kind in ("ADD", "SUB", "MUL", "DIV"):
        options = {"FusedActivationFunction": NONE, **options}
    output = np.broadcast_shapes(*(tensor.shape for tensor in tensors))
    return Value(lowering.emit(kind, tensors, output, node, **options), shape, last)


def _in_order(lowering: Lowering, operand: Operand, last: bool, rank: int) -> Tensor:
    if isinstance(operand, Value):
        return lowering.channels_last(operand) if last else lowering.plain(operand)
    array = np.asarray(operand, np.float32)
    if last and array.ndim:
        array = array.reshape((1,) * (rank - array.ndim) + array.shape)
        if rank == 3:
            array = array[:, :, None]
        array = array.transpose(0, 2, 3, 1)
    return lowering.constant(np.ascontiguousarray(array))


@lowers("flatten.using_ints", "view.default", "reshape.default", "unflatten.int", "squeeze.dim", "squeeze.default",
        "squeeze.dims", "unsqueeze.default", "_unsafe_view.default")
def reshape(lowering: Lowering, node: fx.Node) -> Value:
    """Another shape. A matrix whose rows are samples keeps its channels last: its reader sorts its columns."""
    value, shape = lowering.value(args(node)[0]), shape_of(node)
    if value.last and value.pads is None and len(shape) == 2 and shape[0] == value.tensor.shape[0]:
        _, height, width, channels = value.tensor.shape
        tensor = lowering.reshaped(value.tensor, shape, node)
        free = channels == 1 or height * width == 1
        return Value(tensor, shape, columns=None if free else (channels, height, width))
    return Value(lowering.reshaped(lowering.plain(value), shape, node), shape)


@lowers("permute.default", "transpose.int", "t.default", "numpy_T.default", "mT.default", "movedim.int")
def permute(lowering: Lowering, node: fx.Node) -> Value:
    """Axes in another order. Channels that torch puts last may be there already."""
    value, shape = lowering.value(args(node)[0]), shape_of(node)
    rank, name = len(shape), str(node.target).removeprefix("aten.")
    order = list(range(rank))
    if name == "permute.default":
        order = [int(axis) % rank for axis in args(node)[1]]
    elif name == "movedim.int":
        source, target = (int(axis) % rank for axis in args(node)[1:3])
        order.insert(target, order.pop(source))
    else:
        one, two = (int(axis) % rank for axis in args(node)[1:3]) if name == "transpose.int" else (rank - 2, rank - 1)
        order[one], order[two] = order[two], order[one]
    if value.last and value.pads is None and order == [0, *range(2, rank), 1]:
        return Value(lowering.reshaped(value.tensor, shape, node), shape)
    return Value(lowering.transposed(lowering.plain(value), order, node), shape)


@lowers("cat.default", "concat.default")
def concatenate(lowering: Lowering, node: fx.Node) -> Value:
    """Tensors one behind the other along an axis."""
    values = [lowering.padded(lowering.value(argument)) for argument in args(node)[0]]
    shape = shape_of(node)
    axis = int(lowering.arg(node, 1, "dim", 0)) % len(shape)
    last = any(value.last for value in values)
    tensors = [lowering.channels_last(value) if last else lowering.plain(value) for value in values]
    if last:
        axis = {0: 0, 1: 3}.get(axis, axis - 1 + (len(shape) == 3))
    sizes = list(tensors[0].shape)
    sizes[axis] = sum(tensor.shape[axis] for tensor in tensors)
    return Value(lowering.emit("CONCATENATION", tensors, sizes, node, Axis=axis, FusedActivationFunction=NONE), shape,
                 last)


@lowers("slice.Tensor", "select.int")
def cut(lowering: Lowering, node: fx.Node) -> Value:
    """Part of an axis, or one place of it."""
    value = lowering.value(args(node)[0])
    axis = int(lowering.arg(node, 1, "dim", 0)) % len(value.shape)
    size, single = value.shape[axis], str(node.target) == "aten.select.int"
    begin = int(lowering.arg(node, 2, "start", 0) or 0)
    begin = max(0, begin + size if begin < 0 else begin)
    step = 1 if single else int(lowering.arg(node, 4, "step", 1))
    if (begin, step, shape_of(node)) == (0, 1, value.shape):
        return value
    tensor, place = (lowering.plain(value), axis) if single else _at(lowering, value, axis)
    shape = list(tensor.shape)
    shape[place] = 1 if single else shape_of(node)[axis]
    starts = [begin if i == place else 0 for i in range(len(shape))]
    if step == 1:
        output = lowering.emit("SLICE", [tensor, lowering.integers(starts), lowering.integers(shape)], shape, node)
    else:
        ends = [begin + (shape[place] - 1) * step + 1 if i == place else length
                for i, length in enumerate(tensor.shape)]
        steps = [step if i == place else 1 for i in range(len(shape))]
        output = lowering.emit("STRIDED_SLICE", [tensor, *map(lowering.integers, (starts, ends, steps))], shape, node)
    if single:
        return Value(lowering.reshaped(output, shape_of(node), node), shape_of(node))
    return Value(output, shape_of(node), last=value.last and value.pads is None)


def _at(lowering: Lowering, value: Value, axis: int) -> tuple[Tensor, int]:
    """A value's tensor in the order that it has, and where torch's axis is there."""
    if value.last and value.pads is None:
        return value.tensor, {0: 0, 1: 3}.get(axis, axis - 1 + (len(value.shape) == 3))
    return lowering.plain(value), axis


@lowers("split.Tensor", "chunk.default", "split_with_sizes.default")
def split(lowering: Lowering, node: fx.Node) -> list[Value]:
    """Parts of an axis, each a slice."""
    value = lowering.value(args(node)[0])
    axis, parts, begin = int(lowering.arg(node, 2, "dim", 0)) % len(value.shape), [], 0
    tensor, place = _at(lowering, value, axis)
    for part in node.meta["val"]:
        shape = list(tensor.shape)
        shape[place] = part.shape[axis]
        starts = [begin if i == place else 0 for i in range(len(shape))]
        cut_out = lowering.emit("SLICE", [tensor, lowering.integers(starts), lowering.integers(shape)], shape, node)
        cut_out.node = value.tensor.node  # it has the range of the whole
        parts.append(Value(cut_out, tuple(part.shape), last=value.last and value.pads is None))
        begin += shape[place]
    return parts


@lowers("<built-in function getitem>")
def item(lowering: Lowering, node: fx.Node) -> Any:
    """One of several values."""
    return lowering.values[args(node)[0].name][args(node)[1]]


@lowers("expand.default")
def expand(lowering: Lowering, node: fx.Node) -> Value:
    """Axes of size one repeated."""
    value, shape = lowering.value(args(node)[0]), shape_of(node)
    if value.shape == shape:
        return value
    tensor = lowering.plain(value)
    return Value(lowering.emit("BROADCAST_TO", [tensor, lowering.integers(shape)], shape, node), shape)


@lowers("mean.dim", "sum.dim_IntList", "mean.default")
def reduce(lowering: Lowering, node: fx.Node) -> Value:
    """Mean or sum over axes."""
    value, shape = lowering.padded(lowering.value(args(node)[0])), shape_of(node)
    kind = "SUM" if "sum" in str(node.target) else "MEAN"
    rank = len(value.shape)
    axes = lowering.arg(node, 1, "dim") if str(node.target) != "aten.mean.default" else None
    numbers = sorted(int(axis) % rank for axis in axes or range(rank))
    return reduced(lowering, node, kind, value, numbers, shape)


def reduced(lowering: Lowering, node: fx.Node, kind: str, value: Value, axes: list[int],
            shape: tuple[int, ...]) -> Value:
    """Reduce a value over axes of torch; all places of an image without a transpose."""
    keeps_rank = len(shape) == len(value.shape)
    if value.last and axes == list(range(2, len(value.shape))):
        batch, _, _, channels = value.tensor.shape
        sizes = (batch, 1, 1, channels) if keeps_rank else (batch, channels)
        output = lowering.emit(kind, [value.tensor, lowering.integers((1, 2))], sizes, node, KeepDims=keeps_rank)
        return Value(output, shape, last=keeps_rank)
    tensor = lowering.plain(value)
    return Value(lowering.emit(kind, [tensor, lowering.integers(axes)], shape, node, KeepDims=keeps_rank), shape)


@lowers("softmax.int", "log_softmax.int", "_softmax.default")
def softmax(lowering: Lowering, node: fx.Node) -> Value:
    """Softmax over the last axis."""
    value = lowering.value(args(node)[0])
    if int(args(node)[1]) % len(value.shape) != len(value.shape) - 1:
        raise TrialError(f"TFLite's softmax is over the last axis, but the network's over axis {args(node)[1]}")
    tensor = lowering.plain(value)
    if "log" in str(node.target):
        return Value(lowering.emit("LOG_SOFTMAX", [tensor], tensor.shape, node), value.shape)
    return Value(lowering.emit("SOFTMAX", [tensor], tensor.shape, node, Beta=1.0), value.shape)


@lowers("embedding.default")
def embedding(lowering: Lowering, node: fx.Node) -> Value:
    """Rows of a table, by token."""
    weight = lowering.weight(args(node)[0], lambda rows: rows)
    tokens, shape = lowering.value(args(node)[1]), shape_of(node)
    output = lowering.emit("GATHER", [weight, lowering.plain(tokens)], shape, node, lowering.layer_of(args(node)[0]),
                           Axis=0)
    return Value(output, shape)


@lowers("batch_norm.default")
def batch_norm(lowering: Lowering, node: fx.Node) -> Value:
    """A norm that no layer absorbs: a factor and an offset for each channel."""
    gamma, beta, mean, variance = (None if argument is None else np.asarray(lowering.operand(argument), np.float32)
                                   for argument in args(node)[1:5])
    assert mean is not None and variance is not None
    factor = (1 if gamma is None else gamma) / np.sqrt(variance + np.float32(args(node)[7]))
    offset = (0 if beta is None else beta) - mean * factor
    value = lowering.value(args(node)[0])
    along = (-1, *[1] * (len(value.shape) - 2))
    scaled = _joined(lowering, None, "MUL", value, factor.reshape(along).astype(np.float32))
    return _joined(lowering, node, "ADD", scaled, offset.reshape(along).astype(np.float32))


@lowers("layer_norm.default")
def layer_norm(lowering: Lowering, node: fx.Node) -> Value:
    """Deviation from the mean of the last axes over its root mean square, in float."""
    value = lowering.value(args(node)[0])
    axes = list(range(len(value.shape) - len(args(node)[1]), len(value.shape)))
    plain = Value(lowering.plain(value), value.shape)
    shape = tuple(1 if axis in axes else size for axis, size in enumerate(value.shape))

    def mean(of: Value) -> Value:
        return Value(lowering.emit("MEAN", [of.tensor, lowering.integers(axes)], shape, KeepDims=True), shape)

    centred = _joined(lowering, None, "SUB", plain, mean(plain))
    variance = _joined(lowering, None, "ADD", mean(_joined(lowering, None, "MUL", centred, centred)),
                       float(lowering.arg(node, 4, "eps", 1e-5)))
    result = _joined(lowering, node, "MUL", centred, _each(lowering, None, "RSQRT", variance))
    for kind, argument in (("MUL", lowering.arg(node, 2)), ("ADD", lowering.arg(node, 3))):
        if argument is not None:
            result.tensor.node = ""
            result = _joined(lowering, node, kind, result, lowering.operand(argument))
    return result


@lowers("matmul.default", "bmm.default")
def matmul(lowering: Lowering, node: fx.Node) -> Value:
    """A product of two computed matrices."""
    tensors = [lowering.plain(lowering.value(argument)) for argument in args(node)[:2]]
    if min(len(tensor.shape) for tensor in tensors) < 2:
        raise TrialError("TFLite files have no operator for a product with a vector")
    return Value(lowering.emit("BATCH_MATMUL", tensors, shape_of(node), node, AdjX=False, AdjY=False), shape_of(node))


@lowers("scaled_dot_product_attention.default")
def attention(lowering: Lowering, node: fx.Node) -> Value:
    """Attention without a mask, from its formula."""
    if lowering.arg(node, 3, "attn_mask") is not None or lowering.arg(node, 5, "is_causal", False):
        raise TrialError("TFLite files are written without attention masks")
    query, key, value = (Value(lowering.plain(operand), operand.shape)
                         for operand in map(lowering.value, args(node)[:3]))
    width = query.shape[-1]
    scale = float(lowering.arg(node, 6, "scale") or width**-0.5)
    shape = (*query.shape[:-1], key.shape[-2])
    scores = lowering.emit("BATCH_MATMUL", [query.tensor, key.tensor], shape, AdjX=False, AdjY=True)
    scaled = _joined(lowering, None, "MUL", Value(scores, shape), scale)
    weights = lowering.emit("SOFTMAX", [scaled.tensor], shape, Beta=1.0)
    output = lowering.emit("BATCH_MATMUL", [weights, value.tensor], shape_of(node), node, AdjX=False, AdjY=False)
    return Value(output, shape_of(node))


@lowers("upsample_nearest2d.vec", "upsample_bilinear2d.vec")
def resize(lowering: Lowering, node: fx.Node) -> Value:
    """Images of another size."""
    value, shape = lowering.padded(lowering.value(args(node)[0])), shape_of(node)
    tensor = lowering.channels_last(value)
    bilinear = "bilinear" in str(node.target)
    corners = bool(bilinear and args(node)[2])
    options: dict[str, Any] = {"AlignCorners": corners, "HalfPixelCenters": bilinear and not corners}
    if not bilinear and any(new % old for new, old in zip(shape[2:], value.shape[2:], strict=True)):
        raise TrialError("TFLite's nearest neighbours agree with torch's for whole factors alone")
    output = lowering.emit("RESIZE_BILINEAR" if bilinear else "RESIZE_NEAREST_NEIGHBOR",
                           [tensor, lowering.integers(shape[2:])], (shape[0], *shape[2:], shape[1]), node, **options)
    return Value(output, shape, last=True)

