"""From torch's operators to TFLite's: the values that have been lowered, and in which order they lie in memory.

TFLite computes images with their channels last, torch with their channels second. A value keeps the order in which it
was computed, and is transposed only where an operator asks for the other; sizes of one axis that are one are free.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import fx

from autocompress.errors import TrialError
from autocompress.formats.tflite.graph import Arrange, Graph, Operation, Tensor
from autocompress.formats.tflite.trace import Traced

# Operations that can apply an activation to what they compute.
FUSING = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "SUB", "MUL", "DIV")
NONE = "NONE"


@dataclass(eq=False)
class Value:
    """What a torch node computes: the tensor that holds it, and how.

    `shape`: its shape in torch. `last`: whether the channels are last; a value of three axes has a height of one then.
    `pads`: zeros that torch puts around it, `(left, right, top, bottom)`, which its reader has to add; such a value has
    its channels last. `columns`: of a
    matrix made by flattening a value with its channels last, the shape `(C, H, W)` that torch flattens.
    """

    tensor: Tensor
    shape: tuple[int, ...]
    last: bool = False
    pads: tuple[int, int, int, int] | None = None
    columns: tuple[int, int, int] | None = None


Operand = Value | np.ndarray | float | int
# Lowers one node: computes its value.
Rule = Callable[["Lowering", fx.Node], Any]
Rules = dict[str, Rule]


def registrar(rules: Rules) -> Callable[..., Callable[[Rule], Rule]]:
    """Return a decorator that puts a rule into `rules` for operators of torch, by name, such as `relu.default`."""
    def lowers(*names: str) -> Callable[[Rule], Rule]:
        def register(rule: Rule) -> Rule:
            rules.update(dict.fromkeys(names, rule))
            return rule

        return register

    return lowers


class Lowering:
    """Lowers a traced network by `rules`. `graph` is the result.

    Raises:
        TrialError: for an operation that has no rule, by its name.
    """

    def __init__(self, traced: Traced, rules: Mapping[str, Rule]) -> None:
        self.traced, self.graph, self._rules = traced, Graph(), rules
        self.values: dict[str, Any] = {}
        self._constants: dict[Any, Tensor] = {}
        self._plain: dict[int, Tensor] = {}
        self._last: dict[int, Tensor] = {}
        for node in traced.nodes:
            self._lower(node)

    # -- reading ---------------------------------------------------------------------------------------------------

    def arg(self, node: fx.Node, index: int, name: str = "", default: Any = None) -> Any:
        """An argument of a node, as it is."""
        return args(node)[index] if index < len(node.args) else node.kwargs.get(name, default)

    def value(self, argument: Any) -> Value:
        """The value of an argument that must be computed or constant."""
        value = self.operand(argument)
        if isinstance(value, Value):
            return value
        array = np.asarray(value, np.float32)
        return Value(self.constant(array), array.shape)

    def operand(self, argument: Any) -> Operand:
        """The value of an argument, the array of a constant one, or a number."""
        if isinstance(argument, fx.Node):
            operand: Operand = self.values[argument.name]
            return operand
        return float(argument)

    def layer_of(self, argument: Any) -> str:
        """The module that owns a weight, empty for what is no parameter."""
        key = self.traced.keys.get(argument.name, "") if isinstance(argument, fx.Node) else ""
        return key.removesuffix(".weight") if key.endswith(".weight") else ""

    # -- making ----------------------------------------------------------------------------------------------------

    def constant(self, data: np.ndarray) -> Tensor:
        """A constant tensor, stored once."""
        key = data.dtype.str, data.shape, data.tobytes()
        if key not in self._constants:
            self._constants[key] = Tensor(data.shape, str(data.dtype), data)
        return self._constants[key]

    def integers(self, values: Sequence[int]) -> Tensor:
        """A constant vector of int32."""
        return self.constant(np.array(values, np.int32))

    def weight(self, argument: fx.Node, arrange: Arrange, axis: int = 0) -> Tensor:
        """The weight of a layer in TFLite's order, with output channels along `axis`."""
        data = arrange(self.traced.constants[argument.name])
        key = argument.name, data.shape
        if key not in self._constants:
            self._constants[key] = Tensor(data.shape, "float32", data, layer=self.layer_of(argument), arrange=arrange,
                                          axis=axis)
        return self._constants[key]

    def emit(self, kind: str, inputs: Sequence[Tensor | None], shape: Sequence[int], node: fx.Node | None = None,
             layer: str = "", bounds: tuple[float, float] | None = None, **options: Any) -> Tensor:
        """Append an operation and return its output. `node`: the torch node whose value that is."""
        output = Tensor(tuple(shape), node="" if node is None else node.name, bounds=bounds)
        self.graph.operations.append(Operation(kind, list(inputs), [output], options, layer))
        return output

    def reshaped(self, tensor: Tensor, shape: Sequence[int], node: fx.Node | None = None) -> Tensor:
        """The same values in the same order, in another shape."""
        if tensor.shape == tuple(shape):
            return tensor
        return self.emit("RESHAPE", [tensor, self.integers(shape)], shape, node)

    def transposed(self, tensor: Tensor, order: Sequence[int], node: fx.Node | None = None) -> Tensor:
        """The axes in another order; a reshape where only axes of size one move."""
        shape = tuple(tensor.shape[axis] for axis in order)
        if [axis for axis in order if tensor.shape[axis] > 1] == sorted(
                axis for axis in order if tensor.shape[axis] > 1):
            return self.reshaped(tensor, shape, node)
        return self.emit("TRANSPOSE", [tensor, self.integers(order)], shape, node)

    # -- order -----------------------------------------------------------------------------------------------------

    def plain(self, value: Value) -> Tensor:
        """The tensor of a value in torch's order and shape, padded."""
        if value.pads is not None:
            return self.plain(self.padded(value))
        if value.columns is not None:
            return self._from_columns(value)
        if not value.last:
            return value.tensor
        if id(value.tensor) not in self._plain:
            second = self.transposed(value.tensor, (0, 3, 1, 2))
            self._plain[id(value.tensor)] = self._measured(self.reshaped(second, value.shape), value)
        return self._plain[id(value.tensor)]

    def channels_last(self, value: Value) -> Tensor:
        """The tensor of a value of three or four axes with its channels last, `(N, H, W, C)`; pads are left out."""
        if value.last:
            return value.tensor
        if id(value.tensor) not in self._last:
            batch, channels, *sizes = value.shape
            height, width = (1, *sizes)[-2:]
            whole = self.reshaped(value.tensor, (batch, channels, height, width))
            self._last[id(value.tensor)] = self._measured(self.transposed(whole, (0, 2, 3, 1)), value)
        return self._last[id(value.tensor)]

    def padded(self, value: Value, lowest: bool = False) -> Value:
        """A value with its pads added by an operation of their own: zeros, or what no maximum takes."""
        if value.pads is None:
            return value
        left, right, top, bottom = value.pads
        tensor = self.channels_last(value)
        pads = self.constant(np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32))
        batch, height, width, channels = tensor.shape
        shape = batch, height + top + bottom, width + left + right, channels
        kind, fill = "PAD", []
        if lowest:
            kind, fill = "PADV2", [Tensor((1,), "float32", np.full(1, np.finfo(np.float32).min))]
        output = self._measured(self.emit(kind, [tensor, pads, *fill], shape), value)
        sizes = shape[1:3] if len(value.shape) == 4 else shape[2:3]
        return Value(output, (batch, channels, *sizes), last=True)

    def _from_columns(self, value: Value) -> Tensor:
        """The matrix that torch flattens, where only one with channels last is there."""
        assert value.columns is not None
        channels, height, width = value.columns
        whole = self.reshaped(value.tensor, (value.shape[0], height, width, channels))
        return self.reshaped(self.transposed(whole, (0, 3, 1, 2)), value.shape)

    @staticmethod
    def _measured(tensor: Tensor, value: Value) -> Tensor:
        """A copy of a value has its range."""
        tensor.node, tensor.bounds = value.tensor.node, value.tensor.bounds
        return tensor

    def activated(self, value: Value, function: str, node: fx.Node) -> Value | None:
        """The value behind an activation that the operation before it applies as well; None where it cannot."""
        operation = self.graph.operations[-1] if self.graph.operations else None
        if operation is None or operation.outputs[0] is not value.tensor or operation.kind not in FUSING \
                or operation.options.get("FusedActivationFunction", NONE) != NONE or value.pads is not None \
                or value.tensor.node != args(node)[0].name or len(args(node)[0].users) > 1:
            return None
        operation.options["FusedActivationFunction"] = function
        value.tensor.node = node.name
        return Value(value.tensor, value.shape, value.last)

    # -- nodes -----------------------------------------------------------------------------------------------------

    def _lower(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self.values[node.name] = self.traced.constants[node.name] if node.name in self.traced.constants \
                else self._input(node)
        elif node.op == "output":
            for name, argument in zip(self.traced.outputs, args(node)[0], strict=True):
                tensor = self.plain(self.value(argument))
                if tensor.name or tensor.data is not None:  # one output twice, an input, or what is not computed
                    raise TrialError(f"its output {name} must be computed from its inputs, and put out once")
                tensor.name = name
                self.graph.outputs[name] = tensor
        elif node.op == "call_function":
            name = str(node.target).removeprefix("aten.")
            if not any(isinstance(self.values[argument.name], Value | list) for argument in node.all_input_nodes):
                self.values[node.name] = self._computed(node)
                return
            if name not in self._rules:
                raise TrialError(f"TFLite files have no operator for {name}{_place(node)}")
            self.values[node.name] = self._rules[name](self, node)
        else:
            raise TrialError(f"TFLite files cannot hold {node.op} {node.target}{_place(node)}")

    def _computed(self, node: fx.Node) -> Any:
        """What a node makes of constants alone, computed here."""
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda of: torch.as_tensor(self.values[of.name]))
        with torch.no_grad():
            result = node.target(*args, **kwargs)  # type: ignore[operator]
        return np.ascontiguousarray(result.numpy()) if isinstance(result, torch.Tensor) else result

    def _input(self, node: fx.Node) -> Value:
        """An input of the file: an image, whose readers want channels last, comes so."""
        name, shape = self.traced.inputs[node.name], tuple(node.meta["val"].shape)
        whole = not node.meta["val"].is_floating_point()
        last = len(shape) == 4 and _meets_images(node)
        if last:
            shape_in_file = (shape[0], *shape[2:], shape[1])
            if shape[1] > 1 and prod(shape[2:]) > 1:
                self.graph.channels_last.add(name)
        tensor = Tensor(shape_in_file if last else shape, "int32" if whole else "float32", node=node.name, name=name)
        self.graph.inputs[name] = tensor
        return Value(tensor, shape, last)


def _meets_images(node: fx.Node) -> bool:
    """Whether a convolution or pooling reads a node, pads and what keeps the order in between."""
    images = ("conv2d", "max_pool2d", "avg_pool2d", "batch_norm", "adaptive_avg_pool2d")
    between = ("pad", "constant_pad_nd", "mul", "add", "sub", "div", "relu")
    for user in node.users:
        name = str(user.target).removeprefix("aten.").partition(".")[0]
        if name in images or (name in between and _meets_images(user)):
            return True
    return False


def _place(node: fx.Node) -> str:
    """The line of the network's code that a node comes from."""
    trace = str(node.meta.get("stack_trace") or "").strip().splitlines()
    files = [line.strip() for line in trace if line.strip().startswith("File ") and "-packages" not in line]
    return f", at {files[-1]}" if files else ""


def args(node: fx.Node) -> tuple[Any, ...]:
    """Positional arguments of a node; torch types them too widely."""
    return node.args


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """The shape of what a node computes."""
    return tuple(int(size) for size in node.meta["val"].shape)
