"""The inputs of a network that has several, by name, and the module that takes them as one value."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

T = TypeVar("T")


class NamedTensors(Mapping[str, Tensor]):
    """Tensors `(N, …)` by name whose rows are the same samples: what a network with several inputs reads.

    As a mapping it gives tensors by name. As a batch it is used like a tensor: its length is the number of samples, an
    index other than a name takes samples, and functions of torch such as `cat`, `split` and `lerp` work tensor by
    tensor.

    Args:
        tensors: Tensors by the name of the argument of `forward` that takes them, in the order of the file's inputs.

    Raises:
        ValueError: where there is none, or they have different numbers of samples.
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
        """As `Tensor.to`."""
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
"""What a network reads: one tensor `(N, …)`, or several by name."""


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
    """`function` of the one tensor, or of each."""
    return function(inputs) if isinstance(inputs, Tensor) else inputs.each(function)


def zeros(inputs: Inputs, samples: int) -> Any:
    """Zeros for so many samples, of the shapes and types of `inputs` `(M, …)`."""
    return each(inputs, lambda tensor: torch.zeros(samples, *tensor.shape[1:], dtype=tensor.dtype))


def uniform(inputs: Inputs, generator: torch.Generator | None = None) -> Any:
    """Values from 0 to 2, or 0 and 1 where whole numbers are read, of the shapes and types of `inputs`."""
    return each(inputs, lambda tensor: (2 * torch.rand(tensor.shape, generator=generator)).to(tensor.dtype))


def values_per_sample(inputs: Inputs) -> int:
    """Values of one sample, over all inputs."""
    return prod(inputs.shape[1:])


def taking_named(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """`model`, whose `forward` takes the tensors `names`, as a module that takes them as one `NamedTensors`.

    The result is an instance of a subclass that shares the layers of `model`, under the same names. It can be copied,
    traced, and pickled where the class of `model` can.
    """
    wrapped = _blank(type(model))
    wrapped.__dict__.update(model.__dict__)
    wrapped.__dict__[_NAMES] = tuple(names)
    return wrapped


_NAMES = "_names_of_inputs"


class _TakesNamed:
    """Marks the subclasses that `taking_named` makes."""

    def __reduce__(self) -> Any:
        return _blank, (type(self).__mro__[2],), self.__dict__


def _blank(kind: type[nn.Module]) -> nn.Module:
    """An empty instance of the subclass of `kind` that takes named tensors."""
    def forward(self: nn.Module, inputs: NamedTensors) -> Any:
        return kind.forward(self, **{name: inputs[name] for name in getattr(self, _NAMES)})

    members = {"forward": forward, "__module__": kind.__module__}
    made: type[nn.Module] = type(kind.__name__, (_TakesNamed, kind), members)
    return made.__new__(made)


def takes_named(model: nn.Module) -> bool:
    """Whether `taking_named` made this module."""
    return isinstance(model, _TakesNamed)
