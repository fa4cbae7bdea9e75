"""A Core ML program read back and computed in torch: its operators as Apple's documentation defines them.

This checks what a file holds, on any machine; it is not Core ML, whose predictions run on macOS alone.
Source: apple.github.io/coremltools, MIL operators.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from autocompress.core.quiet import silent
from autocompress.errors import TrialError, cause_of, reason_of
from autocompress.formats import base
from autocompress.formats.base import Arrays
from autocompress.formats.coreml.conversion import LOGGERS
from autocompress.formats.coreml.package import unpacked

Arguments = Mapping[str, Any]


def _pads(args: Arguments, axes: int) -> list[int]:
    """Pads of a window by `functional.pad`: the last axis first."""
    kind = args.get("pad_type", "valid")
    if kind not in ("valid", "custom"):
        raise TrialError(f"Core ML programs are read back with pads by number, but one has {kind}")
    pads = [int(pad) for pad in args["pad"]] if kind == "custom" else [0] * 2 * axes
    return [pads[2 * axis + side] for axis in reversed(range(axes)) for side in (0, 1)]


def _ints(values: Any) -> list[int]:
    return [int(value) for value in np.asarray(values).reshape(-1)]


def _conv(args: Arguments) -> Tensor:
    weight, x = args["weight"], args["x"]
    axes = weight.dim() - 2
    function = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[axes]
    result: Tensor = function(functional.pad(x, _pads(args, axes)), weight, args.get("bias"),
                              stride=_ints(args.get("strides", [1] * axes)),
                              dilation=_ints(args.get("dilations", [1] * axes)), groups=int(args.get("groups", 1)))
    return result


def _max_pool(args: Arguments) -> Tensor:
    kernel = _ints(args["kernel_sizes"])
    function = functional.max_pool1d if len(kernel) == 1 else functional.max_pool2d
    return function(functional.pad(args["x"], _pads(args, len(kernel)), value=-torch.inf), kernel,
                    _ints(args.get("strides", kernel)))


def _avg_pool(args: Arguments) -> Tensor:
    kernel = _ints(args["kernel_sizes"])
    pads = _pads(args, len(kernel))
    if args.get("exclude_padding_from_average", False) and any(pads):
        raise TrialError("Core ML programs are read back with averages over pads, but one leaves them out")
    function = functional.avg_pool1d if len(kernel) == 1 else functional.avg_pool2d
    result: Tensor = function(functional.pad(args["x"], pads), kernel, _ints(args.get("strides", kernel)))
    return result


def _scaled(values: Any, like: Tensor, axis: Any) -> Tensor:
    """A scale or zero point, one or by axis, in a shape that goes with a tensor."""
    tensor = torch.as_tensor(np.asarray(values)).float()
    if tensor.dim() == 0 or tensor.numel() == 1:
        return tensor.reshape([1] * like.dim())
    return tensor.reshape([-1 if place == int(axis) % like.dim() else 1 for place in range(like.dim())])


def _dequantized(args: Arguments) -> Tensor:
    codes, axis = args["quantized_data"].float(), args["axis"]
    result: Tensor = (codes - _scaled(args["zero_point"], codes, axis)) * _scaled(args["scale"], codes, axis)
    return result


def _layer_norm(args: Arguments) -> Tensor:
    x, axes = args["x"], [int(axis) % args["x"].dim() for axis in args["axes"]]
    return functional.layer_norm(x, [x.shape[axis] for axis in axes], args.get("gamma"), args.get("beta"),
                                 float(args.get("epsilon", 1e-5)))


def _matmul(args: Arguments) -> Tensor:
    x, y = args["x"], args["y"]
    x = x.mT if args.get("transpose_x", False) else x
    return torch.matmul(x, y.mT if args.get("transpose_y", False) else y)


def _shaped(args: Arguments) -> Tensor:
    result: Tensor = args["x"].reshape(_ints(args["shape"]))
    return result


def _padded(args: Arguments) -> Tensor:
    """The last axes between constants; pairs of counts stand in the order of the axes."""
    if (mode := args.get("mode", "constant")) != "constant":
        raise TrialError(f"Core ML programs are read back with constants around a tensor, but one has {mode}")
    pairs = np.asarray(args["pad"]).reshape(-1, 2)[::-1]
    return functional.pad(args["x"], _ints(pairs), value=float(args.get("constant_val", 0)))


def _sliced(args: Arguments) -> Tensor:
    begins, ends = _ints(args["begin"]), _ints(args["end"])
    steps, none = _ints(args.get("stride", [1] * len(begins))), [False] * len(begins)
    from_first, to_last, one = (args.get(name, none) for name in ("begin_mask", "end_mask", "squeeze_mask"))
    places = [begin if one[axis] else slice(None if from_first[axis] else begin, None if to_last[axis] else end, step)
              for axis, (begin, end, step) in enumerate(zip(begins, ends, steps, strict=True))]
    result: Tensor = args["x"][tuple(places)]
    return result


def _split(args: Arguments) -> tuple[Tensor, ...]:
    axis, sizes = int(args["axis"]), args.get("split_sizes")
    parts = args["x"].chunk(int(args["num_splits"]), axis) if sizes is None else args["x"].split(_ints(sizes), axis)
    return tuple(parts)


# How operators are computed, by type; several results in the order of the outputs.
RULES: dict[str, Callable[[Arguments], Tensor | tuple[Tensor, ...]]] = {
    "conv": _conv, "linear": lambda args: functional.linear(args["x"], args["weight"], args.get("bias")),
    "matmul": _matmul, "max_pool": _max_pool, "avg_pool": _avg_pool, "layer_norm": _layer_norm, "reshape": _shaped,
    "pad": _padded, "slice_by_index": _sliced, "split": _split,
    "constexpr_affine_dequantize": _dequantized,
    "relu": lambda args: functional.relu(args["x"]), "relu6": lambda args: functional.relu6(args["x"]),
    "sigmoid": lambda args: torch.sigmoid(args["x"]), "tanh": lambda args: torch.tanh(args["x"]),
    "silu": lambda args: functional.silu(args["x"]), "identity": lambda args: args["x"],
    "gelu": lambda args: functional.gelu(args["x"], approximate="none" if args.get("mode", "EXACT") == "EXACT"
                                         else "tanh"),
    "softmax": lambda args: torch.softmax(args["x"], int(args["axis"])),
    "clip": lambda args: torch.clamp(args["x"], float(args["alpha"]), float(args["beta"])),
    "add": lambda args: args["x"] + args["y"], "sub": lambda args: args["x"] - args["y"],
    "mul": lambda args: args["x"] * args["y"], "real_div": lambda args: args["x"] / args["y"],
    "reduce_mean": lambda args: args["x"].mean(_ints(args["axes"]), keepdim=bool(args["keep_dims"])),
    "transpose": lambda args: args["x"].permute(_ints(args["perm"])),
    "expand_dims": lambda args: args["x"].reshape(_expanded(args)),
    "squeeze": lambda args: torch.squeeze(args["x"], tuple(_ints(args["axes"]))),
    "concat": lambda args: torch.cat(args["values"], int(args["axis"])),
}


def _expanded(args: Arguments) -> list[int]:
    shape, axes = list(args["x"].shape), _ints(args["axes"])
    for axis in sorted(axis % (len(shape) + len(axes)) for axis in axes):
        shape.insert(axis, 1)
    return shape


class ReadBack(base.Runtime):
    """A Core ML program of one sample, computed in torch.

    Args:
        data: the archive of a package.
        threads: CPU threads of a run.

    Raises:
        TrialError: when the bytes are no package, or its program has an operator that is not read back.
    """

    def __init__(self, data: bytes, threads: int = 1) -> None:
        spec, weights = unpacked(data)
        self._threads = threads
        try:
            with silent(*LOGGERS), tempfile.TemporaryDirectory() as folder:
                from coremltools.converters.mil.frontend.milproto.load import load
                from coremltools.proto import Model_pb2

                (Path(folder) / "weight.bin").write_bytes(weights)
                model = Model_pb2.Model()
                model.ParseFromString(spec)
                self._function = load(model, model.specificationVersion, folder).functions["main"]
            self._operations = [operation for operation in self._function.operations if operation.op_type != "const"]
        except Exception as error:  # its reader raises many kinds
            raise TrialError(f"coremltools cannot read the file: {reason_of(error)}") from error
        if strange := sorted({operation.op_type for operation in self._operations} - {*RULES}):
            raise TrialError(f"Core ML programs are read back with common operators, but one has {strange[0]}")
        self._constants: dict[str, Tensor] = {}

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Outputs by name.

        Raises:
            TrialError: when the program cannot be computed.
        """
        before, rows = torch.get_num_threads(), len(next(iter(inputs.values()), ()))
        try:
            torch.set_num_threads(self._threads)
            with torch.no_grad():
                every = [self._sample({name: values[row:row + 1] for name, values in inputs.items()})
                         for row in range(rows)]
        except Exception as error:  # torch raises many kinds
            raise TrialError(f"the Core ML program fails on {rows} inputs: {cause_of(error)}") from error
        finally:
            torch.set_num_threads(before)
        return {name: np.concatenate([one[name] for one in every]) for name in every[0]}

    def _sample(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Outputs for one sample."""
        values = dict(self._constants)
        values |= {name: torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in self._function.inputs}
        for operation in self._operations:
            name = operation.outputs[0].name
            if name in values:
                continue
            arguments = {key: _value(of, values) for key, of in operation.inputs.items() if of is not None}
            result = RULES[operation.op_type](arguments)
            results = result if isinstance(result, tuple) else (result,)
            values |= {output.name: tensor for output, tensor in zip(operation.outputs, results, strict=True)}
            if operation.op_type.startswith("constexpr"):
                self._constants[name] = values[name]
        return {output.name: values[output.name].numpy() for output in self._function.outputs}


def _value(of: Any, values: Mapping[str, Tensor]) -> Any:
    """What an operator reads: tensors, and constants as tensors where they are floats."""
    if isinstance(of, list | tuple):
        return [_value(one, values) for one in of]
    if of.name in values:
        return values[of.name]
    constant = of.val
    if isinstance(constant, np.ndarray) and (constant.dtype.kind == "f" or constant.dtype == np.int8):
        return torch.from_numpy(np.ascontiguousarray(constant))
    return float(constant) if isinstance(constant, np.floating) else constant
