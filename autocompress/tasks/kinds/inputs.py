"""What a network reads of a source's samples, in the form that it takes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.errors import InputError
from autocompress.tasks.input_forms import evaluating
from autocompress.tasks.sources.base import Source
from autocompress.tasks.splits import PIXELS, READINGS, TOKENS
from autocompress.tensors.named import NamedTensors

log = logging.getLogger(__name__)

Form = Callable[[Tensor], Tensor]


def as_it_is(inputs: Tensor) -> Tensor:
    """Inputs `(N, …)` unchanged."""
    return inputs


def as_numbers(inputs: Tensor) -> Tensor:
    """Whole numbers as float32."""
    return inputs.float()


def with_channel(inputs: Tensor) -> Tensor:
    """Inputs `(N, …)` as `(N, 1, …)`, float32."""
    return inputs[:, None].float()


def channels_first(inputs: Tensor) -> Tensor:
    """Sequences `(N, length, channels)` as `(N, channels, length)`."""
    return inputs.transpose(1, 2)


def grey(inputs: Tensor) -> Tensor:
    """Pictures `(N, 3, H, W)` as `(N, 1, H, W)`: the mean of the channels."""
    return inputs.mean(1, keepdim=True)


def one_channel(mean: Sequence[float], std: Sequence[float]
                ) -> tuple[tuple[float], tuple[float], list[float]]:
    """Mean, standard deviation and weights `(3,)`, which add up to 1, by which three channels become what `grey` makes
    of them normalised: their weighted sum, normalised."""
    means, stds = ([*values] * 3 if len(values) == 1 else [*values] for values in (mean, std))
    whole = 3 / sum(1 / each for each in stds)
    weights = [whole / (3 * each) for each in stds]
    return (sum(weight * each for weight, each in zip(weights, means, strict=True)),), (whole,), weights


# Each form in the order in which it is tried, with what is said of it.
FORMS: tuple[tuple[Form, str], ...] = (
    (as_it_is, ""), (as_numbers, "whole numbers are fed as float32"), (with_channel, "inputs were given one channel"),
    (channels_first, "inputs (length, channels) were turned to (channels, length)"),
    (grey, "the network takes one channel: the mean of three was taken"))


@dataclass(frozen=True)
class InputReader:
    """Makes what a network reads of stored samples. Bytes of pictures are divided by 255; they, and the one tensor of a
    network with one input, are normalised. Tokens stay as they are.

    Args:
        names: of the inputs in a batch.
        alone: whether they are one tensor, for the first argument of `forward`.
        mean, std: one value for each channel, the second axis, or one for all.
        form: what is made of the one tensor.
        reading: what the numbers of the one tensor are, one of `splits.READINGS`; None: bytes of pictures are pixels,
            and the network decides between the others.
    """

    names: tuple[str, ...]
    alone: bool
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    form: Form = as_it_is
    reading: str | None = None

    def stored(self, batch: Mapping[str, Tensor]) -> Any:
        """The inputs of a batch as they are stored: a tensor `(N, …)`, or tensors by name."""
        return batch[self.names[0]] if self.alone else {name: batch[name] for name in self.names}

    def read(self, stored: Any) -> Any:
        """Stored inputs as the network reads them."""
        if isinstance(stored, Tensor):
            return self.form(stored.long() if self.reading == TOKENS else
                             self._normalised(stored, self.are_pixels(stored)))
        return NamedTensors({name: self._normalised(tensor, True) if is_picture(tensor) else tensor
                             for name, tensor in stored.items()})

    def are_pixels(self, stored: Tensor) -> bool:
        """Whether the one tensor is divided by 255."""
        return is_picture(stored) if self.reading is None else self.reading == PIXELS

    @property
    def is_plain(self) -> bool:
        """Whether nothing is subtracted and nothing divided by but the 255 of pictures."""
        return set(self.mean) == {0.0} and set(self.std) == {1.0}

    def _normalised(self, stored: Tensor, pixels: bool) -> Tensor:
        """Numbers as they are where nothing is to be done to them, else in float32."""
        if not pixels and self.is_plain and self.reading is None:
            return stored
        if {len(self.mean), len(self.std)} - {1, stored.shape[1]}:
            raise InputError(f"mean and std must hold 1 or {stored.shape[1]} values, one a channel of {self.names[0]}, "
                             f"but are {self.mean} and {self.std}")
        shape = (1, -1) + (1,) * (stored.dim() - 2)
        mean, std = (torch.tensor(values, device=stored.device).view(shape) for values in (self.mean, self.std))
        return ((stored.float() / 255 if pixels else stored.float()) - mean) / std


def is_picture(stored: Tensor) -> bool:
    """Whether a batch `(N, …)` is of bytes of pictures."""
    return stored.dtype == torch.uint8 and stored.dim() >= 4


def input_reader(source: Source, arguments: Mapping[str, bool], model: nn.Module,
                 batch: Mapping[str, Tensor], reading: str | None = None) -> InputReader:
    """How a network reads the samples of a source: as they are where that runs, else in the first other form that does.

    Args:
        source: the samples.
        arguments: of `forward`.
        model: the network, in eval mode.
        batch: two samples.
        reading: what the user says that the numbers of the one input are.

    Raises:
        InputError: where mean, std or reading do not fit the samples.
    """
    if reading not in (None, *READINGS):
        raise InputError(f"inputs must be one of {', '.join(READINGS)}, but got {reading!r}")
    first = next(iter(arguments), None)
    alone = len(source.inputs) == 1 and (source.inputs[0] not in arguments or source.inputs[0] == first)
    if reading is not None and not alone:
        raise InputError(f"inputs says what the numbers of one input are, but the network reads "
                         f"{', '.join(source.inputs)}: leave it out")
    plain = InputReader(source.inputs, alone, source.mean, source.std, reading=reading)
    plain.read(plain.stored(batch))  # says where mean and std do not fit
    for form, said in FORMS if alone else ():
        reader = replace(plain, form=form)
        if _runs(model, reader, batch):
            if said:
                log.info("%s: %s", source.name, said)
            return reader
    return plain


def _runs(model: nn.Module, reader: InputReader, batch: Mapping[str, Tensor]) -> bool:
    with torch.no_grad(), evaluating(model):
        try:
            model(reader.read(reader.stored(batch)))
        except Exception:  # the user's code: anything can come
            return False
    return True
