"""Inputs and outputs of a network that has several, by name, and the module that takes and gives them as one value."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, ItemsView, Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.fx
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autocompress.tensors.names import OUTPUT

T = TypeVar("T")


class NamedTensors(Mapping[str, Tensor]):
    """Tensors `(N, …)` by name whose rows are the same samples: what a network with several inputs reads.

    As a mapping it gives tensors by name. As a batch it is used like a tensor: its length is the number of samples, an
    index other than a name takes samples, and functions of torch such as `cat`, `split` and `lerp` work tensor by
    tensor.

    Args:
        tensors: by the name of the argument of `forward` that takes them, in the order of the file's inputs.
        named: further ones, as keyword arguments.
    """

    def __init__(self, tensors: Mapping[str, Tensor] | None = None, /, **named: Tensor) -> None:
        self._tensors = {**(tensors or {}), **named}

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._tensors)

    def __len__(self) -> int:
        """Number of samples."""
        return len(next(iter(self._tensors.values())))

    def __bool__(self) -> bool:
        """True: asking for the number of samples would fix it where a network is traced."""
        return True

    def __getitem__(self, which: Any) -> Any:
        """The tensor of a name; of any other index, those samples."""
        return self._tensors[which] if isinstance(which, str) else self.each(lambda tensor: tensor[which])

    def each(self, function: Callable[[Tensor], Tensor]) -> NamedTensors:
        """The same names, each with `function` of its tensor."""
        return NamedTensors({name: function(tensor) for name, tensor in self._tensors.items()})

    def items(self) -> ItemsView[str, Tensor]:
        """Names and tensors."""
        return self._tensors.items()

    @property
    def shape(self) -> tuple[int, int]:
        """`(N, values of one sample)`, by which sizes of batches are reckoned."""
        return len(self), self.numel() // max(1, len(self))

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return next(iter(self._tensors.values())).device

    def numel(self) -> int:
        """Number of values."""
        return sum(tensor.numel() for tensor in self._tensors.values())

    def is_floating_point(self) -> bool:
        """Whether all tensors are, so that samples can be mixed."""
        return all(tensor.is_floating_point() for tensor in self._tensors.values())

    def to(self, *args: Any, **kwargs: Any) -> NamedTensors:
        """The same as `Tensor.to` makes of each; `args` and `kwargs` are its arguments."""
        return self.each(lambda tensor: tensor.to(*args, **kwargs))

    def clone(self) -> NamedTensors:
        """As `Tensor.clone`."""
        return self.each(torch.clone)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: tuple[Any, ...] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        """A function of torch of such batches, tensor by tensor."""
        names = next(list(value) for value in _values((args, kwargs or {})))
        results = [function(*_of(args, name), **_of(kwargs or {}, name)) for name in names]
        if isinstance(results[0], Tensor):
            return NamedTensors(dict(zip(names, results, strict=True)))
        return tuple(NamedTensors(dict(zip(names, parts, strict=True))) for parts in zip(*results, strict=True))


if TYPE_CHECKING:
    Inputs = Tensor  # named tensors answer to what callers ask of a batch; those who tell them apart ask `isinstance`
else:
    Inputs = Tensor | NamedTensors
"""What a network reads or puts out: one tensor `(N, …)`, or several by name."""


def _values(value: Any) -> Iterator[NamedTensors]:
    """The batches in the arguments of a function."""
    if isinstance(value, NamedTensors):
        yield value
    elif isinstance(value, dict):
        for entry in value.values():
            yield from _values(entry)
    elif isinstance(value, tuple | list):
        for entry in value:
            yield from _values(entry)


def _of(value: T, name: str) -> T:
    """Arguments of a function with the tensor of that name in the place of each batch."""
    if isinstance(value, NamedTensors):
        tensor: Any = value[name]
        return tensor  # type: ignore[no-any-return]
    if isinstance(value, dict):
        return {key: _of(entry, name) for key, entry in value.items()}  # type: ignore[return-value]
    return type(value)(_of(entry, name) for entry in value) if isinstance(value, tuple | list) \
        else value  # type: ignore[call-arg, return-value]


def _flat(value: NamedTensors) -> tuple[list[Tensor], tuple[str, ...]]:
    tensors = dict(value.items())  # not `tuple(value)`, which asks for the number of samples and so fixes it
    return list(tensors.values()), tuple(tensors)


def _flat_with_keys(value: NamedTensors) -> tuple[list[tuple[Any, Tensor]], tuple[str, ...]]:
    tensors, names = _flat(value)
    return [(pytree.MappingKey(name), tensor) for name, tensor in zip(names, tensors, strict=True)], names


pytree.register_pytree_node(
    NamedTensors, _flat, lambda values, names: NamedTensors(dict(zip(names, values, strict=True))),
    serialized_type_name="autocompress.NamedTensors", flatten_with_keys_fn=_flat_with_keys)


def each(inputs: Inputs, function: Callable[[Tensor], Tensor]) -> Any:
    """What `function` makes of the one tensor of `inputs`, or of each."""
    return function(inputs) if isinstance(inputs, Tensor) else inputs.each(function)


def zeros(inputs: Inputs, samples: int) -> Any:
    """Zeros for a number of `samples`, of the shapes and types of `inputs` `(M, …)`."""
    return each(inputs, lambda tensor: torch.zeros(samples, *tensor.shape[1:], dtype=tensor.dtype))


def uniform(inputs: Inputs, generator: torch.Generator | None = None) -> Any:
    """Random values from 0 to 2, or 0 and 1 where whole numbers are read, of the shapes and types of `inputs`.

    Args:
        inputs: `(N, …)`.
        generator: of random numbers; left out, torch's own.
    """
    return each(inputs, lambda tensor: (2 * torch.rand(tensor.shape, generator=generator)).to(tensor.dtype))


def values_per_sample(inputs: Inputs) -> int:
    """The number of values of one sample, over all `inputs` `(N, …)`."""
    return prod(inputs.shape[1:])


def sample_shapes(inputs: Inputs) -> list[tuple[int, ...]]:
    """Shapes of one sample in each of the tensors of `inputs` `(N, …)`, in their order."""
    return [tuple(tensor.shape[1:]) for tensor in by_name(inputs).values()]


def joined(outputs: Inputs) -> Tensor:
    """The one tensor of `outputs` as it is; several as one, `(N, values)`, each flattened."""
    return outputs if isinstance(outputs, Tensor) else \
        torch.cat([tensor.reshape(len(tensor), -1).float() for _, tensor in outputs.items()], 1)


def the_tensor(outputs: Inputs) -> Tensor:
    """The one tensor among `outputs` of a network, under whatever name. ValueError where there are several."""
    (tensor,) = by_name(outputs).values()
    return tensor


def by_name(tensors: Inputs) -> dict[str, Tensor]:
    """The `tensors` of a batch by name; the one tensor of a network under `OUTPUT`."""
    return {OUTPUT: tensors} if isinstance(tensors, Tensor) else dict(tensors.items())


def from_names(tensors: Mapping[str, Tensor]) -> Any:
    """A batch of `tensors` by name: the reverse of `by_name`."""
    return tensors[OUTPUT] if [*tensors] == [OUTPUT] else NamedTensors(tensors)


def flat_outputs(value: Any, name: str = "") -> dict[str, Tensor]:
    """The tensors in what a network returns, by name.

    Args:
        value: a tensor, or tuples, lists, mappings and dataclasses that hold them, nested. None is left out.
        name: stands before the names inside, with a dot.

    Returns:
        Tensors by key, by field, or as `output_0`, `output_1`, … by position; names of nested ones are joined by dots.

    Raises:
        TypeError: where there is anything else.
    """
    if value is None:
        return {}
    if isinstance(value, Tensor):
        return {name or OUTPUT: value}
    if isinstance(value, Mapping):
        entries = {str(key): entry for key, entry in value.items()}
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        entries = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        entries = dict(zip(value._fields, value, strict=True))
    elif isinstance(value, tuple | list):
        entries = {f"{'' if name else 'output_'}{i}": entry for i, entry in enumerate(value)}
    else:
        raise TypeError(f"{type(value).__name__}{f' under {name}' if name else ''}")
    return {inner: tensor for key, entry in entries.items()
            for inner, tensor in flat_outputs(entry, f"{name}.{key}" if name else key).items()}


@torch.fx.wrap
def named_outputs(value: Any) -> Any:
    """The `value` that a network returns, as `NamedTensors`; a tensor as it is."""
    return value if isinstance(value, Tensor) else NamedTensors(flat_outputs(value))


def with_names(model: nn.Module, inputs: Sequence[str] | None, outputs: bool) -> nn.Module:
    """`model` as a module that takes several inputs, and gives several outputs, as one `NamedTensors`.

    The result is an instance of a subclass that shares the layers of `model`, under the same names. It can be copied,
    traced, and pickled where the class of `model` can.

    Args:
        model: a network whose `forward` takes tensors, or the one tensor.
        inputs: names of the arguments of `forward`; None where it takes one tensor.
        outputs: whether `forward` returns other than one tensor.
    """
    if inputs is None and not outputs:
        return model
    wrapped = _blank(type(model))
    wrapped.__dict__.update(model.__dict__)
    wrapped.__dict__[_NAMES] = None if inputs is None else tuple(inputs)
    return wrapped


_NAMES = "_names_of_inputs"


class _Named:
    """Marks the subclasses that `with_names` makes."""

    def __reduce__(self) -> Any:
        return _blank, (type(self).__mro__[2],), self.__dict__


def _blank(kind: type[nn.Module]) -> nn.Module:
    """An empty instance of the subclass of `kind` that takes and gives named tensors."""
    def forward(self: nn.Module, inputs: Any) -> Any:
        names = getattr(self, _NAMES)
        returned = kind.forward(self, inputs) if names is None else \
            kind.forward(self, **{name: inputs[name] for name in names})
        return named_outputs(returned)

    members = {"forward": forward, "__module__": kind.__module__}
    subclass: type[nn.Module] = type(kind.__name__, (_Named, kind), members)
    return subclass.__new__(subclass)


def has_names(model: nn.Module) -> bool:
    """Whether `with_names` made this `model`."""
    return isinstance(model, _Named)
